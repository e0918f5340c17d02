//! The client's half of NAT-PMP: one request at a time, renewed at half its life, asked again after the server lost its state.

mod epoch;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use self::epoch::EpochWatch;
use super::wire::{ErrorCode, MapFields, RequestMessage, ResponseBody, ResponseMessage, VERSION};
use crate::jitter::Jitter;
use crate::port_control::Transmit;
use crate::port_control::wish::{Failure, Mapped, MappingId, Wish};

/// The first wait for an answer; each after it is twice as long (RFC 6886 section 3.1).
const FIRST_TIMEOUT: Duration = Duration::from_millis(250);

/// How often a request is sent.
const SENDS: u32 = 9;

/// All clients of a server that lost its state wait for up to this time, each for another (RFC 6886 section 3.7).
const LONGEST_SPREAD: Duration = Duration::from_secs(5);

/// After a failure, or no answer, the same is asked again after this time.
const REST: Duration = Duration::from_secs(60);

/// For so long the external address that was heard is taken for the one of now.
const FRESH: Duration = Duration::from_secs(30);

/// No renewal follows another sooner.
const RENEWAL_GAP: Duration = Duration::from_secs(4);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A server that speaks NAT-PMP answered for the first time.
    Answered,
    /// The server does not speak NAT-PMP.
    OtherVersion,
    /// A mapping is there, renewed, or another now.
    Mapped(MappingId, Mapped),
    /// A mapping is not there. It is asked for again after the time, if at all.
    Failed(MappingId, Failure, Option<Duration>),
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
    jitter: Jitter,
    epoch: EpochWatch,
    is_answered: bool,
    address: Option<Ipv4Addr>,
    /// When it was heard.
    address_heard: Option<Instant>,
    /// When it is asked for.
    address_due: Option<Instant>,
    entries: BTreeMap<MappingId, Entry>,
    flight: Option<Flight>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

/// What was asked and is not answered yet.
#[derive(Clone, Copy, Debug)]
struct Flight {
    job: Job,
    sent: u32,
    due: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Address,
    Map(MappingId),
    Remove(MappingId),
}

#[derive(Debug)]
struct Entry {
    wish: Wish,
    held: Option<Held>,
    is_leaving: bool,
    due: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    port: NonZeroU16,
    since: Instant,
    lifetime: Duration,
}

