//! Mappings with one gateway: wanted, held, and given back.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU16;
use std::time::{Duration, Instant, SystemTime};

use adit_model::protocol::Protocol;
use adit_model::timestamp::Timestamp;
use adit_proto::pcp::wire::{Filter, Hostname, Nonce, Suggestion};
use adit_proto::port_control::client::{Event, Mechanism};
use adit_proto::port_control::wish::{Failure, Mapped, MappingId, Wish};

use crate::connection::Connection;
use crate::holdings::Holding;

/// Consecutive ports of this host that shall be reached from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The first port.
    pub first: NonZeroU16,
    /// How many.
    pub ports: u16,
    /// The first port that remote hosts should see.
    pub external: Option<NonZeroU16>,
    /// Whether no other will do.
    pub is_exact: bool,
    /// In seconds.
    pub lifetime: u32,
    /// Who may come in; nobody named is everybody.
    pub filters: Vec<Filter>,
    /// TLS names that shall lead here.
    pub hostnames: Vec<Hostname>,
}

/// What happened to a mapping, or to all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is held, renewed, or another now. Of a range there may be several.
    Held(Holding),
    /// It cannot be had. It is asked for again after the time.
    Failed(Wanted, Failure, Duration),
    /// It ran out. It is asked for again.
    Lost(Wanted),
    /// It was given back; whether the gateway said so.
    Released(Wanted, bool),
    /// The gateway lost its state; everything is asked for again.
    Reset,
    /// The gateway does not answer. It is asked again after the time.
    Absent(Duration),
}

/// Keeps mappings with a gateway for as long as it is polled.
#[derive(Debug)]
pub struct Holder {
    connection: Connection,
    entries: BTreeMap<MappingId, Entry>,
    last: u64,
    mechanism: Mechanism,
}

#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    nonce: Nonce,
    held: bool,
}

impl Holder {
    /// With a gateway that answered.
    pub fn new(mut connection: Connection) -> Self {
        let mechanism = connection.client().mechanism().unwrap_or(Mechanism::Pcp);
        Self {
            connection,
            entries: BTreeMap::new(),
            last: 0,
            mechanism,
        }
    }

    /// The connection to the gateway.
    pub const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// How it is asked.
    pub const fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Asks for a mapping, and keeps it. With the nonce of an earlier time it is that mapping which is renewed.
    ///
    /// # Errors
    ///
    /// When this host has no random numbers.
    pub fn want(&mut self, wanted: Wanted, nonce: Option<[u8; 12]>) -> io::Result<()> {
        let nonce = match nonce {
            Some(nonce) => Nonce(nonce),
            None => random_nonce()?,
        };
        self.insert(wanted, nonce);
        Ok(())
    }

    /// Gives back a mapping of an earlier time.
    pub fn release_earlier(&mut self, wanted: Wanted, nonce: [u8; 12]) {
        let id = self.insert(wanted, Nonce(nonce));
        self.connection.client().remove(id, Instant::now());
    }

    /// Gives everything back.
    pub fn release_all(&mut self) {
        for id in self.entries.keys() {
            self.connection.client().remove(*id, Instant::now());
        }
    }

    /// Whether nothing is wanted any more.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether everything that is wanted is held, but for these.
    pub fn is_settled_but(&self, refused: &[(Protocol, u16)]) -> bool {
        self.entries.values().all(|entry| {
            entry.held || refused.contains(&(entry.wanted.protocol, entry.wanted.first.get()))
        })
    }

    /// Waits for the next change. Nothing is lost when the wait is given up.
    pub async fn next_change(&mut self) -> Change {
        loop {
            let event = self.connection.next_event().await;
            if let Some(change) = self.take(event) {
                return change;
            }
        }
    }

    fn take(&mut self, event: Event) -> Option<Change> {
        match event {
            Event::Found(mechanism) => {
                self.mechanism = mechanism;
                None
            }
            Event::Absent(rest) => Some(Change::Absent(rest)),
            Event::Reset => Some(Change::Reset),
            Event::Mapped(id, mapped) => self.hold(id, &mapped),
            Event::Failed(id, failure, rest) => {
                let entry = self.entries.get_mut(&id)?;
                entry.held = false;
                Some(Change::Failed(entry.wanted.clone(), failure, rest))
            }
            Event::Lost(id) => {
                let entry = self.entries.get_mut(&id)?;
                entry.held = false;
                Some(Change::Lost(entry.wanted.clone()))
            }
            Event::Removed(id, is_confirmed) => {
                let entry = self.entries.remove(&id)?;
                Some(Change::Released(entry.wanted, is_confirmed))
            }
        }
    }

    fn hold(&mut self, id: MappingId, mapped: &Mapped) -> Option<Change> {
        let entry = self.entries.get_mut(&id)?;
        entry.held = true;
        let rest = entry.wanted.split_off(mapped.ports);
        let nonce = entry.nonce;
        let candidate = self.connection.candidate();
        let expires = SystemTime::now() + mapped.lifetime;
        let holding = Holding {
            gateway: candidate.server,
            local: candidate.local,
            mechanism: self.mechanism.name().to_owned(),
            protocol: entry.wanted.protocol,
            port: entry.wanted.first.get(),
            ports: entry.wanted.ports,
            external: mapped.external,
            hostnames: entry.wanted.names(),
            expires: Timestamp::from(expires),
            nonce: nonce.0,
            watcher: None,
        };
        if let Some(rest) = rest {
            self.insert(rest, nonce);
        }
        Some(Change::Held(holding))
    }

    fn insert(&mut self, wanted: Wanted, nonce: Nonce) -> MappingId {
        self.last += 1;
        let id = MappingId(self.last);
        let wish = wanted.wish();
        self.connection
            .client()
            .insert(id, wish, nonce, Instant::now());
        let entry = Entry {
            wanted,
            nonce,
            held: false,
        };
        self.entries.insert(id, entry);
        id
    }
}

impl Wanted {
    /// What was granted before.
    pub fn of(holding: &Holding) -> Option<Self> {
        Some(Self {
            protocol: holding.protocol,
            first: NonZeroU16::new(holding.port)?,
            ports: holding.ports,
            external: NonZeroU16::new(holding.external.port()),
            is_exact: false,
            lifetime: 0,
            filters: Vec::new(),
            hostnames: holding
                .hostnames
                .iter()
                .filter_map(|it| Hostname::new(it))
                .collect(),
        })
    }

    fn wish(&self) -> Wish {
        Wish {
            ports: self.ports,
            suggestion: Suggestion {
                address: None,
                // Where it is all the same, the own number is the one that people expect.
                port: self.external.or(Some(self.first)),
            },
            prefer_failure: self.is_exact,
            filters: self.filters.clone(),
            hostnames: self.hostnames.clone(),
            ..Wish::new(self.protocol, self.first, self.lifetime)
        }
    }

    /// Leaves the first ports, and gives the others, if there are any.
    fn split_off(&mut self, ports: u16) -> Option<Self> {
        let first = self.first.checked_add(ports)?;
        let left = self.ports.checked_sub(ports).filter(|left| *left > 0)?;
        let rest = Self {
            first,
            ports: left,
            external: self.external.and_then(|it| it.checked_add(ports)),
            ..self.clone()
        };
        self.ports = ports;
        Some(rest)
    }

    fn names(&self) -> Vec<String> {
        let names = self.hostnames.iter();
        names.map(|name| name.as_str().to_owned()).collect()
    }
}

fn random_nonce() -> io::Result<Nonce> {
    let mut nonce = [0; 12];
    getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(Nonce(nonce))
}
