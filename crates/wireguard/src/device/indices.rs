//! Numbers by which messages from the network name their session.

use std::collections::HashMap;
use std::sync::Arc;

use crate::peer::Peer;
use crate::transport::Session;

/// As random as the numbers are, two of ten thousand peers meet now and then.
const TRIES: usize = 16;

#[derive(Default)]
pub(super) struct Indices {
    entries: HashMap<u32, Entry>,
}

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) peer: Arc<Peer>,
    /// None while the handshake is not answered.
    pub(super) session: Option<Arc<Session>>,
}

impl Indices {
    /// A number that is not in use. None if the system has no random numbers.
    pub(super) fn reserve(&mut self, peer: &Arc<Peer>) -> Option<u32> {
        for _ in 0..TRIES {
            let index = getrandom::u32().ok()?;
            if let std::collections::hash_map::Entry::Vacant(vacant) = self.entries.entry(index) {
                vacant.insert(Entry {
                    peer: Arc::clone(peer),
                    session: None,
                });
                return Some(index);
            }
        }
        None
    }

    pub(super) fn get(&self, index: u32) -> Option<&Entry> {
        self.entries.get(&index)
    }

    /// The handshake has led to a session.
    pub(super) fn set(&mut self, session: Arc<Session>) {
        if let Some(entry) = self.entries.get_mut(&session.local_index) {
            entry.session = Some(session);
        }
    }

    pub(super) fn remove(&mut self, index: u32) {
        self.entries.remove(&index);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
