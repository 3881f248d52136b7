//! The nine operations with replies as they came, for who wants every field.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use reqwest::Method;
use serde_json::Value;
use serde_json::value::RawValue;
use url::Url;

use crate::api::client::Client;
use crate::api::error::Result;
use crate::api::model::{ContainerId, FileId, ListParams};
use crate::api::transport::{Call, Payload};
use crate::api::upload::UploadBody;

/// JSON as the server sent it: numbers with every digit, fields in their order.
pub type Reply = Box<RawValue>;

/// A client whose replies are JSON as the server sent it.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a>(pub(super) &'a Client);

impl Raw<'_> {
    /// One page of the containers.
    ///
    /// # Errors
    /// The server's.
    pub async fn list_containers(self, params: &ListParams) -> Result<Reply> {
        let url = self.0.url("list containers", &["containers"], params)?;
        self.send("list containers", Method::GET, url, Payload::Nothing).await
    }

    /// Makes a container out of the parameters of the API.
    ///
    /// # Errors
    /// The server's.
    pub async fn create_container(self, params: &Value) -> Result<Reply> {
        let url = self.0.url("create container", &["containers"], &())?;
        let json = Payload::Json(Bytes::from(params.to_string()));
        self.send("create container", Method::POST, url, json).await
    }

    /// One container.
    ///
    /// # Errors
    /// The server's.
    pub async fn retrieve_container(self, container: &ContainerId) -> Result<Reply> {
        let url = self.0.url("retrieve container", &["containers", container.as_str()], &())?;
        self.send("retrieve container", Method::GET, url, Payload::Nothing).await
    }

    /// One page of a container's files.
    ///
    /// # Errors
    /// The server's.
    pub async fn list_files(self, container: &ContainerId, params: &ListParams) -> Result<Reply> {
        let url = self.0.url("list files", &["containers", container.as_str(), "files"], params)?;
        self.send("list files", Method::GET, url, Payload::Nothing).await
    }

    /// One file.
    ///
    /// # Errors
    /// The server's.
    pub async fn retrieve_file(self, container: &ContainerId, file: &FileId) -> Result<Reply> {
        let parts = ["containers", container.as_str(), "files", file.as_str()];
        let url = self.0.url("retrieve file", &parts, &())?;
        self.send("retrieve file", Method::GET, url, Payload::Nothing).await
    }

    /// Uploads a file; `sent` tells how many bytes have gone out.
    ///
    /// # Errors
    /// The server's.
    pub async fn upload(
        self,
        container: &ContainerId,
        filename: &str,
        body: UploadBody,
        sent: Arc<AtomicU64>,
    ) -> Result<Reply> {
        self.call(self.0.upload_call(container, filename, body, sent)?).await
    }

    /// Attaches a file of the Files API.
    ///
    /// # Errors
    /// The server's.
    pub async fn attach(self, container: &ContainerId, file_id: &str) -> Result<Reply> {
        self.call(self.0.attach_call(container, file_id)?).await
    }

    /// Deletes a container; nothing if the reply is not JSON.
    ///
    /// # Errors
    /// The server's.
    pub async fn delete_container(self, container: &ContainerId) -> Result<Option<Reply>> {
        self.delete("delete container", &["containers", container.as_str()]).await
    }

    /// Deletes a file; nothing if the reply is not JSON.
    ///
    /// # Errors
    /// The server's.
    pub async fn delete_file(self, container: &ContainerId, file: &FileId) -> Result<Option<Reply>> {
        self.delete("delete file", &["containers", container.as_str(), "files", file.as_str()]).await
    }

    async fn delete(self, operation: &'static str, parts: &[&str]) -> Result<Option<Reply>> {
        let body = self.0.delete_body(operation, self.0.url(operation, parts, &())?).await?;
        Ok(serde_json::from_slice(&body).ok())
    }

    async fn send(
        self,
        operation: &'static str,
        method: Method,
        url: Url,
        payload: Payload,
    ) -> Result<Reply> {
        self.call(Call { operation, method, url, payload }).await
    }

    async fn call(self, call: Call) -> Result<Reply> {
        let (reply, id): (Reply, _) = self.0.json_of(&call).await?;
        self.0.told_in(&call, reply.get().as_bytes(), id.as_ref()).map_or(Ok(reply), Err)
    }
}
