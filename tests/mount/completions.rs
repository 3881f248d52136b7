//! Completions in the shells that they are for, and the manual pages. No mount is needed here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::env::program_is_missing;

fn containerfs(args: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_containerfs")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The completions of a shell, under the name that it looks for.
fn script(dir: &Path, shell: &str, name: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, containerfs(&["completions", shell])).unwrap();
    path
}

/// What a program prints; a word on stderr is a failure.
fn printed(program: &str, args: &[&str], dir: &Path) -> String {
    let output = Command::new(program).args(args).env("HOME", dir).env("TERM", "dumb").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{program} {args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bash_completes_commands_with_colons_too() {
    if program_is_missing("bash") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = script(dir.path(), "bash", "containerfs.bash");
    let script = script.to_str().unwrap();
    printed("bash", &["-n", script], dir.path());
    let complete = |line: &str| {
        // As bash calls it: the function that `complete` has for the command.
        let ask = format!(
            "source {script}; COMP_LINE={line:?}; COMP_POINT=${{#COMP_LINE}}; COMP_WORDBREAKS=$' \\t\\n\"\\'><=;|&(:'; \
             f=$(complete -p containerfs | sed 's/.*-F \\([^ ]*\\).*/\\1/'); $f containerfs; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let shown = printed("bash", &["--norc", "-c", &ask], dir.path());
        shown.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("containerfs stat"), ["status"]);
    assert!(complete("containerfs mount --wr").contains(&"--write-back".to_owned()));
    assert!(complete("containerfs containers:files cr").contains(&"create".to_owned()));
    // bash has `containers:` already, and puts the answer behind it.
    assert!(complete("containerfs containers:f").contains(&"files".to_owned()));
    assert!(complete("containerfs containers:files:content retrieve --ou").contains(&"--output".to_owned()));
}

#[test]
fn zsh_loads_the_completions() {
    if program_is_missing("zsh") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = script(dir.path(), "zsh", "_containerfs");
    printed("zsh", &["-f", "-n", script.to_str().unwrap()], dir.path());
    let ask = format!(
        "fpath=({} $fpath); autoload -Uz compinit; compinit -u -D; print $_comps[containerfs]; \
         autoload +X _containerfs; whence -w _containerfs",
        dir.path().display()
    );
    let shown = printed("zsh", &["-f", "-c", &ask], dir.path());
    assert_eq!(shown, "_containerfs\n_containerfs: function\n");
}

#[test]
fn fish_completes() {
    if program_is_missing("fish") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = script(dir.path(), "fish", "containerfs.fish");
    let complete = |line: &str| {
        let ask = format!("source {}; complete --do-complete '{line}'", script.display());
        printed("fish", &["--no-config", "-c", &ask], dir.path())
    };
    assert!(complete("containerfs stat").starts_with("status\t"));
    assert!(complete("containerfs mount --write-b").contains("--write-back-delay\t"));
    assert!(complete("containerfs containers:files cr").starts_with("create\t"));
}

#[test]
fn the_manual_renders_without_a_warning() {
    if program_is_missing("man") || program_is_missing("groff") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    containerfs(&["man", "--output", dir.path().to_str().unwrap()]);
    assert_eq!(fs::read(dir.path().join("containerfs.1")).unwrap(), containerfs(&["man"]));
    let pages: Vec<PathBuf> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let names: Vec<_> = pages.iter().map(|page| page.file_name().unwrap().to_str().unwrap()).collect();
    for name in ["containerfs-mount.1", "containerfs-containers-files-create.1", "containerfs-pending-save.1"]
    {
        assert!(names.contains(&name), "{names:?}");
    }
    for page in &pages {
        let path = page.to_str().unwrap();
        let output = Command::new("man")
            .args(["--warnings", "--encoding=UTF-8", path])
            .env("LC_ALL", "C.UTF-8")
            .env("MANPAGER", "cat")
            .output()
            .unwrap();
        let warnings = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && warnings.is_empty(), "{path}: {warnings}");
        let shown = String::from_utf8_lossy(&output.stdout).replace('\u{8}', "");
        assert!(shown.contains("--log-level") && shown.len() > 1000, "{path}: {shown}");
        // What a page refers to is there.
        for word in fs::read_to_string(page).unwrap().split_whitespace().filter(|word| word.ends_with("(1)"))
        {
            let referred = format!("{}.1", word.trim_end_matches("(1)").replace('\\', ""));
            assert!(names.contains(&referred.as_str()), "{path}: {referred}");
        }
    }
}
