//! Bytes that are on the server: the cache, and one download a file.
