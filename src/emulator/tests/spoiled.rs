//! Faults, as the client meets them.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::{Bench, any_port};
use crate::emulator::{Config, Emulator, Fault, FaultRule, Kind, Profile};

async fn with_file(bytes: &[u8]) -> (Bench, String, String) {
    let bench = Bench::of(Profile::Plain).await;
    let container = bench.emulator.store().create_container("c");
    let id = bench.emulator.store().put_model_file(&container, "/mnt/data/a", bytes);
    let content = format!("/containers/{container}/files/{id}/content");
    (bench, container, content)
}

fn once(bench: &Bench, kind: Kind, fault: Fault) {
    bench.emulator.faults().inject(FaultRule::once(kind, fault));
}

#[tokio::test]
async fn a_reset_before_stores_nothing_and_one_after_stores() {
    let (bench, container, _) = with_file(b"").await;
    for (fault, stored) in [(Fault::ResetBefore, 1), (Fault::ResetAfter, 2)] {
        once(&bench, Kind::Upload, fault);
        let error = bench.upload(&container, "x", &[1; 100_000]).send().await.unwrap_err();
        assert!(error.is_request(), "{error:?}");
        assert_eq!(bench.emulator.store().files(&container).len(), stored);
    }
    assert!(bench.emulator.requests().iter().all(|request| request.status == 0));
    bench.uploaded(&container, "y", b"").await;
}

#[tokio::test]
async fn hangs_last_until_the_client_gives_up() {
    let (bench, container, content) = with_file(&[1; 50_000]).await;
    let patience = Duration::from_millis(200);
    once(&bench, Kind::Upload, Fault::HangBefore);
    assert!(bench.upload(&container, "x", b"").timeout(patience).send().await.unwrap_err().is_timeout());
    assert_eq!(bench.emulator.store().files(&container).len(), 1);
    once(&bench, Kind::Upload, Fault::HangAfter);
    assert!(bench.upload(&container, "x", b"").timeout(patience).send().await.unwrap_err().is_timeout());
    assert_eq!(bench.emulator.store().files(&container).len(), 2);
    once(&bench, Kind::Content, Fault::HangMidBody { after: 1000 });
    let mut reply = bench.request(Method::GET, &content).timeout(patience).send().await.unwrap();
    let mut read = 0;
    let error = loop {
        match reply.chunk().await {
            Ok(chunk) => read += chunk.unwrap().len(),
            Err(error) => break error,
        }
    };
    assert!(error.is_timeout() && read == 1000, "{read} {error:?}");
}

#[tokio::test]
async fn a_cut_body_tells_its_whole_length() {
    for size in [5000_usize, 500_000] {
        let (bench, _, content) = with_file(&vec![1; size]).await;
        once(&bench, Kind::Content, Fault::CutBody { after: 1234 });
        let mut reply = bench.get(&content).await;
        assert_eq!(reply.content_length(), Some(size as u64));
        let mut read = 0;
        while let Ok(Some(chunk)) = reply.chunk().await {
            read += chunk.len();
        }
        assert_eq!(read, 1234);
        assert!(bench.get(&content).await.bytes().await.unwrap().len() == size);
        once(&bench, Kind::Content, Fault::LongBody);
        assert_eq!(bench.get(&content).await.bytes().await.unwrap().len(), size + 4096);
    }
}

