//! What the administrator sets.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::{Device, Tables};
use crate::clock::Now;
use crate::cookie::Checker;
use crate::endpoint::Endpoint;
use crate::handshake::{Identity, Key};
use crate::lock::{Lock as _, SharedLock as _};
use crate::peer::Peer;

/// A change of one peer; what it does not name stays.
pub(crate) struct PeerChange {
    pub(crate) public_key: Key,
    pub(crate) remove: bool,
    /// No peer is made of it.
    pub(crate) update_only: bool,
    pub(crate) preshared_key: Option<Zeroizing<Key>>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) keepalive_interval: Option<u16>,
    pub(crate) replace_allowed_ips: bool,
    pub(crate) allowed_ips: Vec<AllowedIp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AllowedIp {
    Add(IpNet),
    Remove(IpNet),
}

impl PeerChange {
    pub(crate) const fn new(public_key: Key) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            keepalive_interval: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

impl Device {
    /// All zeroes is no key. With another key than before all sessions end.
    pub(crate) fn set_private_key(&self, private_key: &Key) {
        let mut tables = self.tables.change();
        if *private_key == [0; 32] {
            tables.identity = None;
        } else {
            let identity = Identity::new(*private_key);
            let before = tables.identity.as_ref().map(|before| before.public_key);
            if before == Some(identity.public_key) {
                return;
            }
            self.gate.hold().checker = Checker::new(&identity.public_key);
            // A peer cannot be ourselves.
            if let Some(peer) = tables.peers.remove(&identity.public_key) {
                self.forget(&mut tables, &peer);
            }
            tables.identity = Some(identity);
        }
        for peer in tables.peers.values() {
            self.erase(peer);
            // The next handshake need not wait for one with the old key.
            peer.handshake.hold().last_begun = None;
        }
    }

    pub(crate) fn private_key(&self) -> Option<Zeroizing<Key>> {
        let tables = self.tables.look();
        tables.identity.as_ref().map(Identity::private_key)
    }

    /// The UDP port that datagrams leave from.
    pub(crate) fn set_listen_port(&self, port: u16) {
        self.tables.change().listen_port = port;
    }

    pub(crate) fn peers(&self) -> Vec<Arc<Peer>> {
        self.tables.look().peers.values().map(Arc::clone).collect()
    }

    pub(crate) fn remove_peers(&self) {
        for peer in self.peers() {
            let mut tables = self.tables.change();
            if tables.peers.remove(&peer.public_key).is_some() {
                self.forget(&mut tables, &peer);
            }
        }
    }

    /// Changes a peer, all at once. A prefix that another peer had is this one's then. A keepalive may be due.
    pub(crate) fn change_peer(&self, now: Now, change: &PeerChange) {
        let mut tables = self.tables.change();
        let tables = &mut *tables;
        if change.remove {
            if let Some(peer) = tables.peers.remove(&change.public_key) {
                self.forget(tables, &peer);
            }
            return;
        }
        let identity = tables.identity.as_ref();
        if identity.is_some_and(|identity| identity.public_key == change.public_key) {
            return;
        }
        let peer = match tables.peers.get(&change.public_key) {
            Some(peer) => Arc::clone(peer),
            None if change.update_only => return,
            None => {
                let peer = Arc::new(Peer::new(change.public_key));
                tables.peers.insert(change.public_key, Arc::clone(&peer));
                peer
            }
        };
        if let Some(preshared_key) = &change.preshared_key {
            peer.handshake.hold().preshared_key = preshared_key.clone();
        }
        if let Some(address) = change.endpoint {
            let mut endpoint = peer.endpoint.hold();
            if endpoint.is_none_or(|known| known.address != address) {
                *endpoint = Some(Endpoint::new(address));
            }
        }
        if change.replace_allowed_ips {
            replace_allowed_ips(tables, &peer, change);
        } else {
            for prefix in &change.allowed_ips {
                match prefix {
                    AllowedIp::Add(prefix) => allow(tables, &peer, *prefix),
                    AllowedIp::Remove(prefix) => disallow(tables, &peer, *prefix),
                }
            }
        }
        if let Some(interval) = change.keepalive_interval {
            peer.timers.set_interval(now.monotonic, interval);
        }
    }

    /// Ends what a peer has that is in no table any more.
    fn forget(&self, tables: &mut Tables, peer: &Arc<Peer>) {
        for prefix in std::mem::take(&mut *peer.allowed_ips.hold()) {
            tables.owners.remove(prefix);
        }
        drop(peer.queue.hold().take(&self.waiting));
        self.erase(peer);
    }
}

/// What stays is never away, not even for a packet.
fn replace_allowed_ips(tables: &mut Tables, peer: &Arc<Peer>, change: &PeerChange) {
    let mut wanted = BTreeSet::new();
    for prefix in &change.allowed_ips {
        match prefix {
            AllowedIp::Add(prefix) => wanted.insert(prefix.trunc()),
            AllowedIp::Remove(prefix) => wanted.remove(&prefix.trunc()),
        };
    }
    let before = peer.allowed_ips.hold().clone();
    for prefix in before.difference(&wanted) {
        disallow(tables, peer, *prefix);
    }
    for prefix in wanted.difference(&before) {
        allow(tables, peer, *prefix);
    }
}

fn allow(tables: &mut Tables, peer: &Arc<Peer>, prefix: IpNet) {
    let prefix = prefix.trunc();
    if let Some(owner) = tables.owners.insert(prefix, Arc::clone(peer))
        && !Arc::ptr_eq(&owner, peer)
    {
        owner.allowed_ips.hold().remove(&prefix);
    }
    peer.allowed_ips.hold().insert(prefix);
}

fn disallow(tables: &mut Tables, peer: &Arc<Peer>, prefix: IpNet) {
    let prefix = prefix.trunc();
    if peer.allowed_ips.hold().remove(&prefix) {
        tables.owners.remove(prefix);
    }
}
