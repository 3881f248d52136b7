//! The filesystem itself, async and free of FUSE.
