//! What is not on the server yet: bytes, and what is going to be done there.

pub mod copied;
mod descriptor;
pub mod directory;
pub mod intent;
mod note;
pub mod pending;
pub mod scratch;
pub mod stage;
pub mod steps;

pub use copied::Copied;
pub use directory::{Adopted, Journal, is_draining};
pub use intent::{Intent, Noted};
pub use stage::{Meta, Shelved, Staging};