#[tokio::test]
async fn replies_are_other_than_expected() {
    let (bench, container, _) = with_file(b"x").await;
    let headers = [("retry-after".to_owned(), "1".to_owned())].into();
    once(&bench, Kind::ListFiles, Fault::Status { code: 429, body: None, headers });
    let list = format!("/containers/{container}/files");
    let reply = bench.get(&list).await;
    assert_eq!((reply.status().as_u16(), &reply.headers()["retry-after"]), (429, &"1".parse().unwrap()));
    once(&bench, Kind::ListFiles, Fault::Html200);
    assert!(bench.get(&list).await.text().await.unwrap().starts_with("<!DOCTYPE"));
    once(&bench, Kind::ListFiles, Fault::WrongShape200);
    assert_eq!(bench.json(&list).await["ok"], true);
    once(&bench, Kind::ListFiles, Fault::HugeJson { bytes: 3_000_000 });
    assert_eq!(bench.json(&list).await["padding"].as_str().unwrap().len(), 3_000_000);
    once(&bench, Kind::ListFiles, Fault::Redirect { location: "http://127.0.0.1:9/".to_owned() });
    assert_eq!(bench.get(&list).await.headers()["location"], "http://127.0.0.1:9/");
    bench.emulator.faults().inject(FaultRule::always(Kind::ListFiles, Fault::EndlessList));
    let page = bench.json(&list).await;
    let again = bench.json(&format!("{list}?after={}", page["last_id"].as_str().unwrap())).await;
    assert!(page["has_more"] == true && page == again);
    bench.emulator.faults().clear();
    assert_eq!(bench.json(&list).await["has_more"], false);
}

#[tokio::test]
async fn time_passes_where_asked() {
    let (bench, container, content) = with_file(&[1; 1000]).await;
    let took = async |path: &str| {
        let start = Instant::now();
        bench.get(path).await.bytes().await.unwrap();
        start.elapsed()
    };
    once(&bench, Kind::Content, Fault::Throttle { bytes_per_second: 4000 });
    assert!(took(&content).await >= Duration::from_millis(240));
    once(&bench, Kind::Content, Fault::Delay { millis: 150 });
    assert!(took(&content).await >= Duration::from_millis(150));
    once(&bench, Kind::DeleteFile, Fault::DelayAfter { millis: 150 });
    let slow = bench.delete(content.trim_end_matches("/content"));
    let gone = async {
        tokio::time::sleep(Duration::from_millis(75)).await;
        bench.get(&content).await.status()
    };
    let start = Instant::now();
    let (deleted, gone) = tokio::join!(slow, gone);
    assert_eq!((deleted.status().as_u16(), gone.as_u16()), (200, 404));
    assert!(start.elapsed() >= Duration::from_millis(150));
    bench.emulator.set_latency(Duration::from_millis(120));
    assert!(took(&format!("/containers/{container}")).await >= Duration::from_millis(120));
}

#[tokio::test]
async fn the_admin_route_is_there_only_if_asked_for() {
    for admin in [false, true] {
        let mut config = Config::new(Profile::Openai);
        config.admin = admin;
        let bench = Bench::with(config).await;
        let base = bench.emulator.base_url().replace("/v1", "/_admin");
        let rule = json!({ "kind": "list_containers", "fault": { "type": "status", "code": 503 } });
        let reply = bench.client.post(format!("{base}/faults")).json(&rule).send().await.unwrap();
        assert_eq!(reply.status(), if admin { 200 } else { 404 });
        assert_eq!(bench.get("/containers").await.status(), if admin { 503 } else { 200 });
        if admin {
            let id = bench.emulator.store().create_container("c");
            let url = format!("{base}/model-file?container={id}&path=%2Fmnt%2Fdata%2Fa");
            assert_eq!(bench.client.post(url).body("text").send().await.unwrap().status(), 200);
            assert_eq!(bench.emulator.store().files(&id)[0].bytes, 4);
            let log: Value =
                bench.client.get(format!("{base}/requests")).send().await.unwrap().json().await.unwrap();
            assert_eq!(log["data"].as_array().unwrap().len(), 1);
            assert_eq!(
                (&log["data"][0]["kind"], &log["data"][0]["status"]),
                (&json!("list_containers"), &json!(503))
            );
        }
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_for_what_hangs() {
    let emulator = Emulator::start(Config::new(Profile::Plain), any_port()).await.unwrap();
    emulator.faults().inject(FaultRule::always(Kind::ListContainers, Fault::HangBefore));
    let url = format!("{}/containers", emulator.base_url());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let hanging = tokio::spawn(client.get(url).bearer_auth("k").send());
    while emulator.requests().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::timeout(Duration::from_secs(5), emulator.stop()).await.unwrap();
    assert!(hanging.await.unwrap().is_err());
}
