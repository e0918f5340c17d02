//! The interface: its peers by key, by index and by address, and what packets lead to.

mod configuration;
mod handshakes;
mod indices;
mod receiving;
mod sending;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod sides;
mod timeouts;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crate::allowed_ips::AllowedIps;
use crate::cookie::{Checker, Limiter};
use crate::handshake::{Identity, Key};
use crate::peer::{Peer, Waiting};
pub(crate) use configuration::{AllowedIp, PeerChange};
use indices::Indices;
pub(crate) use receiving::{HandshakeMessage, Opened};

/// Every method may be called from any thread. Whatever looks at peers holds `tables` for reading meanwhile, so a peer that was
/// removed gets no session afterwards; locks of a peer come after it, `indices` after those.
pub(crate) struct Device {
    tables: RwLock<Tables>,
    gate: Mutex<Gate>,
    indices: RwLock<Indices>,
    waiting: Waiting,
    mtu: AtomicUsize,
}

struct Tables {
    identity: Option<Identity>,
    peers: HashMap<Key, Arc<Peer>>,
    owners: AllowedIps<Arc<Peer>>,
    listen_port: u16,
}

/// Who may have a handshake computed.
struct Gate {
    checker: Checker,
    limiter: Limiter,
}

impl Device {
    pub(crate) fn new(mtu: usize) -> Self {
        Self {
            tables: RwLock::new(Tables {
                identity: None,
                peers: HashMap::new(),
                owners: AllowedIps::new(),
                listen_port: 0,
            }),
            gate: Mutex::new(Gate {
                checker: Checker::new(&[0; 32]),
                limiter: Limiter::new(),
            }),
            indices: RwLock::default(),
            waiting: Waiting::default(),
            mtu: AtomicUsize::new(mtu),
        }
    }

    /// Up to which packets are padded.
    pub(crate) fn mtu(&self) -> usize {
        self.mtu.load(Ordering::Relaxed)
    }

    pub(crate) fn set_mtu(&self, mtu: usize) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }
}
