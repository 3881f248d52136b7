//! The nine operations and their strictness.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Bench, any_port, told};
use crate::emulator::{Config, Emulator, Kind, Profile};

#[tokio::test]
async fn a_container_lives_and_dies() {
    let bench = Bench::of(Profile::Openai).await;
    let (status, made) = bench.create(json!({ "name": "work" })).await;
    assert_eq!(status, 200);
    let id = made["id"].as_str().unwrap();
    assert!(id.len() == 53 && id.starts_with("cntr_"), "{id}");
    assert_eq!((&made["status"], &made["memory_limit"]), (&json!("running"), &json!("1g")));
    assert_eq!(made["expires_after"], json!({ "anchor": "last_active_at", "minutes": 20 }));

    let file = bench.uploaded(id, "a.txt", b"hello").await;
    let file_id = file["id"].as_str().unwrap();
    assert_eq!(
        (&file["bytes"], &file["source"], &file["container_id"]),
        (&json!(5), &json!("user"), &json!(id))
    );
    assert_eq!(bench.json(&format!("/containers/{id}/files/{file_id}")).await, file);
    let content = bench.get(&format!("/containers/{id}/files/{file_id}/content")).await;
    assert_eq!(content.headers()["content-length"], "5");
    assert!(!content.headers().contains_key("accept-ranges"));
    assert_eq!(content.bytes().await.unwrap(), "hello");

    let gone: Value = bench.delete(&format!("/containers/{id}/files/{file_id}")).await.json().await.unwrap();
    assert_eq!(gone, json!({ "id": file_id, "object": "container.file.deleted", "deleted": true }));
    let (status, message, _) =
        told(bench.get(&format!("/containers/{id}/files/{file_id}/content")).await).await;
    assert_eq!((status, message), (404, format!("File {file_id} not found on container {id}.")));

    let gone: Value = bench.delete(&format!("/containers/{id}")).await.json().await.unwrap();
    assert_eq!(gone["object"], "container.deleted");
    let (status, message, _) = told(bench.get(&format!("/containers/{id}")).await).await;
    assert_eq!((status, message), (404, format!("Container with id '{id}' not found.")));
    let list = bench.json("/containers").await;
    assert_eq!(
        list,
        json!({ "object": "list", "data": [], "first_id": null, "last_id": null, "has_more": false })
    );

    let kinds: Vec<Kind> = bench.emulator.requests().iter().map(|request| request.kind).collect();
    assert_eq!(kinds[..4], [Kind::CreateContainer, Kind::Upload, Kind::RetrieveFile, Kind::Content]);
    assert_eq!(bench.emulator.requests()[0].status, 200);
}

#[tokio::test]
async fn lists_page_in_both_orders_within_one_second() {
    let bench = Bench::of(Profile::Openai).await;
    let container = bench.emulator.store().create_container("many");
    let made = bench
        .emulator
        .store()
        .put_many(&container, (0..45).map(|n| (format!("/mnt/data/{n}"), n.to_string().into_bytes())));
    for (order, suffix) in [("asc", "&order=asc"), ("desc", "")] {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = bench.json(&format!("/containers/{container}/files?limit=20{suffix}{after}")).await;
            let data = page["data"].as_array().unwrap();
            assert_eq!((&page["first_id"], &page["last_id"]), (&data[0]["id"], &data[data.len() - 1]["id"]));
            seen.extend(data.iter().map(|file| file["id"].as_str().unwrap().to_owned()));
            after = format!("&after={}", page["last_id"].as_str().unwrap());
            if page["has_more"] == false {
                break;
            }
        }
        if order == "desc" {
            seen.reverse();
        }
        assert_eq!(seen, made, "{order}");
    }
    let (status, message, _) =
        told(bench.get(&format!("/containers/{container}/files?after=cfile_0")).await).await;
    assert_eq!((status, message.contains("cfile_0")), (400, true));
}

