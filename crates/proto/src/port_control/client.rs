//! A client that finds out what its server speaks: PCP if it does, else NAT-PMP.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::Transmit;
use super::wish::{Failure, Mapped, MappingId, Wish};
use crate::pcp::wire::Nonce;
use crate::{nat_pmp, pcp};

/// NAT-PMP is tried as well when PCP was not answered for this time.
const HEAD_START: Duration = Duration::from_secs(1);

/// With neither answered for this time, there is no server.
const PATIENCE: Duration = Duration::from_secs(8);

/// The first pause before a server is looked for again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(30 * 60);

/// How mappings are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
}

impl Mechanism {
    /// The name, `pcp` or `nat-pmp`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcp => "pcp",
            Self::NatPmp => "nat-pmp",
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server speaks this.
    Found(Mechanism),
    /// Nothing that is known here is spoken there. It is tried again after the time.
    Absent(Duration),
    /// A mapping is there, renewed, or another now.
    Mapped(MappingId, Mapped),
    /// A mapping is not there. It is asked for again after the time; without one, not while the server speaks what it does.
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
    local: IpAddr,
    seed: u64,
    wishes: BTreeMap<MappingId, (Wish, Nonce)>,
    state: State,
    pause: Duration,
    events: VecDeque<Event>,
}

#[derive(Debug)]
enum State {
    /// Both are asked; the one that answers is kept.
    Looking {
        pcp: Box<pcp::client::Client>,
        nat_pmp: Option<Box<nat_pmp::client::Client>>,
        until: Instant,
    },
    Pcp(Box<pcp::client::Client>),
    NatPmp(Box<nat_pmp::client::Client>),
    Absent(Instant),
}

impl Client {
    /// A client at the address `local`, from which its datagrams go out. `seed` spreads its waiting times.
    pub fn new(server: SocketAddr, local: IpAddr, seed: u64, now: Instant) -> Self {
        Self {
            server,
            local,
            seed,
            wishes: BTreeMap::new(),
            state: State::look(server, local, seed, now),
            pause: FIRST_PAUSE,
            events: VecDeque::new(),
        }
    }

    /// Asks for a mapping and keeps it. `nonce` is random, and of this mapping alone.
    pub fn insert(&mut self, id: MappingId, wish: Wish, nonce: Nonce, now: Instant) {
        self.wishes.insert(id, (wish.clone(), nonce));
        match &mut self.state {
            State::Pcp(client) => client.insert(id, wish, nonce, now),
            State::NatPmp(client) => client.insert(id, wish, now),
            State::Looking { .. } | State::Absent(_) => {}
        }
        self.follow(now);
    }

    /// Takes a mapping away.
    pub fn remove(&mut self, id: MappingId, now: Instant) {
        if self.wishes.remove(&id).is_none() {
            return;
        }
        match &mut self.state {
            State::Pcp(client) => client.remove(id, now),
            State::NatPmp(client) => client.remove(id, now),
            State::Looking { .. } | State::Absent(_) => {
                self.events.push_back(Event::Removed(id, false));
            }
        }
        self.follow(now);
    }

    /// What the server speaks, when it has shown that.
    pub const fn mechanism(&self) -> Option<Mechanism> {
        match self.state {
            State::Pcp(_) => Some(Mechanism::Pcp),
            State::NatPmp(_) => Some(Mechanism::NatPmp),
            State::Looking { .. } | State::Absent(_) => None,
        }
    }

    /// Takes in a datagram.
    pub fn handle_input(&mut self, datagram: &[u8], source: SocketAddr, now: Instant) {
        match &mut self.state {
            State::Looking { pcp, nat_pmp, .. } => {
                pcp.handle_input(datagram, source, now);
                if let Some(nat_pmp) = nat_pmp
                    && datagram.first() == Some(&nat_pmp::wire::VERSION)
                {
                    nat_pmp.handle_input(datagram, source, now);
                }
            }
            State::Pcp(client) => client.handle_input(datagram, source, now),
            State::NatPmp(client) => client.handle_input(datagram, source, now),
            State::Absent(_) => {}
        }
        self.follow(now);
    }

