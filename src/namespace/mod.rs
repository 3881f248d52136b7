//! Server paths to shown names, inodes, listings and their freshness.
//!
//! [`names`] turns what a server calls a file into what a person sees, and back. [`inode`] is the tree of
//! what is seen. [`listing`] lays a fetched list over that tree. [`records`] is what this machine remembers
//! of files that the service has no field for: the name that was asked for, times, modes, directories,
//! tombstones, uploads that no list has shown. [`container`] is a container in the tree, [`listed`] how old a
//! list is, [`trust`] how far a model's bytes can be believed, [`gone`] what leaves the tree.

mod compact;
pub mod container;
mod departed;
pub mod gone;
pub mod inode;
pub mod landed;
pub mod listed;
pub mod listing;
pub mod names;
pub mod records;
pub mod tombstones;
pub mod trust;
