//! containerfs mounts OpenAI containers as ordinary directories.
//!
//! The map. Arrows point down only; nothing below knows what is above it.
//!
//! | room | what it is for |
//! |---|---|
//! | [`cli`] | flags, the commands, what a person sees |
//! | [`daemon`] | going to the background, signals, the control socket |
//! | [`fuse`] | the kernel's side: callbacks, mounting, invalidation; no decisions |
//! | [`vfs`] | the filesystem itself, async and free of FUSE |
//! | [`journal`] | bytes that are not on the server yet: staging files, intents, recovery |
//! | [`content`] | bytes that are: the cache, one download a file |
//! | [`namespace`] | server paths to shown names, inodes, listings and their freshness |
//! | [`api`] | the nine operations over HTTP; knows no files and no FUSE |
//! | [`private`] | directories and files that are one user's alone |
//! | [`emulator`] | the API as a server, for tests, the demo and other people's clients |
pub mod api;
pub mod cli;
pub mod content;
pub mod daemon;
pub mod emulator;
pub mod fuse;
pub mod journal;
pub mod namespace;
pub mod private;
pub mod vfs;