    /// The server's port is closed, as its host says.
    pub fn handle_unreachable(&mut self, now: Instant) {
        match self.state {
            State::Looking { .. } => self.give_up(None, now),
            // Servers that are started again are away for a moment.
            State::Pcp(_) | State::NatPmp(_) | State::Absent(_) => {}
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.state {
            State::Looking { until, .. } if *until <= now => self.give_up(None, now),
            State::Looking { pcp, nat_pmp, .. } => {
                pcp.handle_timeout(now);
                if let Some(nat_pmp) = nat_pmp {
                    nat_pmp.handle_timeout(now);
                }
            }
            State::Pcp(client) => client.handle_timeout(now),
            State::NatPmp(client) => client.handle_timeout(now),
            State::Absent(until) if *until <= now => {
                self.state = State::look(self.server, self.local, self.seed, now);
                self.handle_timeout(now);
            }
            State::Absent(_) => {}
        }
        self.follow(now);
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Looking {
                pcp,
                nat_pmp,
                until,
            } => {
                let nat_pmp = nat_pmp.as_ref().and_then(|it| it.poll_timeout());
                pcp.poll_timeout()
                    .into_iter()
                    .chain(nat_pmp)
                    .chain([*until])
                    .min()
            }
            State::Pcp(client) => client.poll_timeout(),
            State::NatPmp(client) => client.poll_timeout(),
            State::Absent(until) => Some(*until),
        }
    }

