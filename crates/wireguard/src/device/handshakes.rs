//! Handshakes with peers: beginning, answering, finishing.

use std::sync::Arc;
use std::time::Duration;

use super::{Device, Gate, HandshakeMessage, Tables};
use crate::clock::Now;
use crate::endpoint::Endpoint;
use crate::handshake::{self, Timestamp};
use crate::lock::{Lock as _, SharedLock as _};
use crate::message::{self, CookieReply, Initiation, Response};
use crate::outgoing::Outgoing;
use crate::peer::Peer;
use crate::timers::REKEY_TIMEOUT;
use crate::transport::Session;

/// A peer's initiations are answered no more often.
const INITIATION_INTERVAL: Duration = Duration::from_millis(20);

/// Why a handshake is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// There is something to send, or keys are old.
    Need,
    /// The last one was not answered.
    Silence,
    /// The last one was answered with a cookie.
    Cookie,
}

impl Device {
    /// Takes a message that belongs to a handshake.
    pub(crate) fn handle_handshake(
        &self,
        now: Now,
        message: &HandshakeMessage,
        endpoint: Endpoint,
        outgoing: &mut Outgoing,
    ) {
        let tables = self.tables.look();
        match message {
            HandshakeMessage::Initiation(message) => {
                if self.admits(now, message, endpoint, outgoing) {
                    self.answer(&tables, now, message, endpoint, outgoing);
                }
            }
            HandshakeMessage::Response(message) => {
                self.complete(now, message, endpoint, outgoing);
            }
            HandshakeMessage::CookieReply(message) => {
                self.take_cookie(&tables, now, message, outgoing);
            }
        }
    }

    /// Begins a handshake, unless one was begun moments ago.
    pub(super) fn begin(
        &self,
        tables: &Tables,
        peer: &Arc<Peer>,
        now: Now,
        cause: Cause,
        outgoing: &mut Outgoing,
    ) {
        let (Some(identity), Some(endpoint)) = (&tables.identity, peer.endpoint()) else {
            return;
        };
        let mut state = peer.handshake.hold();
        let is_early = state
            .last_begun
            .is_some_and(|last| now.monotonic.saturating_sub(last) < REKEY_TIMEOUT);
        if cause == Cause::Need {
            state.attempts = 0;
        }
        if is_early && cause != Cause::Cookie {
            return;
        }
        state.may_repeat = cause != Cause::Cookie;
        let timestamp = later(now.timestamp(), &state.last_timestamp);
        let Some((noise, begun)) =
            handshake::begin(identity, &peer.public_key, &state.preshared_key, timestamp)
        else {
            return;
        };
        let index = {
            let mut indices = self.indices.change();
            if let Some((before, _)) = state.begun.take() {
                indices.remove(before);
            }
            let Some(index) = indices.reserve(peer) else {
                return;
            };
            index
        };
        let mut message = message::initiation(index, &noise);
        state.stamper.stamp(now.monotonic, &mut message);
        state.begun = Some((index, begun));
        state.last_begun = Some(now.monotonic);
        state.last_timestamp = timestamp;
        peer.timers.sent(now.monotonic);
        peer.timers.handshake_begun(now.monotonic);
        peer.count_sent(message.len());
        outgoing.push(endpoint, message.to_vec());
    }

    /// The peer has shown that it has the keys of a session whose handshake it began.
    pub(super) fn confirm(
        &self,
        peer: &Arc<Peer>,
        session: &Arc<Session>,
        now: Now,
        outgoing: &mut Outgoing,
    ) {
        let gone = peer.sessions.change().confirm(session);
        if let Some(gone) = gone {
            self.indices.change().remove(gone.local_index);
        }
        peer.handshake_completed(now);
        self.flush(peer, now, outgoing);
    }

    /// Forgets the handshake that nobody answers.
    pub(super) fn abandon(&self, peer: &Peer) {
        if let Some((index, _)) = peer.handshake.hold().begun.take() {
            self.indices.change().remove(index);
        }
    }

    /// Forgets all keys of a peer.
    pub(super) fn erase(&self, peer: &Peer) {
        self.abandon(peer);
        let gone = peer.sessions.change().take_all();
        let mut indices = self.indices.change();
        for session in gone {
            indices.remove(session.local_index);
        }
    }

    /// Whether an initiation is worth computing an answer. While there are too many, it takes a cookie.
    fn admits(
        &self,
        now: Now,
        initiation: &Initiation,
        endpoint: Endpoint,
        outgoing: &mut Outgoing,
    ) -> bool {
        let (moment, source) = (now.monotonic, endpoint.address);
        let mut gate = self.gate.hold();
        let Gate { checker, limiter } = &mut *gate;
        if !checker.has_first_mac(initiation) {
            return false;
        }
        limiter.count(moment);
        if !limiter.is_loaded(moment) {
            return true;
        }
        if checker.has_cookie(moment, initiation, source) {
            return limiter.admits(moment, source.ip());
        }
        if limiter.admits_unproven(moment, source.ip()) {
            return true;
        }
        let sender = message::first_index(initiation);
        if let Some(reply) = checker.reply(moment, initiation, sender, source) {
            outgoing.push(endpoint, reply.to_vec());
        }
        false
    }

