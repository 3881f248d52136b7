//! The promises, kept on a real mount, with the requests that the server saw.
#![allow(clippy::unwrap_used, missing_docs)]

mod ahead;
mod aside;
mod cache;
mod chaos;
mod commands;
mod completions;
mod crashes;
mod differences;
mod directories;
mod doctor;
mod ending;
mod env;
mod errors;
mod flags;
mod fsx;
mod gate;
mod gone;
mod hammer;
#[path = "../model/held.rs"]
#[expect(dead_code, reason = "of the model test")]
mod held;
mod http2;
mod invalidation;
mod keep_alive;
mod listings;
mod lost;
mod matrix;
mod metrics;
mod moves;
mod names;
mod other_servers;
mod path;
mod pending;
mod posix;
mod priorities;
mod privacy;
mod reading;
mod recovery;
#[path = "../model/reference.rs"]
mod reference;
mod scratch;
mod security;
mod seeking;
mod startup;
mod steps;
mod superseded;
mod system;
mod tools;
mod transfers;
mod unmount;
mod unnoted;
mod versions;
mod watchdog;
mod write_back;
mod writing;
