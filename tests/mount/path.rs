//! `containerfs path`: from what is shown to what the model finds, and back.

use std::fs;
use std::path::Path;
use std::process::Output;

use containerfs::emulator::{Fault, Kind};
use serde_json::Value;

use crate::env::{Env, on_both_profiles, on_openai, save};

fn path(env: &Env, args: &[&str], files: &[&Path]) -> Output {
    env.command(&["path"]).args(args).args(files).output().unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn path_prints_where_the_model_finds_each_file() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_model_file(&id, "/mnt/data/out/plot.png", b"p");
        let mount = env.mount(&["--ttl", "1h"]);
        assert_eq!(save(&mount.path("c/data.csv"), b"1,2\n"), Ok(()));
        // Its length is asked for once.
        assert_eq!(fs::metadata(mount.path("c/out/plot.png")).unwrap().len(), 1);
        env.emulator.forget_requests();
        let upload = env.versions(&id, "data.csv")[0].path.clone();
        let (data, plot) = (mount.path("c/data.csv"), mount.path("c/out/plot.png"));
        let by_id = mount.path(&id).join("data.csv");
        let output = path(env, &[], &[&data, &plot, &by_id]);
        assert_eq!(lines(&output), [upload.as_str(), "/mnt/data/out/plot.png", upload.as_str()]);
        assert!(output.status.success());
        let all = path(env, &[], &[&mount.path("c")]);
        assert_eq!(lines(&all), [upload.as_str(), "/mnt/data/out/plot.png"], "a directory is its files");
        let told: Value = serde_json::from_slice(&path(env, &["--json"], &[&data]).stdout).unwrap();
        assert_eq!(told[0]["path"], upload.as_str());
        assert_eq!(told[0]["container_id"], id.as_str());
        assert_eq!(told[0]["id"], env.versions(&id, "data.csv")[0].id.as_str());
        assert_eq!((&told[0]["source"], &told[0]["file"]), (&"user".into(), &data.to_str().unwrap().into()));
        let asked = env.emulator.requests();
        assert!(asked.is_empty(), "what is known is not asked for: {asked:?}");
    });
}

#[test]
fn path_goes_the_other_way() {
    on_both_profiles(|env| {
        let (a, b) = (env.container("a"), env.container("b"));
        env.store().put_upload(&a, "x.csv", b"1");
        env.store().put_model_file(&a, "/mnt/data/report.md", b"a");
        env.store().put_model_file(&b, "/mnt/data/report.md", b"b");
        let upload = env.versions(&a, "x.csv")[0].path.clone();
        let mount = env.mount(&["--ttl", "500ms"]);
        let shown = |args: &[&str], places: &[&Path]| lines(&path(env, args, places));
        let at = |path: &str| mount.path(path).to_str().unwrap().to_owned();
        // Nothing has been listed yet: it is found all the same.
        let place = [mount.dir.as_path()];
        assert_eq!(shown(&["--shown", &upload], &place), [at("a/x.csv")]);
        assert_eq!(
            shown(&["--shown", "/mnt/data/report.md"], &place),
            [at("a/report.md"), at("b/report.md")]
        );
        let in_b = mount.path("b");
        assert_eq!(shown(&["--shown", "sandbox:/mnt/data/report.md"], &[&in_b]), [at("b/report.md")]);
        assert!(shown(&["--shown", &upload], &[]).contains(&at("a/x.csv")), "without a place every mount is");
        env.store().delete_file(&b, &env.versions(&b, "report.md")[0].id);
        crate::env::wait_until("a file that is gone is not told", || {
            path(env, &["--shown", "/mnt/data/report.md"], &[&in_b]).status.code() == Some(1)
        });
        let both = path(env, &["--shown", "/mnt/data/none", "--shown", "/mnt/data/report.md"], &place);
        assert_eq!((lines(&both), both.status.code()), (vec![at("a/report.md")], Some(1)));
        assert!(String::from_utf8_lossy(&both.stderr).contains("/mnt/data/none"));
    });
}

#[test]
fn path_says_why_there_is_none() {
    on_openai(|env| {
        env.container("c");
        let mount = env.mount(&[]);
        env.inject(Kind::Upload, Fault::ResetBefore);
        assert!(save(&mount.path("c/unsent"), b"x").is_err());
        env.emulator.faults().clear();
        assert_eq!(save(&mount.path("c/sent"), b"x"), Ok(()));
        let output =
            path(env, &[], &[&mount.path("c/unsent"), &mount.path("c/sent"), Path::new("/etc/passwd")]);
        assert_eq!((output.status.code(), lines(&output).len()), (Some(1), 1));
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            told.contains("not on the server yet") && told.contains("not in a containerfs mount"),
            "{told}"
        );
        let root = path(env, &[], &[&mount.dir]);
        assert!(String::from_utf8_lossy(&root.stderr).contains("all containers"));
        let json: Value =
            serde_json::from_slice(&path(env, &["--json"], &[&mount.path("c/absent")]).stdout).unwrap();
        assert_eq!(json[0]["error"], "No such file or directory");
        assert_eq!(path(env, &[], &[]).status.code(), Some(2));
        fs::remove_file(mount.path("c/unsent")).unwrap();
    });
}
