//! Bytes that are not on the server yet.

pub mod stage;

pub use stage::{Journal, Meta, Staging};