impl Client {
    /// A client that asks for the external address at `start`. `seed` spreads its waiting times.
    pub fn new(server: SocketAddr, seed: u64, start: Instant) -> Self {
        Self {
            server,
            jitter: Jitter::new(seed),
            epoch: EpochWatch::default(),
            is_answered: false,
            address: None,
            address_heard: None,
            address_due: Some(start),
            entries: BTreeMap::new(),
            flight: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Asks for a mapping and keeps it. Of several ports it gets the first; what the protocol cannot say fails.
    pub fn insert(&mut self, id: MappingId, wish: Wish, now: Instant) {
        if !wish.is_plain() {
            let event = Event::Failed(id, Failure::NeedsPcp, None);
            self.events.push_back(event);
            return;
        }
        let entry = Entry {
            wish,
            held: None,
            is_leaving: false,
            due: now,
        };
        self.entries.insert(id, entry);
    }

    /// Takes a mapping away.
    pub fn remove(&mut self, id: MappingId, now: Instant) {
        match self.entries.get_mut(&id) {
            Some(entry) if !entry.is_leaving => {
                entry.is_leaving = true;
                entry.due = now;
                if self.flight.is_some_and(|it| it.job == Job::Map(id)) {
                    self.flight = None;
                }
            }
            Some(_) => {}
            None => self.events.push_back(Event::Removed(id, false)),
        }
    }

    /// The external address, when the server said it.
    pub const fn address(&self) -> Option<Ipv4Addr> {
        self.address
    }

    /// Takes in a datagram; one that does not concern this client is passed over.
    pub fn handle_input(&mut self, datagram: &[u8], source: SocketAddr, now: Instant) {
        if source != self.server {
            return;
        }
        if datagram.first().is_some_and(|version| *version != VERSION) {
            self.events.push_back(Event::OtherVersion);
            return;
        }
        let Some(message) = ResponseMessage::decode(datagram) else {
            return;
        };
        if message.error == Some(ErrorCode::UnsupportedVersion) {
            self.events.push_back(Event::OtherVersion);
            return;
        }
        if !self.is_answered {
            self.is_answered = true;
            self.events.push_back(Event::Answered);
        }
        if message.error.is_none() && self.epoch.shows_loss(message.epoch, now) {
            self.begin_again(now);
        }
        match message.body {
            ResponseBody::ExternalAddress(address) => {
                self.handle_address(message.error, address, now);
            }
            ResponseBody::Map(fields) => self.handle_map(message.error, &fields, now),
            ResponseBody::Nothing => {
                if let Some(code) = message.error {
                    self.end_flight(Failure::NatPmp(code), now);
                }
            }
        }
        self.handle_timeout(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.flight {
            Some(flight) if flight.due > now => {}
            Some(flight) if flight.sent < SENDS => self.launch(flight.job, flight.sent, now),
            Some(_) => {
                self.end_flight(Failure::NoAnswer, now);
                self.begin_next(now);
            }
            None => self.begin_next(now),
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.flight {
            Some(flight) => Some(flight.due),
            None => self.next().map(|(due, _)| due),
        }
    }

    /// A datagram that is to be sent.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Something that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn handle_address(&mut self, error: Option<ErrorCode>, address: Ipv4Addr, now: Instant) {
        let is_asked = self.flight.is_some_and(|it| it.job == Job::Address);
        if let Some(code) = error {
            if is_asked {
                self.end_flight(Failure::NatPmp(code), now);
            }
            return;
        }
        if is_asked {
            self.flight = None;
        }
        self.address_due = None;
        self.address_heard = Some(now);
        if self.address.replace(address) != Some(address) {
            let held: Vec<_> = self
                .entries
                .iter()
                .filter(|(_, entry)| !entry.is_leaving)
                .filter_map(|(id, entry)| Some((*id, entry.held?)))
                .collect();
            for (id, held) in held {
                self.tell(id, &held, now);
            }
        }
    }

    fn handle_map(&mut self, error: Option<ErrorCode>, fields: &MapFields, now: Instant) {
        let Some(flight) = self.flight else {
            return;
        };
        let (Job::Map(id) | Job::Remove(id)) = flight.job else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&id) else {
            self.flight = None;
            return;
        };
        let is_same = entry.wish.protocol == fields.protocol
            && entry.wish.internal_port.get() == fields.internal_port;
        // A late answer to a request for the mapping does not tell that it is gone.
        let is_deletion = fields.lifetime == 0 && fields.external_port == 0;
        let is_removal = flight.job == Job::Remove(id);
        if !is_same || (error.is_none() && is_removal != is_deletion) {
            return;
        }
        match (error, NonZeroU16::new(fields.external_port)) {
            (Some(code), _) => self.end_flight(Failure::NatPmp(code), now),
            (None, _) if is_removal => {
                self.flight = None;
                self.entries.remove(&id);
                self.events.push_back(Event::Removed(id, true));
            }
            (None, None) => self.end_flight(Failure::NatPmp(ErrorCode::OutOfResources), now),
            (None, Some(port)) => {
                let held = Held {
                    port,
                    since: now,
                    lifetime: Duration::from_secs(fields.lifetime.into()),
                };
                entry.held = Some(held);
                entry.due = now + (held.lifetime / 2).max(RENEWAL_GAP);
                self.flight = None;
                self.tell(id, &held, now);
                // Not every server announces that it has another.
                if self.address_heard.is_some_and(|heard| heard + FRESH < now) {
                    self.address_due.get_or_insert(now);
                }
            }
        }
    }

    fn tell(&mut self, id: MappingId, held: &Held, now: Instant) {
        let Some(address) = self.address else {
            return;
        };
        let mapped = Mapped {
            external: SocketAddr::new(IpAddr::V4(address), held.port.get()),
            ports: 1,
            lifetime: (held.since + held.lifetime).saturating_duration_since(now),
        };
        self.events.push_back(Event::Mapped(id, mapped));
    }

    /// What is in flight failed.
    fn end_flight(&mut self, failure: Failure, now: Instant) {
        let Some(flight) = self.flight.take() else {
            return;
        };
        match flight.job {
            Job::Address => {
                self.address_due = Some(now + REST);
                // Of mappings that are held their renewals tell whether somebody is there.
                if failure == Failure::NoAnswer && self.address.is_some() {
                    return;
                }
                self.address = None;
                // What cannot be told where it is has failed as well.
                let staying = self.entries.iter().filter(|(_, entry)| !entry.is_leaving);
                let failed = staying.map(|(id, _)| Event::Failed(*id, failure, Some(REST)));
                self.events.extend(failed);
            }
            Job::Remove(id) => {
                self.entries.remove(&id);
                self.events.push_back(Event::Removed(id, false));
            }
            Job::Map(id) => self.rest(id, failure, now),
        }
    }

    fn rest(&mut self, id: MappingId, failure: Failure, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let left = entry.held.map(|held| held.since + held.lifetime);
        match left.filter(|until| *until > now) {
            // Somebody did not answer a renewal: there is time for another.
            Some(until) if failure == Failure::NoAnswer => {
                let half = until.saturating_duration_since(now) / 2;
                entry.due = now + half.max(RENEWAL_GAP);
            }
            Some(_) => {
                entry.held = None;
                entry.due = now + REST;
                self.events
                    .push_back(Event::Failed(id, failure, Some(REST)));
            }
            None => {
                let event = match entry.held.take() {
                    Some(_) => Event::Lost(id),
                    None => Event::Failed(id, failure, Some(REST)),
                };
                entry.due = now + REST;
                self.events.push_back(event);
            }
        }
    }

    fn begin_again(&mut self, now: Instant) {
        let wait = self.jitter.between(Duration::ZERO, LONGEST_SPREAD);
        for entry in self.entries.values_mut().filter(|it| !it.is_leaving) {
            entry.due = entry.due.min(now + wait);
        }
        self.address_due = Some(now + wait);
        self.events.push_back(Event::Reset);
    }

    fn begin_next(&mut self, now: Instant) {
        if let Some((due, job)) = self.next()
            && due <= now
        {
            self.launch(job, 0, now);
        }
    }

    fn next(&self) -> Option<(Instant, Job)> {
        let entries = self.entries.iter().map(|(id, entry)| {
            let job = if entry.is_leaving {
                Job::Remove(*id)
            } else {
                Job::Map(*id)
            };
            (entry.due, job)
        });
        let address = self.address_due.map(|due| (due, Job::Address));
        // The first of equals: a mapping is of use only with the address.
        address
            .into_iter()
            .chain(entries)
            .min_by_key(|(due, _)| *due)
    }

    fn launch(&mut self, job: Job, sent: u32, now: Instant) {
        let message = match job {
            Job::Address => Some(RequestMessage::ExternalAddress),
            Job::Map(id) => self.entries.get(&id).map(Entry::request),
            Job::Remove(id) => self.entries.get(&id).map(Entry::deletion),
        };
        let Some(message) = message else {
            self.flight = None;
            return;
        };
        self.transmits.push_back(Transmit {
            to: self.server,
            datagram: message.encode(),
        });
        self.flight = Some(Flight {
            job,
            sent: sent + 1,
            due: now + FIRST_TIMEOUT.saturating_mul(1 << sent.min(SENDS)),
        });
    }
}

impl Entry {
    fn request(&self) -> RequestMessage {
        let held = self.held.map(|it| it.port);
        let port = held.or(self.wish.suggestion.port);
        RequestMessage::Map(MapFields {
            protocol: self.wish.protocol,
            internal_port: self.wish.internal_port.get(),
            external_port: port.map_or(0, NonZeroU16::get),
            lifetime: self.wish.lifetime.max(1),
        })
    }

    fn deletion(&self) -> RequestMessage {
        RequestMessage::Map(MapFields {
            protocol: self.wish.protocol,
            internal_port: self.wish.internal_port.get(),
            external_port: 0,
            lifetime: 0,
        })
    }
}
