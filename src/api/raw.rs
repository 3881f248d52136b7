//! The nine operations with replies as they came, for who wants every field.

use bytes::Bytes;
use reqwest::Method;
use serde_json::Value;
use url::Url;

use crate::api::client::Client;
use crate::api::error::{Error, ErrorKind, Result};
use crate::api::model::{ContainerId, FileId, ListParams};
use crate::api::transport::{Call, Payload};

/// A client whose replies are JSON as the server sent it.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a>(pub(super) &'a Client);

impl Raw<'_> {
    /// One page of the containers.
    ///
    /// # Errors
    /// The server's.
    pub async fn list_containers(self, params: &ListParams) -> Result<Value> {
        let url = self.0.url("list containers", &["containers"], params)?;
        self.send("list containers", Method::GET, url, Payload::Nothing).await
    }

    /// Makes a container out of the parameters of the API.
    ///
    /// # Errors
    /// The server's.
    pub async fn create_container(self, params: &Value) -> Result<Value> {
        let url = self.0.url("create container", &["containers"], &())?;
        let json = Payload::Json(Bytes::from(params.to_string()));
        self.send("create container", Method::POST, url, json).await
    }

    /// One container.
    ///
    /// # Errors
    /// The server's.
    pub async fn retrieve_container(self, container: &ContainerId) -> Result<Value> {
        let url = self.0.url("retrieve container", &["containers", container.as_str()], &())?;
        self.send("retrieve container", Method::GET, url, Payload::Nothing).await
    }

    /// One page of a container's files.
    ///
    /// # Errors
    /// The server's.
    pub async fn list_files(self, container: &ContainerId, params: &ListParams) -> Result<Value> {
        let url = self.0.url("list files", &["containers", container.as_str(), "files"], params)?;
        self.send("list files", Method::GET, url, Payload::Nothing).await
    }

    /// One file.
    ///
    /// # Errors
    /// The server's.
    pub async fn retrieve_file(self, container: &ContainerId, file: &FileId) -> Result<Value> {
        let parts = ["containers", container.as_str(), "files", file.as_str()];
        let url = self.0.url("retrieve file", &parts, &())?;
        self.send("retrieve file", Method::GET, url, Payload::Nothing).await
    }

    async fn send(
        self,
        operation: &'static str,
        method: Method,
        url: Url,
        payload: Payload,
    ) -> Result<Value> {
        let posts = method == Method::POST;
        let reply: Value = self.0.json(Call { operation, method, url, payload }).await?;
        // API.md "Wire": 200 with an error body.
        match reply.get("error").filter(|error| !error.is_null()) {
            None => Ok(reply),
            Some(error) => {
                let message = error
                    .get("message")
                    .and_then(Value::as_str)
                    .map_or_else(|| error.to_string(), str::to_owned);
                let message = self.0.redactor().text(&message);
                Err(Error::new(ErrorKind::Protocol, operation, message).maybe_happened(posts))
            }
        }
    }
}