#[tokio::test]
async fn containers_are_filtered_by_name() {
    let bench = Bench::of(Profile::Openai).await;
    for name in ["auto", "other", "auto"] {
        bench.emulator.store().create_container(name);
    }
    assert_eq!(bench.json("/containers?name=auto").await["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn parameters_are_strict() {
    let bench = Bench::of(Profile::Openai).await;
    let container = bench.emulator.store().create_container("c");
    for (query, code) in [
        ("limit=0", "integer_below_min_value"),
        ("limit=101", "integer_above_max_value"),
        ("limit=many", "invalid_type"),
        ("order=up", "invalid_value"),
        ("colour=red", "unknown_parameter"),
        ("name=x", "unknown_parameter"),
    ] {
        let told = told(bench.get(&format!("/containers/{container}/files?{query}")).await).await;
        assert_eq!((told.0, told.2.as_deref()), (400, Some(code)), "{query}");
    }
    for (body, code) in [
        (json!({}), "missing_required_parameter"),
        (json!({ "name": "n", "colour": 1 }), "unknown_parameter"),
        (
            json!({ "name": "n", "expires_after": { "anchor": "last_active_at", "minutes": 21 } }),
            "integer_above_max_value",
        ),
    ] {
        let (status, reply) = bench.create(body).await;
        assert_eq!((status.as_u16(), reply["error"]["code"].as_str()), (400, Some(code)));
    }
    let files = format!("/containers/{container}/files");
    let form = reqwest::multipart::Form::new().text("file", "no filename");
    let reply = bench.request(Method::POST, &files).multipart(form).send().await.unwrap();
    assert_eq!(reply.status(), 400);
    bench.emulator.store().register_api_file("file-abc", "x.txt", b"from elsewhere");
    let part = reqwest::multipart::Part::bytes(b"x".as_slice()).file_name("x");
    let form = reqwest::multipart::Form::new().part("file", part).text("file_id", "file-abc");
    let reply = bench.request(Method::POST, &files).multipart(form).send().await.unwrap();
    assert_eq!(told(reply).await.0, 400, "either a file or a file's id");
    let reply = bench.request(Method::POST, &files).json(&json!({})).send().await.unwrap();
    assert_eq!(told(reply).await.2.as_deref(), Some("missing_required_parameter"));
    assert_eq!(bench.request(Method::PUT, &files).send().await.unwrap().status(), 405);
    assert_eq!(bench.get("/assistants").await.status(), 404);
    assert!(bench.paths(&container).await.is_empty());
}

#[tokio::test]
async fn a_key_is_needed_and_never_echoed() {
    let mut config = Config::new(Profile::Openai);
    config.api_key = Some("sk-right-0123456789abcdef".into());
    let bench = Bench::with(config).await;
    let url = format!("{}/containers", bench.emulator.base_url());
    let reply = bench.client.get(&url).send().await.unwrap();
    assert!(reply.headers()["x-request-id"].to_str().unwrap().starts_with("req_"));
    let (status, message, _) = told(reply).await;
    assert!(status == 401 && message.starts_with("You didn't provide an API key"));
    let wrong = "sk-wrong-0123456789abcdef";
    let reply = bench.client.get(&url).bearer_auth(wrong).send().await.unwrap();
    let (status, message, code) = told(reply).await;
    assert_eq!((status, code.as_deref()), (401, Some("invalid_api_key")));
    assert!(message.starts_with("Incorrect API key provided: sk-…cdef.") && !message.contains(wrong));
    let right = bench.client.get(&url).bearer_auth("sk-right-0123456789abcdef");
    assert_eq!(right.send().await.unwrap().status(), 200);
    assert_eq!(
        bench.client.get(url.replace("/v1/", "/openai/v1/")).bearer_auth("x").send().await.unwrap().status(),
        401
    );
}

#[tokio::test]
async fn files_of_the_files_api_are_attached() {
    let bench = Bench::of(Profile::Openai).await;
    bench.emulator.store().register_api_file("file-abc", "x.txt", b"from elsewhere");
    let (_, made) = bench.create(json!({ "name": "n", "file_ids": ["file-abc"] })).await;
    let id = made["id"].as_str().unwrap();
    assert_eq!(bench.paths(id).await, ["/mnt/data/file-abc-x.txt"]);
    let (status, reply) = bench.create(json!({ "name": "n", "file_ids": ["file-none"] })).await;
    assert_eq!(status, 404);
    assert_eq!(reply["error"]["message"], "No such File object: file-none");
    let files = format!("/containers/{id}/files");
    let reply =
        bench.request(Method::POST, &files).json(&json!({ "file_id": "file-abc" })).send().await.unwrap();
    assert_eq!(reply.status(), 200);
}

#[tokio::test]
async fn data_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(Profile::Openai);
    config.data_dir = Some(dir.path().to_owned());
    let bench = Bench::with(config.clone()).await;
    let (_, made) = bench.create(json!({ "name": "kept", "memory_limit": "4g" })).await;
    let id = made["id"].as_str().unwrap().to_owned();
    let large = vec![7_u8; 300_000];
    let file = bench.uploaded(&id, "large.bin", &large).await;
    let addr = bench.emulator.addr();
    bench.emulator.stop().await;

    let again = Emulator::start(config, addr).await.unwrap();
    let bench = Bench { emulator: again, client: bench.client };
    assert_eq!(bench.json(&format!("/containers/{id}")).await["memory_limit"], "4g");
    let file_id = file["id"].as_str().unwrap();
    assert_eq!(bench.json(&format!("/containers/{id}/files/{file_id}")).await, file);
    let content = bench.get(&format!("/containers/{id}/files/{file_id}/content")).await;
    assert_eq!(content.bytes().await.unwrap(), large);
}

#[tokio::test]
async fn http2_is_spoken_to_those_who_know() {
    let emulator = Emulator::start(Config::new(Profile::Plain), any_port()).await.unwrap();
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let url = format!("{}/containers", emulator.base_url());
    let reply = client.get(url).bearer_auth("k").send().await.unwrap();
    assert_eq!((reply.version(), reply.status().as_u16()), (reqwest::Version::HTTP_2, 200));
}
