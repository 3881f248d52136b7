//! Server paths to shown names, inodes, listings and their freshness.
