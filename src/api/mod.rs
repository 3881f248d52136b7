//! A typed client of the nine operations. It knows no files and no FUSE.

pub mod budget;
pub mod client;
mod content;
mod disguise;
pub mod error;
mod gate;
pub mod model;
mod pace;
mod paging;
mod pool;
pub mod priority;
mod queues;
mod raw;
mod redact;
mod reply;
mod retry;
pub mod stats;
mod told;
mod transport;
mod upload;

pub use client::{Client, ClientConfig};
pub use error::{Error, ErrorKind};
pub use model::{Container, ContainerId, File, FileId, NetworkPolicy};
pub use paging::{Cursors, List};
pub use raw::{Raw, Reply};

#[cfg(test)]
mod tests;