    /// Whether a response to an initiation of ours is worth a computation. That it names the initiation says as much as a cookie.
    fn admits_response(&self, now: Now, response: &Response, endpoint: Endpoint) -> bool {
        let mut gate = self.gate.hold();
        let Gate { checker, limiter } = &mut *gate;
        checker.has_first_mac(response)
            && (!limiter.is_loaded(now.monotonic)
                || limiter.admits(now.monotonic, endpoint.address.ip()))
    }

    fn answer(
        &self,
        tables: &Tables,
        now: Now,
        initiation: &Initiation,
        endpoint: Endpoint,
        outgoing: &mut Outgoing,
    ) {
        let Some(identity) = &tables.identity else {
            return;
        };
        let Some(heard) = handshake::hear(identity, initiation) else {
            return;
        };
        let Some(peer) = tables.peers.get(&heard.public_key) else {
            return;
        };
        let mut state = peer.handshake.hold();
        let is_early = state
            .last_heard
            .is_some_and(|last| now.monotonic.saturating_sub(last) < INITIATION_INTERVAL);
        if heard.timestamp <= state.greatest_timestamp {
            return;
        }
        state.greatest_timestamp = heard.timestamp;
        if is_early {
            return;
        }
        state.last_heard = Some(now.monotonic);
        let Some((noise, keys)) = heard.answer(&state.preshared_key) else {
            return;
        };
        let Some(index) = self.indices.change().reserve(peer) else {
            return;
        };
        let remote_index = message::first_index(initiation);
        let Some(session) = Session::new(index, remote_index, false, now.monotonic, &keys) else {
            self.indices.change().remove(index);
            return;
        };
        self.add(peer, session);
        let mut response = message::response(index, remote_index, &noise);
        state.stamper.stamp(now.monotonic, &mut response);
        drop(state);
        peer.roam(endpoint);
        peer.count_received(initiation.len());
        peer.count_sent(response.len());
        peer.timers.received(now.monotonic);
        peer.timers.sent(now.monotonic);
        peer.timers.keys_derived(now.monotonic);
        outgoing.push(endpoint, response.to_vec());
    }

    fn complete(&self, now: Now, response: &Response, endpoint: Endpoint, outgoing: &mut Outgoing) {
        let index = message::response_receiver(response);
        let Some(entry) = self.indices.look().get(index).cloned() else {
            return;
        };
        if entry.session.is_some() || !self.admits_response(now, response, endpoint) {
            return;
        }
        let peer = &entry.peer;
        let mut state = peer.handshake.hold();
        let keys = match &mut state.begun {
            Some((begun_index, begun)) if *begun_index == index => begun.finish(response),
            Some(_) | None => None,
        };
        let Some(keys) = keys else {
            return;
        };
        state.begun = None;
        state.attempts = 0;
        let remote_index = message::first_index(response);
        let Some(session) = Session::new(index, remote_index, true, now.monotonic, &keys) else {
            self.indices.change().remove(index);
            return;
        };
        self.add(peer, session);
        drop(state);
        peer.roam(endpoint);
        peer.count_received(response.len());
        peer.timers.received(now.monotonic);
        peer.timers.keys_derived(now.monotonic);
        peer.handshake_completed(now);
        if !self.flush(peer, now, outgoing) {
            // The peer may not send before it has seen that we have the keys.
            self.prove(peer, now, outgoing);
        }
    }

    fn add(&self, peer: &Arc<Peer>, session: Session) {
        let session = Arc::new(session);
        let gone = peer.sessions.change().add(Arc::clone(&session));
        let mut indices = self.indices.change();
        indices.set(session);
        for session in gone {
            indices.remove(session.local_index);
        }
    }

    fn take_cookie(&self, tables: &Tables, now: Now, reply: &CookieReply, outgoing: &mut Outgoing) {
        let index = message::first_index(reply);
        let Some(entry) = self.indices.look().get(index).cloned() else {
            return;
        };
        let repeats = {
            let mut state = entry.peer.handshake.hold();
            let is_begun = matches!(&state.begun, Some((begun, _)) if *begun == index);
            state.stamper.take(now.monotonic, reply) && is_begun && state.may_repeat
        };
        entry.peer.count_received(reply.len());
        // Once: whoever reads along may answer everything with cookies.
        if repeats {
            self.begin(tables, &entry.peer, now, Cause::Cookie, outgoing);
        }
    }
}

/// The timestamp, or the one after the last where the clock has not gone on.
fn later(timestamp: Timestamp, last: &Timestamp) -> Timestamp {
    if timestamp > *last {
        return timestamp;
    }
    let mut padded = [0; 16];
    padded[4..].copy_from_slice(last);
    let next = u128::from_be_bytes(padded).saturating_add(0x0100_0000);
    let mut timestamp = [0; 12];
    timestamp.copy_from_slice(&next.to_be_bytes()[4..]);
    timestamp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_back_makes_no_older_timestamps() {
        let at = |seconds| {
            let now = Now {
                monotonic: Duration::ZERO,
                wall: Duration::from_secs(seconds),
            };
            now.timestamp()
        };
        assert_eq!(later(at(9), &at(8)), at(9));
        let next = later(at(5), &at(8));
        assert!(next > at(8));
        assert!(next < at(9));
    }
}
