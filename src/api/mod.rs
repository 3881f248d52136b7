//! A typed client of the nine operations. It knows no files and no FUSE.

pub mod model;

pub use model::{Container, ContainerId, File, FileId};
