//! Gateways and other makers' servers of this API: the awkward things they do, one by one and all at once.

use std::collections::BTreeMap;
use std::fs;

use containerfs::emulator::{Config, Fault, FaultRule, Kind, Profile, Quirks};

use crate::differences::everyday_use_is_right;
use crate::env::{Env, errno, fuse_is_missing, is_mounted, noise, on_openai, wait_until};

/// Runs a test on a server with all that gateways are known for.
fn on_a_gateway(also: impl Fn(&mut Quirks), test: impl Fn(&Env)) {
    for profile in [Profile::Openai, Profile::Plain] {
        if fuse_is_missing() {
            return;
        }
        let mut config = Config::new(profile);
        let quirks = &mut config.quirks;
        (quirks.long_ids, quirks.extra_fields, quirks.sparse_containers) = (true, true, true);
        (quirks.chunked_content, quirks.chunked_json, quirks.empty_delete_bodies) = (true, true, true);
        quirks.active_status = true;
        also(quirks);
        test(&Env::of(config));
    }
}

/// The base URL below which Azure has the API.
fn azure(env: &Env) -> String {
    env.emulator.base_url().replace("/v1", "/openai/v1")
}

#[test]
fn everything_that_gateways_do_at_once_changes_nothing() {
    on_a_gateway(|_| {}, everyday_use_is_right);
}

#[test]
fn errors_in_the_body_of_a_200_are_errors() {
    on_a_gateway(|quirks| quirks.errors_as_200 = true, everyday_use_is_right);
    on_a_gateway(
        |quirks| (quirks.errors_as_200, quirks.refuse_svg, quirks.max_upload) = (true, true, 100_000),
        |env| {
            let id = env.container("c");
            let file = env.store().put_upload(&id, "f", b"bytes");
            let mount = env.mount(&["--ttl", "1h"]);
            assert_eq!(mount.names("c"), ["f"]);
            let save = |name: &str, bytes: &[u8]| crate::env::save(&mount.path(name), bytes);
            let svg = b"<svg xmlns=\"http://www.w3.org/2000/svg\"></svg>";
            assert_eq!(save("c/a.svg", svg), Err(nix::errno::Errno::EINVAL), "{}", mount.log());
            assert_eq!(save("c/big", &noise(100_001)), Err(nix::errno::Errno::EFBIG), "{}", mount.log());
            env.store().delete_file(&id, &file);
            fs::remove_file(mount.path("c/f")).expect("what is gone already is deleted");
            env.store().expire_container(&id);
            assert_eq!(save("c/new", b"x"), Err(nix::errno::Errno::ESTALE), "{}", mount.log());
            wait_until("the directory goes", || mount.names("").is_empty());
        },
    );
}

#[test]
fn the_base_path_may_be_another() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        for base in [azure(env), format!("{}/", azure(env))] {
            let mount = env.mount_with(&[], &[("OPENAI_BASE_URL", &base)]);
            assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"bytes");
            fs::write(mount.path("c/g"), "more").unwrap();
            assert_eq!(env.bytes_on_server(&id, "g"), b"more");
            fs::remove_file(mount.path("c/g")).unwrap();
            assert!(env.emulator.requests().iter().all(|request| request.path.starts_with("/openai/v1/")));
            assert_eq!(mount.unmount(env), (0, 0));
        }
    });
}

#[test]
fn an_id_that_a_gateway_made_leads_to_the_container_that_it_means() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        // As LiteLLM's are: the base64 of where to send it, and the id that the server behind it knows.
        let alias = format!("cntr_{}==", "bGl0ZWxsbTpjdXN0b21f".repeat(11));
        let told = env.store().containers()[0].clone();
        let body = serde_json::json!({
            "id": told.id, "name": told.name, "status": told.status, "created_at": told.created_at,
        });
        env.emulator.faults().inject(FaultRule {
            path_contains: Some(alias.replace('=', "%3D")),
            ..FaultRule::always(
                Kind::RetrieveContainer,
                Fault::Status { code: 200, body: Some(body.to_string()), headers: BTreeMap::new() },
            )
        });
        let mount = env.mount(&[]);
        assert_eq!(fs::read(mount.path(&alias).join("f")).unwrap(), b"bytes");
        assert_eq!(fs::read_link(mount.path(&alias)).unwrap().to_str(), Some("c"));
        assert_eq!(mount.names(""), ["c"]);
        assert_eq!(errno(fs::metadata(mount.path("cntr_0123456789abcdef"))), libc::ENOENT);
    });
}

