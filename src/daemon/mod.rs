//! The life of a mount: background, signals, the control socket.