    /// A datagram that is to be sent.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        match &mut self.state {
            State::Looking { pcp, nat_pmp, .. } => pcp
                .poll_transmit()
                .or_else(|| nat_pmp.as_mut()?.poll_transmit()),
            State::Pcp(client) => client.poll_transmit(),
            State::NatPmp(client) => client.poll_transmit(),
            State::Absent(_) => None,
        }
    }

    /// Something that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Draws the consequences of what the clients inside tell.
    fn follow(&mut self, now: Instant) {
        match &mut self.state {
            State::Looking { pcp, nat_pmp, .. } => {
                let mut found = None;
                while let Some(event) = pcp.poll_event() {
                    match event {
                        pcp::client::Event::Answered => found = Some(Found::Pcp),
                        pcp::client::Event::OtherVersion { version: 0, .. }
                            if nat_pmp.is_some() =>
                        {
                            found = Some(Found::NatPmp);
                        }
                        pcp::client::Event::OtherVersion { rest, .. } => {
                            found = Some(Found::Nothing(rest));
                        }
                        pcp::client::Event::Mapped(..)
                        | pcp::client::Event::Failed(..)
                        | pcp::client::Event::Lost(_)
                        | pcp::client::Event::Removed(..)
                        | pcp::client::Event::Reset => {}
                    }
                }
                while let Some(event) = nat_pmp.as_mut().and_then(|it| it.poll_event()) {
                    match event {
                        nat_pmp::client::Event::Answered => {
                            found = found.or(Some(Found::NatPmp));
                        }
                        nat_pmp::client::Event::OtherVersion
                        | nat_pmp::client::Event::Mapped(..)
                        | nat_pmp::client::Event::Failed(..)
                        | nat_pmp::client::Event::Lost(_)
                        | nat_pmp::client::Event::Removed(..)
                        | nat_pmp::client::Event::Reset => {}
                    }
                }
                if let Some(found) = found {
                    self.settle(found, now);
                }
            }
            State::Pcp(client) => {
                let mut other = None;
                while let Some(event) = client.poll_event() {
                    match event {
                        pcp::client::Event::Answered => {}
                        pcp::client::Event::OtherVersion { version, rest } => {
                            other = Some((version, rest));
                        }
                        pcp::client::Event::Mapped(id, mapped) => {
                            self.events.push_back(Event::Mapped(id, mapped));
                        }
                        pcp::client::Event::Failed(id, failure, rest) => {
                            let failed = Event::Failed(id, failure, Some(rest));
                            self.events.push_back(failed);
                        }
                        pcp::client::Event::Lost(id) => self.events.push_back(Event::Lost(id)),
                        pcp::client::Event::Removed(id, is_confirmed) => {
                            self.events.push_back(Event::Removed(id, is_confirmed));
                        }
                        pcp::client::Event::Reset => self.events.push_back(Event::Reset),
                    }
                }
                match other {
                    // A router was exchanged, or set anew.
                    Some((0, _)) if self.server.is_ipv4() => {
                        self.state = State::Absent(now + HEAD_START);
                    }
                    Some((_, rest)) => self.give_up(Some(rest), now),
                    None => {}
                }
            }
            State::NatPmp(client) => {
                let mut is_other = false;
                while let Some(event) = client.poll_event() {
                    match event {
                        nat_pmp::client::Event::Answered => {}
                        nat_pmp::client::Event::OtherVersion => is_other = true,
                        nat_pmp::client::Event::Mapped(id, mapped) => {
                            self.events.push_back(Event::Mapped(id, mapped));
                        }
                        nat_pmp::client::Event::Failed(id, failure, rest) => {
                            self.events.push_back(Event::Failed(id, failure, rest));
                        }
                        nat_pmp::client::Event::Lost(id) => self.events.push_back(Event::Lost(id)),
                        nat_pmp::client::Event::Removed(id, is_confirmed) => {
                            self.events.push_back(Event::Removed(id, is_confirmed));
                        }
                        nat_pmp::client::Event::Reset => self.events.push_back(Event::Reset),
                    }
                }
                if is_other {
                    self.state = State::Absent(now + HEAD_START);
                }
            }
            State::Absent(_) => {}
        }
    }

    /// Goes on with what the server speaks, and asks it for everything.
    fn settle(&mut self, found: Found, now: Instant) {
        let state = std::mem::replace(&mut self.state, State::Absent(now));
        let State::Looking { pcp, nat_pmp, .. } = state else {
            self.state = state;
            return;
        };
        let wishes = self.wishes.iter();
        let (state, mechanism) = match (found, nat_pmp) {
            (Found::Pcp, _) => {
                let mut client = pcp;
                for (id, (wish, nonce)) in wishes {
                    client.insert(*id, wish.clone(), *nonce, now);
                }
                client.handle_timeout(now);
                (State::Pcp(client), Mechanism::Pcp)
            }
            (Found::NatPmp, Some(client)) => {
                let mut client = match client.address() {
                    Some(_) => client,
                    // It has not begun to ask.
                    None => Box::new(nat_pmp::client::Client::new(self.server, self.seed, now)),
                };
                for (id, (wish, _)) in wishes {
                    client.insert(*id, wish.clone(), now);
                }
                client.handle_timeout(now);
                (State::NatPmp(client), Mechanism::NatPmp)
            }
            (Found::NatPmp, None) => return self.give_up(None, now),
            (Found::Nothing(rest), _) => return self.give_up(Some(rest), now),
        };
        self.state = state;
        self.pause = FIRST_PAUSE;
        self.events.push_back(Event::Found(mechanism));
        self.follow(now);
    }

    fn give_up(&mut self, rest: Option<Duration>, now: Instant) {
        let pause = rest.unwrap_or_default().max(self.pause);
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        self.state = State::Absent(now + pause);
        self.events.push_back(Event::Absent(pause));
    }
}

/// What a server turned out to speak.
enum Found {
    Pcp,
    NatPmp,
    /// Neither, for this time.
    Nothing(Duration),
}

impl State {
    fn look(server: SocketAddr, local: IpAddr, seed: u64, now: Instant) -> Self {
        let pcp = pcp::client::Client::new(server, local, seed, now);
        let nat_pmp = server
            .is_ipv4()
            .then(|| nat_pmp::client::Client::new(server, seed, now + HEAD_START));
        Self::Looking {
            pcp: Box::new(pcp),
            nat_pmp: nat_pmp.map(Box::new),
            until: now + PATIENCE,
        }
    }
}