#[test]
fn ids_are_opaque_and_cannot_climb() {
    on_openai(|env| {
        for id in ["a/../../b", "..", "%2e%2e", "x?y=z", "with space#"] {
            let page = serde_json::json!({
                "object": "list", "has_more": false, "first_id": id, "last_id": id,
                "data": [{ "id": id, "name": "c", "status": "running", "created_at": 1 }],
            });
            env.emulator.faults().clear();
            env.inject(
                Kind::ListContainers,
                Fault::Status { code: 200, body: Some(page.to_string()), headers: BTreeMap::new() },
            );
            env.emulator.forget_requests();
            let mount = env.mount(&[]);
            let first = fs::read_dir(mount.path("c")).and_then(|mut entries| entries.next().transpose());
            assert!(first.is_err(), "there is no container {id}: {first:?}");
            for request in env.emulator.requests() {
                let below = request.path.strip_prefix("/v1/containers").unwrap();
                let of_the_list = below.is_empty();
                assert!(
                    of_the_list || below.ends_with("/files") && below.matches('/').count() == 2,
                    "{below}"
                );
                assert!(request.query.is_empty() || !request.query.contains("y=z"), "{}", request.query);
            }
            drop(mount);
            assert!(!is_mounted(&env.mountpoint()));
        }
    });
}

/// Answers the next POST of a file with the object of one that is there.
fn answers_with(env: &Env, id: &str, container: &str) {
    let file = env.store().files(container).into_iter().find(|file| file.id == id).unwrap();
    let body = serde_json::json!({
        "id": file.id, "object": "container.file", "container_id": container, "path": file.path,
        "bytes": file.bytes, "source": file.source, "created_at": file.created_at,
    });
    let headers = BTreeMap::from([("content-type".to_owned(), "application/json".to_owned())]);
    let fault = Fault::Status { code: 200, body: Some(body.to_string()), headers };
    env.emulator.faults().inject(FaultRule::once(Kind::Upload, fault));
}

#[test]
fn a_reply_with_the_id_of_another_file_touches_no_other_file() {
    on_openai(|env| {
        let id = env.container("c");
        for name in ["x1", "x2", "x3"] {
            env.store().put_upload(&id, name, name.as_bytes());
        }
        let x3 = env.versions(&id, "x3")[0].id.clone();
        let mount = env.mount(&[]);
        assert_eq!(mount.names("c"), ["x1", "x2", "x3"]);
        let intact = |what: &str| {
            assert_eq!(fs::read(mount.path("c/x3")).unwrap(), b"x3", "{what}");
            assert_eq!(env.bytes_on_server(&id, "x3"), b"x3", "{what}");
        };
        let save = |name: &str, bytes: &[u8]| crate::env::save(&mount.path(name), bytes);

        answers_with(env, &x3, &id);
        assert_eq!(save("c/new", b"new"), Err(nix::errno::Errno::EPROTO));
        assert_eq!(mount.names("c"), ["new", "x1", "x2", "x3"]);
        fs::remove_file(mount.path("c/new")).unwrap();
        intact("a new file, removed");

        answers_with(env, &x3, &id);
        assert_eq!(save("c/x1", b"newer"), Err(nix::errno::Errno::EPROTO));
        intact("a file that was overwritten");
        assert_eq!(save("c/x1", b"newest"), Ok(()));
        intact("and once more");

        answers_with(env, &x3, &id);
        assert_eq!(errno(fs::rename(mount.path("c/x2"), mount.path("c/renamed"))), libc::EPROTO);
        intact("a file that was to be renamed");

        // What finds out whether directories are kept is a file, too.
        answers_with(env, &x3, &id);
        mount.sh("c", "mkdir d");
        assert_eq!(save("c/d/f", b"f"), Err(nix::errno::Errno::EPROTO));
        intact("the probe");
        assert_eq!(save("c/d/f", b"f"), Ok(()));

        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "x1"), b"newest");
        assert_eq!(env.bytes_on_server(&id, "x2"), b"x2");
        assert_eq!(env.bytes_on_server(&id, "x3"), b"x3");
        assert_eq!(env.store().files(&id).len(), 4);
    });
}

#[test]
fn a_new_container_with_the_id_of_another_is_none() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        let body = serde_json::json!({"id": id, "name": "new", "status": "running", "created_at": 1});
        let fault = Fault::Status { code: 200, body: Some(body.to_string()), headers: BTreeMap::new() };
        env.emulator.faults().inject(FaultRule::once(Kind::CreateContainer, fault));
        assert_eq!(errno(fs::create_dir(mount.path("new"))), libc::EPROTO);
        assert_eq!(mount.names(""), ["c"]);
        assert!(fs::remove_dir(mount.path("new")).is_err());
        fs::create_dir(mount.path("new")).unwrap();
        fs::remove_dir(mount.path("new")).unwrap();
        assert_eq!(mount.names(""), ["c"]);
    });
}
