//! The body of an upload: one multipart field `file`, its length known beforehand, streamed from disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

/// Bytes read from disk at once, and handed over uncounted if there are no more.
pub(super) const CHUNK: usize = 256 << 10;

/// The bytes of an upload.
#[derive(Clone, Debug)]
pub enum UploadBody {
    /// In memory.
    Bytes(Bytes),
    /// The first `len` bytes of a file that does not change meanwhile.
    File {
        /// Where it is.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
    },
}

impl UploadBody {
    /// The length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A multipart form with one file.
pub(super) struct Form {
    pub(super) content_type: String,
    pub(super) length: u64,
    head: Bytes,
    tail: Bytes,
}

impl Form {
    pub(super) fn new(filename: &str, len: u64) -> Self {
        let boundary = format!("containerfs-{}", hex::encode(rand::random::<[u8; 16]>()));
        let filename = escaped(filename);
        let head = Bytes::from(format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{filename}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        ));
        let tail = Bytes::from(format!("\r\n--{boundary}--\r\n"));
        let length = head.len() as u64 + len + tail.len() as u64;
        Self { content_type: format!("multipart/form-data; boundary={boundary}"), length, head, tail }
    }

    /// The form around `body`; `moved` and `told` count the bytes that went out.
    pub(super) fn body(
        &self,
        body: &UploadBody,
        moved: Arc<AtomicU64>,
        told: Arc<AtomicU64>,
    ) -> reqwest::Body {
        let content = match body {
            UploadBody::Bytes(bytes) if bytes.len() <= CHUNK => {
                let mut whole = BytesMut::with_capacity(self.head.len() + bytes.len() + self.tail.len());
                whole.extend_from_slice(&self.head);
                whole.extend_from_slice(bytes);
                whole.extend_from_slice(&self.tail);
                told.fetch_add(whole.len() as u64, Ordering::Relaxed);
                return whole.freeze().into();
            }
            UploadBody::Bytes(bytes) => {
                let bytes = bytes.clone();
                let starts = (0..bytes.len()).step_by(CHUNK);
                let pieces: Vec<_> =
                    starts.map(|at| Ok(bytes.slice(at..bytes.len().min(at + CHUNK)))).collect();
                stream::iter(pieces).boxed()
            }
            UploadBody::File { path, len } => {
                let (path, len) = (path.clone(), *len);
                let opened = async move {
                    let file = tokio::fs::File::open(path).await?;
                    Ok::<_, std::io::Error>(ReaderStream::with_capacity(file.take(len), CHUNK))
                };
                stream::once(opened).try_flatten().boxed()
            }
        };
        let once = |bytes: &Bytes| stream::iter([Ok::<_, std::io::Error>(bytes.clone())]);
        let counted = once(&self.head).chain(content).chain(once(&self.tail)).inspect_ok(move |chunk| {
            moved.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            told.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        });
        reqwest::Body::wrap_stream(counted)
    }
}

/// A filename as browsers send it: nothing in it can end the quoted string or the header.
fn escaped(filename: &str) -> String {
    filename.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_filename_forges_a_header() {
        let form = Form::new("a\"\r\nX-Evil: 1\r\n\r\nü.txt", 3);
        let head = std::str::from_utf8(&form.head).unwrap();
        assert!(head.contains("filename=\"a%22%0D%0AX-Evil: 1%0D%0A%0D%0Aü.txt\"\r\n"), "{head}");
        assert_eq!(head.matches("\r\n").count(), 4);
        assert!(!head.contains("filename*"));
        assert_eq!(form.length, form.head.len() as u64 + 3 + form.tail.len() as u64);
    }
}
