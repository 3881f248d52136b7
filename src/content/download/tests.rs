use std::net::TcpListener;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::*;
use crate::api::ClientConfig;

#[test]
fn who_waits_for_a_download_is_told_when_it_dies() {
    // Takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = ClientConfig {
        base_url: format!("http://{}/v1", silent.local_addr().unwrap()),
        ..ClientConfig::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let cache = Arc::new(Cache::open(dir.path(), 1 << 20, 1 << 20).unwrap());
    let file = r#"{"id": "cfile_1", "created_at": 1, "bytes": 9, "path": "/mnt/data/f", "source": "user"}"#;
    let file: api::File = serde_json::from_str(file).unwrap();
    let container = ContainerId::from("cntr_1");
    let downloads = Downloads::new(Client::new(&config).unwrap(), cache);
    let runtime = Runtime::new().unwrap();
    let body = runtime.block_on(async { downloads.fetch(&container, &file) });
    runtime.shutdown_background();
    let other = Runtime::new().unwrap();
    let read = other.block_on(async { timeout(Duration::from_secs(20), body.read(0, 9)).await });
    assert!(matches!(read, Ok(Err(Error::Local(_)))), "{read:?}");
    assert_eq!(downloads.under_way(), 0, "and the next reader asks again");
}
