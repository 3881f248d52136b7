//! Hostile, torn and foreign input against whatever reads it: no panic, no hang, no broken invariant.
//!
//! Each target replays the files of `corpus/TARGET` first, then mutations of them and structured input of its
//! own, for a few seconds, or for `CONTAINERFS_FUZZ` seconds. What is found goes into the corpus, in as few
//! bytes as show it.
#![allow(clippy::unwrap_used, missing_docs)]

mod cache;
mod config;
mod control;
mod corpus;
mod engine;
mod journal;
mod names;
mod pages;
mod shape;
mod world;
