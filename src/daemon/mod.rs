//! The life of a mount: going to the background, signals, the control socket, the end.

pub mod asking;
pub mod background;
pub mod control;
mod limits;
pub mod logging;
pub mod metrics;
pub mod run;
pub mod settings;
pub mod signals;

pub use settings::Settings;
