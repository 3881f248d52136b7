//! Bytes that are not on the server yet.

pub mod pending;
pub mod scratch;
pub mod stage;

pub use stage::{Journal, Meta, Staging};
