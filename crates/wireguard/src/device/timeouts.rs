//! What becomes due as time goes by.

use std::sync::Arc;
use std::time::Duration;

use super::handshakes::Cause;
use super::{Device, Tables};
use crate::clock::Now;
use crate::lock::{Lock as _, SharedLock as _};
use crate::outgoing::Outgoing;
use crate::peer::Peer;
use crate::timers::ATTEMPTS;

impl Device {
    /// Does what is due. The earliest deadline comes back; packets may make an earlier one at any moment.
    pub(crate) fn handle_timeout(&self, now: Now, outgoing: &mut Outgoing) -> Option<Duration> {
        let peers = self.peers();
        let mut next = None;
        for peer in &peers {
            let deadline = peer.timers.next();
            if deadline.is_some_and(|deadline| deadline <= now.monotonic) {
                let tables = self.tables.look();
                // It may have been removed in between.
                if tables.peers.contains_key(&peer.public_key) {
                    self.handle_due(&tables, peer, now, outgoing);
                }
            }
            next = match (next, peer.timers.next()) {
                (Some(one), Some(other)) => Some(std::cmp::min(one, other)),
                (one, other) => one.or(other),
            };
        }
        next
    }

    fn handle_due(&self, tables: &Tables, peer: &Arc<Peer>, now: Now, outgoing: &mut Outgoing) {
        let due = peer.timers.take_due(now.monotonic);
        if due.erasure {
            self.erase(peer);
        }
        if due.retransmission {
            self.retry(tables, peer, now, outgoing);
        }
        if due.handshake {
            peer.forget_source();
            self.begin(tables, peer, now, Cause::Need, outgoing);
        }
        if due.keepalive {
            self.keepalive(tables, peer, now, outgoing);
        }
    }

    fn retry(&self, tables: &Tables, peer: &Arc<Peer>, now: Now, outgoing: &mut Outgoing) {
        let attempts = {
            let mut state = peer.handshake.hold();
            state.attempts += 1;
            state.attempts
        };
        if attempts > ATTEMPTS {
            drop(peer.queue.hold().take(&self.waiting));
            self.abandon(peer);
            peer.timers.gave_up(now.monotonic);
            return;
        }
        peer.forget_source();
        self.begin(tables, peer, now, Cause::Silence, outgoing);
    }
}
