//! The switches, one by one.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use super::{Bench, told};
use crate::emulator::{Config, Profile, ReplaceByName};

fn config(profile: Profile, change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::new(profile);
    change(&mut config);
    config
}

#[tokio::test]
async fn uploads_are_renamed_by_name_and_bytes() {
    let bench = Bench::of(Profile::Openai).await;
    let container = bench.emulator.store().create_container("c");
    let path = async |name: &str, bytes: &[u8]| {
        bench.uploaded(&container, name, bytes).await["path"].as_str().unwrap().to_owned()
    };
    let first = path("x.txt", b"one").await;
    let prefix = first.strip_prefix("/mnt/data/").unwrap().strip_suffix("-x.txt").unwrap();
    assert!(prefix.len() == 32 && prefix.bytes().all(|byte| byte.is_ascii_hexdigit()), "{prefix}");
    assert_eq!(path("x.txt", b"one").await, first);
    assert_ne!(path("x.txt", b"two").await, first);
    assert!(path("dir/y.txt", b"").await.ends_with("-y.txt"));
    assert!(path("dir%2Fy.txt", b"").await.ends_with("-dir%2Fy.txt"));
}

#[tokio::test]
async fn hostile_names_survive() {
    let bench = Bench::of(Profile::Plain).await;
    let container = bench.emulator.store().create_container("c");
    for name in [
        "a/b/ü ñ 日本.txt",
        "..",
        "dir%2Fx",
        "%41",
        "quote\".txt",
        "back\\slash",
        "semi;colon=1",
        "\u{1f980}",
    ] {
        let file = bench.uploaded(&container, name, b"1").await;
        assert_eq!(file["path"], format!("/mnt/data/{name}"));
    }
    let model =
        ["/mnt/data/../../etc/passwd", "/mnt/data//a/./b/", "/mnt/data/nul\0\u{1b}[31m\n", "relative", ""];
    for path in model {
        bench.emulator.store().put_model_file(&container, path, b"x");
    }
    let paths = bench.paths(&container).await;
    assert_eq!(paths[paths.len() - model.len()..], model);
}

#[tokio::test]
async fn sizes_of_model_files_are_null_where_asked() {
    for (profile, size) in [(Profile::Openai, json!(null)), (Profile::Plain, json!(3))] {
        let bench = Bench::of(profile).await;
        let store = bench.emulator.store();
        let container = store.create_container("c");
        let id = store.put_model_file(&container, "/mnt/data/a", b"abc");
        let phantom = store.put_phantom(&container, "/mnt/data/ghost");
        let file = bench.json(&format!("/containers/{container}/files/{id}")).await;
        assert_eq!((&file["bytes"], &file["source"]), (&size, &json!("assistant")));
        let list = bench.json(&format!("/containers/{container}/files")).await;
        assert_eq!(list["data"][0]["bytes"], json!(null));
        let content = bench.get(&format!("/containers/{container}/files/{phantom}/content")).await;
        assert_eq!(content.status(), 404);
    }
}

#[tokio::test]
async fn ranges_are_honoured_where_offered() {
    for (profile, status) in [(Profile::Openai, 200), (Profile::Plain, 206)] {
        for size in [1000_usize, 100_000] {
            let bench = Bench::of(profile).await;
            let bytes: Vec<u8> = (0..size).map(|n| n as u8).collect();
            let container = bench.emulator.store().create_container("c");
            let id = bench.emulator.store().put_model_file(&container, "/mnt/data/a", &bytes);
            let path = format!("/containers/{container}/files/{id}/content");
            let ranged = bench.request(Method::GET, &path).header("range", "bytes=10-19");
            let reply = ranged.send().await.unwrap();
            assert_eq!(reply.status(), status);
            if status == 206 {
                assert_eq!(reply.headers()["content-range"], format!("bytes 10-19/{size}"));
                assert_eq!(reply.headers()["accept-ranges"], "bytes");
                assert_eq!(reply.bytes().await.unwrap(), bytes[10..20]);
            } else {
                assert_eq!(reply.bytes().await.unwrap(), bytes);
            }
        }
    }
}

#[tokio::test]
async fn uploads_are_refused_for_what_they_are() {
    let bench = Bench::with(config(Profile::Openai, |config| {
        config.quirks.max_upload = 100_000;
        config.quirks.refuse_empty = true;
    }))
    .await;
    let container = bench.emulator.store().create_container("c");
    let svg = b"<?xml version=\"1.0\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\"/>";
    for bytes in [&svg[..], b""] {
        let (status, message, _) = told(bench.upload(&container, "a", bytes).send().await.unwrap()).await;
        assert_eq!((status, message.as_str()), (400, "You uploaded an invalid file"));
    }
    assert_eq!(bench.upload(&container, "a", &[1; 100_001]).send().await.unwrap().status(), 413);
    assert!(bench.paths(&container).await.is_empty());
    bench.uploaded(&container, "a", &[1; 100_000]).await;
}

#[tokio::test]
async fn a_second_upload_of_a_name_does_what_the_switch_says() {
    for mode in [ReplaceByName::Second, ReplaceByName::Replace, ReplaceByName::SameId] {
        let bench = Bench::with(config(Profile::Openai, |config| config.quirks.replace_by_name = mode)).await;
        let container = bench.emulator.store().create_container("c");
        let first = bench.uploaded(&container, "x", b"one").await["id"].clone();
        let second = bench.uploaded(&container, "x", b"second").await["id"].clone();
        let files = bench.emulator.store().files(&container);
        let expected = if mode == ReplaceByName::Second { 2 } else { 1 };
        assert_eq!((files.len(), first == second), (expected, mode == ReplaceByName::SameId));
        let content = bench.emulator.store().content(&container, second.as_str().unwrap());
        assert_eq!(content.unwrap(), b"second");
    }
}

