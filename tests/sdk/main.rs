//! Other people's programs, unchanged: the official SDKs as clients of the emulator and beside a mount of it,
//! and a gateway between the two.
#![allow(clippy::unwrap_used, missing_docs)]

#[allow(dead_code)]
#[path = "../mount/env.rs"]
mod env;
mod litellm;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use containerfs::emulator::{Config, Profile};

use env::{Env, fuse_is_missing, is_missing};

/// Where `.ci/run` installs the SDKs: `sdk/` beside this build's other products.
fn installed() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("sdk")
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(name)
}

/// What `.ci/run` installed, else what is on the PATH.
fn program(installed: PathBuf, on_the_path: &str) -> PathBuf {
    if installed.exists() { installed } else { on_the_path.into() }
}

fn works(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs a client against each profile, beside a mount.
fn passes(client: impl Fn() -> Command) {
    for profile in [Profile::Openai, Profile::Plain] {
        let mut config = Config::new(profile);
        config.api_key = Some("sk-test".to_owned().into());
        config.admin = true;
        let env = Env::of(config);
        env.store().register_api_file("file-abc123", "attached.txt", b"of the Files API");
        let mount = env.mount(&["--ttl", "50ms"]);
        let output = client()
            .env("OPENAI_BASE_URL", env.emulator.base_url())
            .env("OPENAI_API_KEY", "sk-test")
            .env("MOUNT", &mount.dir)
            .env("PROFILE", profile.to_string())
            .envs(["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"].map(|name| (name, "")))
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "{profile}: {}\n{said}\n{}", output.status, mount.log());
        eprintln!("{profile}: {said}");
        assert_eq!(mount.unmount(&env), (0, 0));
    }
}

#[test]
fn the_python_sdk_passes_unchanged() {
    let python = program(installed().join("venv/bin/python"), "python3");
    let absent = !works(Command::new(&python).args(["-c", "import openai; openai.OpenAI.containers"]));
    if fuse_is_missing() || is_missing("the package openai for Python (pip install openai)", absent) {
        return;
    }
    passes(|| {
        let mut command = Command::new(&python);
        command.arg(script("python.py"));
        command
    });
}

#[test]
fn the_node_sdk_passes_unchanged() {
    let sdk = installed();
    let node = program(sdk.join("venv/bin/node"), "node");
    let load = "require('node:module').createRequire(process.argv[1] + '/any.js')('openai').toFile; File";
    let absent = !works(Command::new(&node).args([OsStr::new("-e"), OsStr::new(load), sdk.as_os_str()]));
    if fuse_is_missing() || is_missing("the package openai for Node 20 (npm install openai)", absent) {
        return;
    }
    passes(|| {
        let mut command = Command::new(&node);
        command.arg(script("node.mjs")).env("SDK", &sdk);
        command
    });
}
