//! The client's half of PCP: asks, repeats, renews, asks again after the server lost its state, and takes away.

mod epoch;
mod message;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use self::epoch::EpochWatch;
use super::wire::{
    Answer, Body, ErrorCode, MapBody, Nonce, PcpOption, RequestMessage, ResponseMessage,
};
use crate::jitter::Jitter;
use crate::port_control::Transmit;
use crate::port_control::wish::{Failure, Mapped, MappingId, Wish};

/// The first wait for an answer, and the longest (RFC 6887 section 8.1.1).
const FIRST_TIMEOUT: Duration = Duration::from_secs(3);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(1024);

/// Renewals are no closer to each other (RFC 6887 section 11.2.1).
const RENEWAL_GAP: Duration = Duration::from_secs(4);

/// All clients of a server that lost its state wait for up to this time, each for another (RFC 6887 section 14.1.3).
const LONGEST_SPREAD: Duration = Duration::from_secs(5);

/// No error holds longer (RFC 6887 section 15).
const LONGEST_REST: Duration = Duration::from_secs(24 * 60 * 60);

/// Another version may be spoken after this time (RFC 6887 section 9).
const LONGEST_VERSION_REST: Duration = Duration::from_secs(30 * 60);

/// How often a mapping is asked to be taken away before it is left to run out.
const DELETIONS: u32 = 3;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A server that speaks PCP answered for the first time.
    Answered,
    /// The server speaks another version; 0 is NAT-PMP.
    OtherVersion {
        /// The nearest that it speaks.
        version: u8,
        /// After which it may be asked again.
        rest: Duration,
    },
    /// A mapping is there, renewed, or another now.
    Mapped(MappingId, Mapped),
    /// A mapping is not there. It is asked for again after the time.
    Failed(MappingId, Failure, Duration),
    /// A mapping ran out, because nobody answered. It is asked for again.
    Lost(MappingId),
    /// A mapping is no longer kept; whether the server said that it is gone.
    Removed(MappingId, bool),
    /// The server lost its state: all mappings are asked for again.
    Reset,
}

/// A client of one server.
#[derive(Debug)]
pub struct Client {
    server: SocketAddr,
    local: IpAddr,
    jitter: Jitter,
    epoch: EpochWatch,
    is_answered: bool,
    probe: Option<Attempt>,
    hostnames: Option<bool>,
    entries: BTreeMap<MappingId, Entry>,
    /// Until then the server wants no new mappings, or nothing at all.
    no_new: Option<Instant>,
    nothing: Option<Instant>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

/// Something that is sent until it is answered.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    due: Instant,
    timeout: Duration,
}

#[derive(Debug)]
struct Entry {
    wish: Wish,
    nonce: Nonce,
    held: Option<Held>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    external: SocketAddr,
    ports: u16,
    since: Instant,
    lifetime: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// For the server to show whether it knows TLS names.
    Waiting,
    /// Asked, and asked again.
    Asking(Attempt),
    /// Held, and renewed so many times since it was last granted.
    Keeping { due: Instant, renewals: u32 },
    /// Refused; asked for again then.
    Resting(Instant),
    /// Asked so many times to be taken away.
    Removing { attempt: Attempt, sent: u32 },
}

