//! The server as a client sees it, over HTTP.

mod operations;
mod quirks;
mod spoiled;

use std::net::SocketAddr;

use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use super::{Config, Emulator, Profile};

/// A server and one of its clients.
struct Bench {
    emulator: Emulator,
    client: reqwest::Client,
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

impl Bench {
    async fn of(profile: Profile) -> Self {
        Self::with(Config::new(profile)).await
    }

    async fn with(config: Config) -> Self {
        let emulator = Emulator::start(config, any_port()).await.unwrap();
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        Self { emulator, client: client.build().unwrap() }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.emulator.base_url())).bearer_auth("sk-any")
    }

    async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        self.get(path).await.json().await.unwrap()
    }

    async fn delete(&self, path: &str) -> Response {
        self.request(Method::DELETE, path).send().await.unwrap()
    }

    async fn create(&self, body: Value) -> (StatusCode, Value) {
        let reply = self.request(Method::POST, "/containers").json(&body).send().await.unwrap();
        (reply.status(), reply.json().await.unwrap())
    }

    fn upload(&self, container: &str, name: &str, bytes: &[u8]) -> RequestBuilder {
        let part = Part::bytes(bytes.to_vec()).file_name(name.to_owned());
        let form = Form::new().part("file", part);
        self.request(Method::POST, &format!("/containers/{container}/files")).multipart(form)
    }

    async fn uploaded(&self, container: &str, name: &str, bytes: &[u8]) -> Value {
        let reply = self.upload(container, name, bytes).send().await.unwrap();
        assert_eq!(reply.status(), 200);
        reply.json().await.unwrap()
    }

    async fn paths(&self, container: &str) -> Vec<String> {
        let list = self.json(&format!("/containers/{container}/files?limit=100&order=asc")).await;
        let files = list["data"].as_array().unwrap();
        files.iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect()
    }
}

async fn told(reply: Response) -> (u16, String, Option<String>) {
    let status = reply.status().as_u16();
    let body: Value = reply.json().await.unwrap();
    let text = |field: &str| body["error"][field].as_str().map(str::to_owned);
    (status, text("message").unwrap(), text("code"))
}