#[tokio::test]
async fn an_expired_container_is_listed_and_refused() {
    for as_400 in [false, true] {
        let bench = Bench::with(config(Profile::Openai, |config| {
            config.quirks.expired_as_400 = as_400;
            config.quirks.expire_after_use = true;
        }))
        .await;
        let (_, made) = bench.create(json!({ "name": "old" })).await;
        let id = made["id"].as_str().unwrap();
        bench.emulator.store().advance_clock(Duration::from_secs(19 * 60));
        assert_eq!(bench.get(&format!("/containers/{id}")).await.status(), 200);
        bench.emulator.store().advance_clock(Duration::from_secs(19 * 60));
        assert_eq!(bench.json("/containers").await["data"][0]["status"], "running");
        bench.emulator.store().advance_clock(Duration::from_secs(2 * 60));
        assert_eq!(bench.json("/containers").await["data"][0]["status"], "expired");
        let (status, message, _) = told(bench.get(&format!("/containers/{id}/files")).await).await;
        assert_eq!((status, message.as_str()), (if as_400 { 400 } else { 404 }, "Container is expired"));
    }
}

#[tokio::test]
async fn lists_lag_where_asked() {
    let bench = Bench::with(config(Profile::Openai, |config| {
        config.quirks.delete_list_lag = Duration::from_secs(60);
        config.quirks.upload_list_lag = Duration::from_secs(60);
    }))
    .await;
    let store = bench.emulator.store();
    let container = store.create_container("c");
    let id = bench.uploaded(&container, "x", b"1").await["id"].as_str().unwrap().to_owned();
    assert!(bench.paths(&container).await.is_empty());
    assert_eq!(bench.get(&format!("/containers/{container}/files/{id}")).await.status(), 200);
    store.advance_clock(Duration::from_secs(61));
    assert_eq!(bench.paths(&container).await.len(), 1);
    bench.delete(&format!("/containers/{container}/files/{id}")).await;
    assert_eq!(bench.paths(&container).await.len(), 1);
    assert_eq!(bench.get(&format!("/containers/{container}/files/{id}")).await.status(), 404);
    store.advance_clock(Duration::from_secs(61));
    assert!(bench.paths(&container).await.is_empty());
    bench.delete(&format!("/containers/{container}")).await;
    assert_eq!(bench.json("/containers").await["data"].as_array().unwrap().len(), 1);
    assert_eq!(bench.get(&format!("/containers/{container}")).await.status(), 404);
    store.advance_clock(Duration::from_secs(61));
    assert!(bench.json("/containers").await["data"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn replies_vary_as_other_servers_do() {
    let bench = Bench::with(config(Profile::Plain, |config| {
        config.quirks.long_ids = true;
        config.quirks.extra_fields = true;
        config.quirks.chunked_content = true;
        config.quirks.empty_delete_bodies = true;
        config.quirks.rewritten_keeps_id = false;
    }))
    .await;
    let (_, made) = bench.create(json!({ "name": "c" })).await;
    let container = made["id"].as_str().unwrap();
    assert!(container.len() == 240 && made["x_metadata"].is_object());
    let id = bench.uploaded(container, "x", b"one").await["id"].as_str().unwrap().to_owned();
    assert_eq!(id.len(), 240);
    let content = bench.get(&format!("/containers/{container}/files/{id}/content")).await;
    assert!(!content.headers().contains_key("content-length"));
    assert_eq!(content.bytes().await.unwrap(), "one");
    let model = bench.emulator.store().put_model_file(container, "/mnt/data/m", b"one");
    assert_ne!(bench.emulator.store().rewrite_model_file(container, &model, b"two"), model);
    let deleted = bench.delete(&format!("/containers/{container}/files/{id}")).await;
    assert!(deleted.status() == 200 && deleted.bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn gateways_lose_lengths_statuses_and_fields() {
    let bench = Bench::with(config(Profile::Openai, |config| {
        for switch in ["chunked-json", "errors-as-200", "sparse-containers", "active-status"] {
            config.quirks.set(switch).unwrap();
        }
    }))
    .await;
    let (_, made) = bench.create(json!({ "name": "c", "memory_limit": "4g" })).await;
    assert_eq!(made["status"], "active");
    assert!(made.get("memory_limit").is_none() && made.get("network_policy").is_none(), "{made}");
    let id = made["id"].as_str().unwrap();
    let reply = bench.get(&format!("/containers/{id}")).await;
    assert!(!reply.headers().contains_key("content-length"));
    assert_eq!(reply.json::<serde_json::Value>().await.unwrap(), made);
    let (status, message, code) = told(bench.get("/containers/cntr_none").await).await;
    assert_eq!((status, code.as_deref()), (200, Some("404")));
    assert!(message.contains("cntr_none"));
}

#[tokio::test]
async fn a_list_may_count_as_use_of_what_it_shows() {
    for (counts, status) in [(false, "expired"), (true, "running")] {
        let bench = Bench::with(config(Profile::Openai, |config| {
            config.quirks.expire_after_use = true;
            config.quirks.listing_is_use = counts;
        }))
        .await;
        bench.emulator.store().create_container("c");
        for _ in 0..2 {
            bench.emulator.store().advance_clock(Duration::from_secs(15 * 60));
            bench.json("/containers").await;
        }
        assert_eq!(bench.json("/containers").await["data"][0]["status"], status);
    }
}
