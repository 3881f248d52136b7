//! Names to inodes.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use crate::api::ContainerId;
use crate::namespace::inode::{Ino, Kind, ROOT};
use crate::namespace::names::NAME_MAX;
use crate::vfs::{Entry, Error, Result, State, Vfs};

/// What a lookup found.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// An entry.
    Entry(Entry),
    /// Nothing, and how long the kernel may remember that.
    Nothing(Duration),
}

impl Vfs {
    /// Finds `name` in a directory and counts a reference of the kernel to it.
    ///
    /// # Errors
    /// `ENAMETOOLONG`, `ESTALE` if the directory is gone, or the server's.
    pub async fn lookup(self: &Arc<Self>, parent: Ino, name: &OsStr) -> Result<Found> {
        if let Some(result) = self.lookup_now(parent, name) {
            return result;
        }
        // The kernel asks again for what it has an entry of.
        let may_be_repeated = {
            let state = self.state();
            let node = name.to_str().and_then(|name| state.tree.get(state.tree.child(parent, name)?));
            node.is_some_and(|node| node.lookups > 0)
        };
        let key = (parent, name.to_owned());
        self.looked_up.attempt(key, may_be_repeated, self.look_up(parent, name)).await
    }

    async fn look_up(self: &Arc<Self>, parent: Ino, name: &OsStr) -> Result<Found> {
        self.ensure_entries(parent).await?;
        let name = name.to_str().unwrap_or_default();
        let child = self.state().tree.child(parent, name);
        match child {
            Some(ino) => {
                if let Err(error) = self.ensure_size(ino).await {
                    if error.is_gone() {
                        return Ok(Found::Nothing(Duration::ZERO));
                    }
                    return Err(error);
                }
                let mut state = self.state();
                Ok(self.found(&mut state, parent, name))
            }
            None if parent == ROOT => self.lookup_id(name).await,
            None => Ok(Found::Nothing(self.negative_ttl(&self.state(), parent))),
        }
    }

    /// The same from memory; `None` if the server must be asked.
    pub fn lookup_now(&self, parent: Ino, name: &OsStr) -> Option<Result<Found>> {
        if name.len() > NAME_MAX {
            return Some(Err(Error::quiet(libc::ENAMETOOLONG)));
        }
        let mut state = self.state();
        if state.tree.get(parent).is_none() {
            return Some(Err(Error::quiet(libc::ESTALE)));
        }
        if !self.entries_fresh(&state, parent) {
            return None;
        }
        let Some(name) = name.to_str() else {
            return Some(Ok(Found::Nothing(self.negative_ttl(&state, parent))));
        };
        let Some(ino) = state.tree.child(parent, name) else {
            // An id may be of a container that the list doesn't show yet.
            if parent == ROOT
                && (may_be_container_id(name) || state.tree.containers.contains_key(&ContainerId::from(name)))
            {
                return None;
            }
            return Some(Ok(Found::Nothing(self.negative_ttl(&state, parent))));
        };
        if let Some(file) = state.tree.file(ino)
            && state.local_len(ino).is_none()
            && self.size_of(file).is_none()
        {
            return None;
        }
        Some(Ok(self.found(&mut state, parent, name)))
    }

    /// The kernel drops references.
    pub fn forget(&self, ino: Ino, count: u64) {
        let mut state = self.state();
        state.tree.forget(ino, count);
        state.forget_shown(ino);
    }

    /// Where the symbolic link `ino` points.
    ///
    /// # Errors
    /// `EINVAL` if it is none.
    pub fn readlink(&self, ino: Ino) -> Result<String> {
        match self.state().tree.get(ino).map(|node| &node.kind) {
            Some(Kind::Link(target)) => Ok(target.clone()),
            _ => Err(Error::quiet(libc::EINVAL)),
        }
    }

    fn found(&self, state: &mut State, parent: Ino, name: &str) -> Found {
        let Some(ino) = state.tree.child(parent, name) else {
            return Found::Nothing(self.negative_ttl(state, parent));
        };
        if let Some(node) = state.tree.get_mut(ino) {
            node.lookups += 1;
        }
        match state.tree.get(ino) {
            Some(node) => Found::Entry(self.entry_of(state, ino, node)),
            None => Found::Nothing(Duration::ZERO),
        }
    }

    /// A container's id resolves to a link to its name.
    async fn lookup_id(self: &Arc<Self>, name: &str) -> Result<Found> {
        let mut id = ContainerId::from(name);
        let known = self.state().tree.containers.contains_key(&id);
        if self.config.container.is_some() || !(known || may_be_container_id(name)) {
            return Ok(Found::Nothing(self.negative_ttl(&self.state(), ROOT)));
        }
        if !known {
            match self.client.retrieve_container(&id).await.map_err(Error::from) {
                Ok(container) if container.is_live() => {
                    // A gateway's id of a container may be another one than lists and replies tell.
                    id = container.id.clone();
                    let mut state = self.state();
                    if !state.tree.containers.contains_key(&id) {
                        state.show_container(container);
                    }
                }
                Ok(_) => return Ok(Found::Nothing(self.config.ttl)),
                Err(error) if error.is_gone() || error.errno == libc::EINVAL => {
                    return Ok(Found::Nothing(self.config.ttl));
                }
                Err(error) => return Err(error),
            }
        }
        let mut state = self.state();
        let target =
            state.tree.containers.get(&id).and_then(|ino| state.tree.get(*ino)).map(|n| n.name.to_string());
        let Some(target) = target else { return Ok(Found::Nothing(Duration::ZERO)) };
        let ino = state.tree.insert_link(name, target);
        let ttl = self.config.ttl;
        let Some(node) = state.tree.get_mut(ino) else { return Ok(Found::Nothing(Duration::ZERO)) };
        node.lookups = 1;
        let node = state.tree.get(ino).ok_or_else(|| Error::quiet(libc::ESTALE))?;
        let attr = self.entry_of(&state, ino, node).attr;
        Ok(Found::Entry(Entry { attr, ttl }))
    }

    fn negative_ttl(&self, state: &State, parent: Ino) -> Duration {
        if state.is_being_renamed_behind(parent) {
            return Duration::ZERO;
        }
        let listed = match state.tree.get(parent).map(|node| &node.kind) {
            Some(Kind::Container(container)) => container.listed,
            _ => self.listed_at(state, parent),
        };
        listed.map_or(Duration::ZERO, |listed| self.config.ttl.saturating_sub(listed.age()))
    }
}

impl State {
    /// Shows a container that no list has shown yet.
    pub(super) fn show_container(&mut self, container: crate::api::Container) -> Ino {
        use crate::namespace::{container::ContainerNode, listing, names};
        let bare = names::safe_component(&container.name, &container.name);
        let free = |name: &str| self.tree.child(ROOT, name).is_none();
        let name = if free(&bare) { bare } else { listing::made_up(&bare, container.id.as_str(), free) };
        self.tree.insert(ROOT, &name, Kind::Container(Box::new(ContainerNode::unlisted(container))))
    }
}

/// Ids are opaque, but no one looks up ids shorter than this, and each miss costs a request.
fn may_be_container_id(name: &str) -> bool {
    name.strip_prefix("cntr_").is_some_and(|rest| rest.len() >= 8) || name.len() >= 100
}
