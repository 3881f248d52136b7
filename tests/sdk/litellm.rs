//! LiteLLM's proxy between a mount and the emulator.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use containerfs::emulator::{Config, Profile};

use crate::env::{Env, Mount, fuse_is_missing, is_missing, noise, sha256, wait_until};
use crate::{installed, works};

const KEY: &str = "sk-test-proxy";

/// It imports for many seconds where nothing is compiled yet.
const START: Duration = Duration::from_secs(240);

/// A proxy; it ends when it goes.
struct Proxy {
    child: Child,
    base_url: String,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    fn start(env: &Env) -> Self {
        let config = env.dir.path().join("litellm.yaml");
        // A model is where a container's id is sent to, and so becomes part of it.
        let text = format!(
            "model_list:\n- model_name: gpt\n  litellm_params: {{model: openai/gpt, api_base: '{base}', api_key: sk-test}}\n\
             general_settings: {{master_key: {KEY}}}\n",
            base = env.emulator.base_url()
        );
        fs::write(&config, text).unwrap();
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let log = env.dir.path().join("litellm.log");
        let child = Command::new(installed().join("litellm/bin/litellm"))
            .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--telemetry", "False", "--config"])
            .arg(&config)
            .env("OPENAI_BASE_URL", env.emulator.base_url())
            .env("OPENAI_API_KEY", "sk-test")
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            .env_remove("DATABASE_URL")
            .envs(["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"].map(|name| (name, "")))
            .stdout(File::create(&log).unwrap())
            .stderr(File::options().append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        let mut proxy = Self { child, base_url: format!("http://127.0.0.1:{port}/v1") };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let said = || fs::read_to_string(&log).unwrap_or_default();
            assert!(proxy.child.try_wait().unwrap().is_none(), "LiteLLM ended: {}", said());
            assert!(begun.elapsed() < START, "LiteLLM does not answer: {}", said());
            std::thread::sleep(Duration::from_millis(100));
        }
        proxy
    }

    fn mount(&self, env: &Env, flags: &[&str]) -> Mount {
        env.mount_with(flags, &[("OPENAI_BASE_URL", &self.base_url), ("OPENAI_API_KEY", KEY)])
    }

    /// Makes a container as those do who let the proxy choose where; returns the id that the proxy made.
    fn container_of_a_model(&self, name: &str) -> String {
        let post = reqwest::Client::builder().no_proxy().build().unwrap();
        let post = post.post(format!("{}/containers", self.base_url)).bearer_auth(KEY);
        let post = post.json(&serde_json::json!({ "name": name, "model": "gpt" }));
        let made: serde_json::Value = tokio::runtime::Runtime::new()
            .unwrap()
            .block_on(async { post.send().await?.json().await })
            .unwrap();
        made["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
    }
}

fn everyday_use(env: &Env, proxy: &Proxy) {
    let id = env.container("c");
    env.store().put_many(&id, (0..130).map(|n| (format!("/mnt/data/many/{n:03}"), n.to_string())));
    env.store().put_model_file(&id, "/mnt/data/model.bin", &noise(300_000));
    let mount = proxy.mount(env, &[]);
    assert_eq!(mount.names("c"), ["many", "model.bin"]);
    assert_eq!(mount.names("c/many").len(), 130);
    assert_eq!(fs::read(mount.path("c/many/129")).unwrap(), b"129");
    assert_eq!(fs::metadata(mount.path("c/model.bin")).unwrap().len(), 300_000);
    assert_eq!(sha256(&fs::read(mount.path("c/model.bin")).unwrap()), sha256(&noise(300_000)));
    let every_byte: Vec<u8> = (0..=255_u8).cycle().take(100_000).collect();
    fs::write(mount.path("c/bytes of every kind"), &every_byte).unwrap();
    assert_eq!(env.bytes_on_server(&id, "bytes of every kind"), every_byte);
    mount.sh("c", "echo 1 > f; echo 2 > f; echo 3 > g; mv g h; mkdir d; echo 4 > d/i; rm many/000");
    assert_eq!(mount.sh("c", "cat f h d/i"), "2\n3\n4\n");
    assert_eq!(env.bytes_on_server(&id, "f"), b"2\n");
    assert_eq!(env.store().files(&id).len(), 134);
    assert!(crate::env::save(&mount.path("c/a.svg"), b"<svg/>").is_err(), "the server refuses it");
    fs::remove_file(mount.path("c/a.svg")).unwrap();
    fs::create_dir(mount.path("new")).unwrap();
    fs::remove_dir(mount.path("new")).unwrap();
    env.store().expire_container(&id);
    let saved = crate::env::save(&mount.path("c/too late"), b"x");
    assert_eq!(saved, Err(nix::errno::Errno::ESTALE), "{}", mount.log());
    wait_until("the directory goes", || mount.names("").is_empty());
    assert_eq!(mount.unmount(env), (3, 3), "what came too late is named");
}

fn its_own_ids(env: &Env, proxy: &Proxy) {
    let long = proxy.container_of_a_model("routed");
    assert!(long.len() > 230, "{long}");
    let id = env.store().containers().into_iter().find(|container| container.name == "routed").unwrap().id;
    env.store().put_upload(&id, "f", b"bytes");

    let mount = proxy.mount(env, &["--container", &long]);
    assert_eq!(mount.sh("", "echo more > g; mv g h; cat f h"), "bytesmore\n");
    assert_eq!(env.bytes_on_server(&id, "h"), b"more\n");
    assert_eq!(mount.unmount(env), (0, 0));

    let mount = proxy.mount(env, &[]);
    assert_eq!(fs::read(mount.path(&long).join("f")).unwrap(), b"bytes");
    assert_eq!(mount.names(""), ["routed"]);
    assert_eq!(mount.unmount(env), (0, 0));
    env.store().delete_container(&id);
}

#[test]
fn litellm_in_between_changes_nothing() {
    let absent =
        !works(Command::new(installed().join("litellm/bin/python")).args(["-c", "import litellm.proxy"]));
    if fuse_is_missing() || is_missing("LiteLLM's proxy (.ci/run installs it)", absent) {
        return;
    }
    let env = Env::of(Config::new(Profile::Openai));
    let proxy = Proxy::start(&env);
    its_own_ids(&env, &proxy);
    everyday_use(&env, &proxy);
}