impl Client {
    /// A client at the address `local`, from which its datagrams go out. It asks the server at once which version it speaks.
    /// `seed` spreads its waiting times.
    pub fn new(server: SocketAddr, local: IpAddr, seed: u64, now: Instant) -> Self {
        Self {
            server,
            local,
            jitter: Jitter::new(seed),
            epoch: EpochWatch::default(),
            is_answered: false,
            probe: Some(Attempt::new(now)),
            hostnames: None,
            entries: BTreeMap::new(),
            no_new: None,
            nothing: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Asks for a mapping and keeps it. `nonce` is random, and of this mapping alone.
    pub fn insert(&mut self, id: MappingId, wish: Wish, nonce: Nonce, now: Instant) {
        let at = self.no_new.map_or(now, |it| it.max(now));
        let entry = Entry {
            wish,
            nonce,
            held: None,
            phase: Phase::Asking(Attempt::new(at)),
        };
        self.entries.insert(id, entry);
    }

    /// Takes a mapping away. An outbound one is only no longer renewed: there is no way to end it (RFC 6887 section 15.2).
    pub fn remove(&mut self, id: MappingId, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        match entry.phase {
            Phase::Removing { .. } => {}
            Phase::Waiting => self.finish(id, true),
            Phase::Asking(_) | Phase::Keeping { .. } | Phase::Resting(_)
                if entry.wish.remote.is_some() =>
            {
                self.finish(id, false);
            }
            Phase::Asking(_) | Phase::Keeping { .. } | Phase::Resting(_) => {
                let attempt = Attempt::new(now);
                entry.phase = Phase::Removing { attempt, sent: 0 };
            }
        }
    }

    /// Whether the server leads TLS names; nothing while it has not said.
    pub const fn hostnames(&self) -> Option<bool> {
        self.hostnames
    }

    /// Takes in a datagram; one that does not concern this client is passed over (RFC 6887 section 8.3).
    pub fn handle_input(&mut self, datagram: &[u8], source: SocketAddr, now: Instant) {
        if source != self.server {
            return;
        }
        match ResponseMessage::decode(datagram) {
            None => {}
            Some(ResponseMessage::OtherVersion { version, lifetime }) => {
                let rest = seconds(lifetime.max(1)).min(LONGEST_VERSION_REST);
                self.rest_all(now + rest);
                self.events.push_back(Event::OtherVersion { version, rest });
            }
            Some(ResponseMessage::Answer(answer)) => self.handle_answer(&answer, now),
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(until) = self.nothing {
            if now < until {
                return;
            }
            self.nothing = None;
        }
        if let Some(mut attempt) = self.probe.filter(|it| it.due <= now) {
            self.send(self.announce());
            attempt.repeat(&mut self.jitter, now);
            self.probe = Some(attempt);
        }
        let is_due = |entry: &Entry| entry.due().is_some_and(|due| due <= now);
        let due = self.entries.iter().filter(|(_, entry)| is_due(entry));
        let due: Vec<_> = due.map(|(id, _)| *id).collect();
        for id in due {
            self.advance(id, now);
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let entries = self.entries.values().filter_map(Entry::due);
        let next = entries.chain(self.probe.map(|it| it.due)).min();
        next.map(|it| self.nothing.map_or(it, |until| it.max(until)))
    }

    /// A datagram that is to be sent.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Something that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn handle_answer(&mut self, answer: &Answer, now: Instant) {
        if !self.is_answered {
            self.is_answered = true;
            self.events.push_back(Event::Answered);
        }
        if self.epoch.shows_loss(answer.epoch, now) {
            self.begin_again(now);
        }
        if answer.body == Body::Announce {
            self.handle_announcement(answer, now);
            return;
        }
        let found = self
            .entries
            .iter()
            .find(|(_, entry)| message::is_about(answer, &entry.wish, entry.nonce));
        if let Some(id) = found.map(|(id, _)| *id) {
            match answer.error {
                Some(code) => self.handle_error(id, code, answer.lifetime, now),
                None => self.handle_success(id, answer, now),
            }
        }
    }

    fn handle_announcement(&mut self, answer: &Answer, now: Instant) {
        if answer.options.contains(&PcpOption::HostnameCapability) {
            self.hostnames = Some(true);
        } else if self.probe.is_some() {
            self.hostnames = Some(false);
        }
        self.probe = None;
        for entry in self.entries.values_mut() {
            match entry.phase {
                Phase::Waiting => entry.phase = Phase::Asking(Attempt::new(now)),
                Phase::Asking(_)
                | Phase::Keeping { .. }
                | Phase::Resting(_)
                | Phase::Removing { .. } => {}
            }
        }
    }

    fn handle_success(&mut self, id: MappingId, answer: &Answer, now: Instant) {
        let map = match &answer.body {
            Body::Announce => return,
            Body::Map(map) => *map,
            Body::Peer(peer) => peer.map,
        };
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if let Phase::Removing { .. } = entry.phase {
            // Anything else answers an earlier request, or traffic keeps the mapping: it runs out.
            if answer.lifetime == 0 {
                self.finish(id, true);
            }
            return;
        }
        if entry.wish.prefer_failure && !entry.is_as_suggested(&map) {
            return;
        }
        if answer.lifetime == 0 {
            entry.held = None;
            entry.phase = Phase::Asking(Attempt::new(now + RENEWAL_GAP));
            self.events.push_back(Event::Lost(id));
            return;
        }
        let ports = message::ports(answer).min(entry.wish.ports);
        if !message::has_hostnames(answer, &entry.wish) {
            let (wish, nonce) = (entry.wish.clone(), entry.nonce);
            let rest = seconds(ErrorCode::HostnameUnsupported.usual_lifetime());
            entry.rest(now + rest);
            self.send(message::deletion(self.local, &wish, nonce, ports));
            let failure = Failure::HostnamesNotOffered;
            self.events.push_back(Event::Failed(id, failure, rest));
            return;
        }
        let held = Held {
            external: SocketAddr::new(map.external, map.external_port),
            ports,
            since: now,
            lifetime: seconds(answer.lifetime),
        };
        entry.held = Some(held);
        entry.phase = Phase::Keeping {
            due: held.renewal(0, &mut self.jitter, now),
            renewals: 0,
        };
        let mapped = Mapped {
            external: held.external,
            ports,
            lifetime: held.lifetime,
        };
        self.events.push_back(Event::Mapped(id, mapped));
    }

    fn handle_error(&mut self, id: MappingId, code: ErrorCode, lifetime: u32, now: Instant) {
        let rest = seconds(lifetime.max(1)).min(LONGEST_REST);
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if let Phase::Removing { .. } = entry.phase {
            if code == ErrorCode::NoResources {
                self.nothing = Some(now + rest);
            }
            self.finish(id, false);
            return;
        }
        let is_about_options =
            code == ErrorCode::MalformedOption || code == ErrorCode::UnsupportedOption;
        if is_about_options && entry.wish.ports > 1 {
            // Some servers stumble over port sets in place of passing over them: one port is better than none.
            entry.wish.ports = 1;
            entry.phase = Phase::Asking(Attempt::new(now));
            return;
        }
        entry.rest(now + rest);
        if code == ErrorCode::NoResources {
            self.hold_new(now + rest);
        }
        let failure = match code {
            ErrorCode::HostnameUnsupported => Failure::HostnamesNotOffered,
            ErrorCode::UnsupportedVersion
            | ErrorCode::NotAuthorized
            | ErrorCode::MalformedRequest
            | ErrorCode::UnsupportedOpcode
            | ErrorCode::UnsupportedOption
            | ErrorCode::MalformedOption
            | ErrorCode::NetworkFailure
            | ErrorCode::NoResources
            | ErrorCode::UnsupportedProtocol
            | ErrorCode::QuotaExceeded
            | ErrorCode::CannotProvideExternal
            | ErrorCode::AddressMismatch
            | ErrorCode::ExcessiveRemotePeers
            | ErrorCode::HostnameTaken
            | ErrorCode::Other(_) => Failure::Pcp(code),
        };
        self.events.push_back(Event::Failed(id, failure, rest));
    }

    /// The server has nothing left to give: what is not there yet waits (RFC 6887 section 11.4).
    fn hold_new(&mut self, until: Instant) {
        self.no_new = Some(until);
        for entry in self.entries.values_mut().filter(|it| it.held.is_none()) {
            match entry.phase {
                Phase::Asking(attempt) if attempt.due < until => {
                    entry.phase = Phase::Asking(Attempt::new(until));
                }
                Phase::Asking(_)
                | Phase::Waiting
                | Phase::Keeping { .. }
                | Phase::Resting(_)
                | Phase::Removing { .. } => {}
            }
        }
    }

    fn rest_all(&mut self, until: Instant) {
        self.probe = Some(Attempt::new(until));
        for entry in self.entries.values_mut() {
            match entry.phase {
                Phase::Removing { .. } => {}
                Phase::Waiting | Phase::Asking(_) | Phase::Keeping { .. } | Phase::Resting(_) => {
                    entry.rest(until);
                }
            }
        }
    }

    /// Asks for everything again, each thing at a moment of its own.
    fn begin_again(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            match entry.phase {
                Phase::Keeping { .. } => {
                    let wait = self.jitter.between(Duration::ZERO, LONGEST_SPREAD);
                    entry.phase = Phase::Asking(Attempt::new(now + wait));
                }
                Phase::Waiting | Phase::Asking(_) | Phase::Resting(_) | Phase::Removing { .. } => {}
            }
        }
        self.events.push_back(Event::Reset);
    }

    fn advance(&mut self, id: MappingId, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        match entry.phase {
            Phase::Waiting => {}
            Phase::Resting(_) => {
                entry.phase = Phase::Asking(Attempt::new(now));
                self.advance(id, now);
            }
            Phase::Asking(attempt) => self.ask(id, attempt, now),
            Phase::Keeping { renewals, .. } => self.renew(id, renewals, now),
            Phase::Removing { attempt, sent } => self.ask_to_remove(id, attempt, sent, now),
        }
    }

    fn ask(&mut self, id: MappingId, mut attempt: Attempt, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if !entry.wish.hostnames.is_empty() {
            match self.hostnames {
                Some(true) => {}
                Some(false) => {
                    let rest = seconds(ErrorCode::HostnameUnsupported.usual_lifetime());
                    entry.rest(now + rest);
                    // It may be another server by then.
                    self.hostnames = None;
                    let failure = Failure::HostnamesNotOffered;
                    self.events.push_back(Event::Failed(id, failure, rest));
                    return;
                }
                None => {
                    entry.phase = Phase::Waiting;
                    self.probe.get_or_insert(Attempt::new(now));
                    return;
                }
            }
        }
        attempt.repeat(&mut self.jitter, now);
        entry.phase = Phase::Asking(attempt);
        self.send_request(id);
    }

    fn renew(&mut self, id: MappingId, renewals: u32, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        match entry.held.filter(|held| held.expires() > now) {
            Some(held) => {
                let renewals = renewals + 1;
                entry.phase = Phase::Keeping {
                    due: held.renewal(renewals, &mut self.jitter, now),
                    renewals,
                };
                self.send_request(id);
            }
            None => {
                self.events.push_back(Event::Lost(id));
                self.ask(id, Attempt::new(now), now);
            }
        }
    }

    fn ask_to_remove(&mut self, id: MappingId, mut attempt: Attempt, sent: u32, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if sent == DELETIONS {
            self.finish(id, false);
            return;
        }
        attempt.repeat(&mut self.jitter, now);
        entry.phase = Phase::Removing {
            attempt,
            sent: sent + 1,
        };
        let ports = entry.held.map_or(entry.wish.ports, |held| held.ports);
        let datagram = message::deletion(self.local, &entry.wish, entry.nonce, ports);
        self.send(datagram);
    }

    fn send_request(&mut self, id: MappingId) {
        if let Some(entry) = self.entries.get(&id) {
            let held = entry.held.map(|it| it.external);
            let datagram = message::request(self.local, &entry.wish, entry.nonce, held);
            self.send(datagram);
        }
    }

    fn announce(&self) -> Vec<u8> {
        let message = RequestMessage {
            client: self.local,
            lifetime: 0,
            body: Body::Announce,
            options: Vec::new(),
        };
        message.encode()
    }

    fn send(&mut self, datagram: Vec<u8>) {
        self.transmits.push_back(Transmit {
            to: self.server,
            datagram,
        });
    }

    fn finish(&mut self, id: MappingId, is_confirmed: bool) {
        self.entries.remove(&id);
        self.events.push_back(Event::Removed(id, is_confirmed));
    }
}

impl Attempt {
    const fn new(due: Instant) -> Self {
        Self {
            due,
            timeout: Duration::ZERO,
        }
    }

    /// Sent: when it is sent again (RFC 6887 section 8.1.1).
    fn repeat(&mut self, jitter: &mut Jitter, now: Instant) {
        let timeout = match self.timeout {
            Duration::ZERO => FIRST_TIMEOUT,
            before => before.saturating_mul(2).min(LONGEST_TIMEOUT),
        };
        self.timeout = jitter.around(timeout);
        self.due = now + self.timeout;
    }
}

impl Entry {
    const fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting => None,
            Phase::Asking(attempt) | Phase::Removing { attempt, .. } => Some(attempt.due),
            Phase::Keeping { due, .. } => Some(due),
            Phase::Resting(until) => Some(until),
        }
    }

    fn rest(&mut self, until: Instant) {
        self.held = None;
        self.phase = Phase::Resting(until);
    }

    fn is_as_suggested(&self, map: &MapBody) -> bool {
        let address = self.wish.suggestion.address;
        let port = self.wish.suggestion.port;
        address.is_none_or(|it| it == map.external)
            && port.is_none_or(|it| it.get() == map.external_port)
    }
}

impl Held {
    fn expires(&self) -> Instant {
        self.since + self.lifetime
    }

    /// When to renew after so many renewals: in the first quarter of each half of what is left (RFC 6887 section 11.2.1).
    fn renewal(&self, renewals: u32, jitter: &mut Jitter, now: Instant) -> Instant {
        let half = self.lifetime / 2_u32.saturating_pow(renewals + 1);
        let from = self.lifetime.saturating_sub(half);
        let at = self.since + jitter.between(from, from + half / 4);
        at.max(now + RENEWAL_GAP).min(self.expires()).max(now)
    }
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(count.into())
}
