//! The promises, kept on a real mount, with the requests that the server saw.
#![allow(clippy::unwrap_used, missing_docs)]

mod commands;
mod crashes;
mod directories;
mod env;
mod errors;
mod names;
mod pending;
mod reading;
mod scratch;
mod startup;
mod write_back;
mod writing;
