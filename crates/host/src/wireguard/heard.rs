//! Where peers were last heard from, for when what carried their packets is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use adit_model::key::PublicKey;

use super::Observed;

/// As old a session may become, WireGuard's REJECT_AFTER_TIME: a peer that has one believes in it.
const SESSION: Duration = Duration::from_secs(180);

/// A peer that a new dataplane shall reach where the old one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The peer.
    pub peer: PublicKey,
    /// Where it was last heard from.
    pub endpoint: SocketAddr,
    /// Whether it may believe in a session that nobody else has any more: it is told of a new one.
    pub is_active: bool,
}

/// What is remembered of peers.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    peers: BTreeMap<PublicKey, (SocketAddr, Option<SystemTime>)>,
    /// Those that the dataplane does not have any more.
    lost: BTreeSet<PublicKey>,
}

impl Heard {
    /// Learns from what a dataplane holds.
    pub(crate) fn note(&self, observed: &Observed) {
        let memory = &mut *self.lock();
        for (key, peer) in &observed.peers {
            if let Some(endpoint) = peer.endpoint {
                memory.peers.insert(*key, (endpoint, peer.last_handshake));
                memory.lost.remove(key);
            }
        }
        let is_lost = |key: &&PublicKey| !observed.peers.contains_key(*key);
        memory.lost.extend(memory.peers.keys().filter(is_lost));
    }

    /// There is a new dataplane, which knows nobody.
    pub(crate) fn lose(&self) {
        let memory = &mut *self.lock();
        memory.lost.extend(memory.peers.keys());
    }

    /// The peer shall not be there any more.
    pub(crate) fn forget(&self, key: &PublicKey) {
        let mut memory = self.lock();
        memory.peers.remove(key);
        memory.lost.remove(key);
    }

    /// Those of the peers `restored` that were lost.
    pub(crate) fn greetings<'a>(
        &self,
        restored: impl Iterator<Item = &'a PublicKey>,
        now: SystemTime,
    ) -> Vec<Greeting> {
        let memory = &mut *self.lock();
        let lost = restored.filter_map(|key| memory.lost.take(key));
        let greeting = |peer| {
            let (endpoint, last_handshake) = *memory.peers.get(&peer)?;
            let age = last_handshake.map(|moment| now.duration_since(moment).unwrap_or_default());
            Some(Greeting {
                peer,
                endpoint,
                is_active: age.is_some_and(|age| age < SESSION),
            })
        };
        lost.filter_map(greeting).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ObservedPeer;
    use super::*;

    #[test]
    fn whoever_was_lost_is_greeted_once() {
        let now = SystemTime::now();
        let [recent, idle, silent, kept] =
            [1, 2, 3, 4].map(|byte| PublicKey::from_bytes([byte; 32]));
        let endpoint: SocketAddr = "192.0.2.1:4711".parse().unwrap();
        let peer = |age: Option<u64>| ObservedPeer {
            endpoint: age.map(|_| endpoint),
            last_handshake: age.map(|age| now - Duration::from_secs(age)),
            ..ObservedPeer::new()
        };
        let all = [
            (recent, peer(Some(170))),
            (idle, peer(Some(190))),
            (silent, peer(None)),
            (kept, peer(Some(1))),
        ];
        let heard = Heard::default();
        heard.note(&Observed {
            peers: BTreeMap::from(all.clone()),
            ..Observed::default()
        });
        let keys = [recent, idle, silent, kept];
        assert_eq!(heard.greetings(keys.iter(), now), []);

        heard.note(&Observed {
            peers: BTreeMap::from([all[3].clone()]),
            ..Observed::default()
        });
        let greeting = |peer, is_active| Greeting {
            peer,
            endpoint,
            is_active,
        };
        let expected = [greeting(recent, true), greeting(idle, false)];
        assert_eq!(heard.greetings(keys.iter(), now), expected);
        assert_eq!(heard.greetings(keys.iter(), now), []);

        heard.lose();
        heard.forget(&kept);
        assert_eq!(heard.greetings(keys.iter(), now), expected);
    }
}
