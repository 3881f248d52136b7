//! Bytes that are on the server: the cache, and one download a file however many read it.

pub mod cache;
pub mod download;
mod lengths;
mod pieces;
pub mod prefetch;

pub use cache::{Cache, Key};
pub use download::Body;
