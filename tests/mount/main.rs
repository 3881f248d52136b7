//! The promises, kept on a real mount, with the requests that the server saw.
#![allow(clippy::unwrap_used, missing_docs)]

mod cache;
mod commands;
mod crashes;
mod differences;
mod directories;
mod doctor;
mod env;
mod errors;
mod flags;
mod gate;
mod matrix;
mod names;
mod other_servers;
mod path;
mod pending;
mod privacy;
mod reading;
mod scratch;
mod startup;
mod steps;
mod superseded;
mod tools;
mod transfers;
mod write_back;
mod writing;
