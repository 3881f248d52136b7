//! The kernel's side: callbacks, mounting, invalidation. No decisions are made here.

mod adapter;
mod call;
mod connection;
mod convert;
mod heap;
pub mod mount;
pub mod mounts;
mod notify;
mod watchdog;

pub use mount::{Options, Session, mount};
