//! What is known of one peer. Both directions and the timers work on it at once.

mod queue;
mod sessions;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::clock::Now;
use crate::cookie::Stamper;
use crate::endpoint::Endpoint;
use crate::handshake::{Begun, Key, Timestamp};
use crate::lock::{Lock as _, SharedLock as _};
use crate::timers::Timers;
use crate::transport::Session;
pub(crate) use queue::{Queue, Waiting};
pub(crate) use sessions::Sessions;

/// Locks are taken in the order of the fields, and never two of one kind.
pub(crate) struct Peer {
    pub(crate) public_key: Key,
    pub(crate) handshake: Mutex<Handshake>,
    pub(crate) sessions: RwLock<Sessions>,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) endpoint: Mutex<Option<Endpoint>>,
    pub(crate) allowed_ips: Mutex<BTreeSet<IpNet>>,
    pub(crate) timers: Timers,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    /// Nanoseconds since 1970; 0 before there was one.
    last_handshake: AtomicU64,
}

/// What only handshakes look at.
pub(crate) struct Handshake {
    pub(crate) preshared_key: Zeroizing<Key>,
    pub(crate) stamper: Stamper,
    /// Ours, with its index, while it is not answered.
    pub(crate) begun: Option<(u32, Begun)>,
    pub(crate) last_begun: Option<Duration>,
    /// Of our last initiation: the next one is later, whatever the clock does.
    pub(crate) last_timestamp: Timestamp,
    pub(crate) attempts: u32,
    /// Whether a cookie may lead to another initiation at once.
    pub(crate) may_repeat: bool,
    /// The greatest timestamp of the peer's initiations.
    pub(crate) greatest_timestamp: Timestamp,
    pub(crate) last_heard: Option<Duration>,
}

impl Peer {
    pub(crate) fn new(public_key: Key) -> Self {
        let salt = public_key
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Self {
            public_key,
            handshake: Mutex::new(Handshake {
                preshared_key: Zeroizing::new([0; 32]),
                stamper: Stamper::new(&public_key),
                begun: None,
                last_begun: None,
                last_timestamp: [0; 12],
                attempts: 0,
                may_repeat: false,
                greatest_timestamp: [0; 12],
                last_heard: None,
            }),
            sessions: RwLock::default(),
            queue: Mutex::default(),
            endpoint: Mutex::new(None),
            allowed_ips: Mutex::default(),
            timers: Timers::new(salt),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            last_handshake: AtomicU64::new(0),
        }
    }

    /// The session that packets for the peer are sealed with.
    pub(crate) fn current(&self, now: Now) -> Option<Arc<Session>> {
        let sessions = self.sessions.look();
        let current = sessions.current.as_ref()?;
        (!current.is_expired(now.monotonic)).then(|| Arc::clone(current))
    }

    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        *self.endpoint.hold()
    }

    /// Where an authentic message came from is where answers go.
    pub(crate) fn roam(&self, endpoint: Endpoint) {
        let mut known = self.endpoint.hold();
        if *known != Some(endpoint) {
            *known = Some(endpoint);
        }
    }

    /// Lets the routing table choose our address anew.
    pub(crate) fn forget_source(&self) {
        if let Some(endpoint) = self.endpoint.hold().as_mut() {
            endpoint.source = None;
        }
    }

    pub(crate) fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn handshake_completed(&self, now: Now) {
        self.timers.handshake_completed();
        let nanoseconds = u64::try_from(now.wall.as_nanos()).unwrap_or(0);
        self.last_handshake.store(nanoseconds, Ordering::Relaxed);
    }

    /// Since 1970; zero before there was one.
    pub(crate) fn last_handshake(&self) -> Duration {
        Duration::from_nanos(self.last_handshake.load(Ordering::Relaxed))
    }
}
