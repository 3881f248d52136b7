//! Making containers: an intent, because there is no idempotency key (API.md "Wire").

use std::time::Instant;

use crate::api::model::{CreateContainer, ExpiresAfter};
use crate::api::{Container, ContainerId};
use crate::journal::{Intent, Noted, steps};
use crate::namespace::inode::Ino;
use crate::namespace::listed::Listed;
use crate::vfs::{Error, Result, Vfs};

impl Vfs {
    /// Makes a container; returns its directory.
    ///
    /// # Errors
    /// The server's, or `ENOSPC` of the state directory.
    pub(super) async fn make_container(&self, name: &str) -> Result<Ino> {
        let known = self.containers_named(name);
        let intent = Intent::CreateContainer { name: name.to_owned(), known: known.clone() };
        let noted = self.journal.intend(&intent)?;
        let made = self.send_creation(name, &known).await;
        noted.done();
        Ok(self.show_made(made?, name))
    }

    /// A container that an earlier mount was about to make: looked for, then made.
    pub(super) async fn resume_creation(&self, name: &str, known: Vec<ContainerId>, noted: Noted) {
        if self.config.container.is_some() {
            // A mount of one container makes none; the next one of all will.
            return;
        }
        let made = match self.find_made(name, &known).await {
            Ok(Some(container)) => Ok(container),
            Ok(None) => self.send_creation(name, &known).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(container) => _ = self.show_made(container, name),
            Err(error) if error.is_refusal() => {
                tracing::warn!(%error, "a container that an earlier mount was asked for was refused");
            }
            // The next mount tries again.
            Err(error) => {
                tracing::warn!(%error, "a container that an earlier mount was asked for was not made yet");
                return;
            }
        }
        noted.done();
    }

    async fn send_creation(&self, name: &str, known: &[ContainerId]) -> Result<Container> {
        let wanted = &self.config.new_container;
        let expires_after = wanted.expires_after_minutes.map(|minutes| ExpiresAfter {
            anchor: Some("last_active_at".to_owned()),
            minutes: Some(minutes),
        });
        let params = CreateContainer {
            name: name.to_owned(),
            expires_after,
            memory_limit: wanted.memory_limit.clone(),
            network_policy: wanted.network_policy.clone(),
            ..CreateContainer::default()
        };
        let mut is_first = true;
        let error = loop {
            steps::step();
            let error = match self.client.create_container(&params).await {
                Ok(container) => match self.known_by_another_name(&container.id, name) {
                    // It would be deleted in the place of what was made.
                    Some(other) => {
                        let told = format!("the server answered a new container with the id of {other:?}");
                        break Error::told(libc::EPROTO, told);
                    }
                    None => return Ok(container),
                },
                Err(error) if error.may_have_happened => error,
                Err(error) if is_first => return Err(error.into()),
                Err(error) => break error.into(),
            };
            let again = is_first && self.client.wait_to_repeat(&error).await;
            match self.find_made(name, known).await {
                Ok(Some(container)) => return Ok(container),
                Ok(None) if again => {}
                Ok(None) | Err(_) => break error.into(),
            }
            self.client.count_repetition();
            is_first = false;
        };
        // The next look at the root asks the server again.
        self.state().tree.listed = None;
        Err(error)
    }

    /// A container of this name that was not known before, by a list fetched for it.
    async fn find_made(&self, name: &str, known: &[ContainerId]) -> Result<Option<Container>> {
        let containers = self.client.all_containers().await.map_err(Error::from)?;
        let state = self.state();
        let is_new = |container: &Container| {
            container.is_live()
                && container.name == name
                && !known.contains(&container.id)
                && !state.dead_containers.contains(&container.id)
        };
        Ok(containers.into_iter().find(is_new))
    }

    fn known_by_another_name(&self, id: &ContainerId, name: &str) -> Option<String> {
        let state = self.state();
        let known = state.tree.container(*state.tree.containers.get(id)?)?;
        Some(known.container.name.clone()).filter(|known| known != name)
    }

    fn containers_named(&self, name: &str) -> Vec<ContainerId> {
        let state = self.state();
        let containers = state.tree.containers.values().filter_map(|ino| state.tree.container(*ino));
        let named = containers.filter(|container| container.container.name == name);
        named.map(|container| container.container.id.clone()).collect()
    }

    fn show_made(&self, mut container: Container, name: &str) -> Ino {
        if container.name.is_empty() {
            name.clone_into(&mut container.name);
        }
        let mut state = self.state();
        let known = state.tree.containers.get(&container.id).copied();
        let ino = known.unwrap_or_else(|| state.show_container(container));
        if let Some(container) = state.tree.container_mut(ino) {
            container.listed = Some(Listed::at(Instant::now()));
        }
        ino
    }
}
