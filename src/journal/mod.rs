//! Bytes that are not on the server yet.
