//! Mappings by PCP or NAT-PMP.

use std::collections::BTreeMap;
use std::io;
use std::time::{Instant, SystemTime};

use adit_model::protocol::Protocol;
use adit_model::timestamp::Timestamp;
use adit_proto::pcp::wire::Nonce;
use adit_proto::port_control::client::{Event, Mechanism};
use adit_proto::port_control::wish::{Failure, Mapped, MappingId};

use super::{Change, Reason, Wanted};
use crate::connection::Connection;
use crate::holdings::Holding;

/// Keeps mappings with a gateway for as long as it is polled.
#[derive(Debug)]
pub(super) struct Holder {
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
    /// It cannot be asked for in what the gateway speaks.
    is_hopeless: bool,
}

impl Holder {
    /// With a gateway that answered.
    pub(super) fn new(mut connection: Connection) -> Self {
        let mechanism = connection.client().mechanism().unwrap_or(Mechanism::Pcp);
        Self {
            connection,
            entries: BTreeMap::new(),
            last: 0,
            mechanism,
        }
    }

    /// The connection to the gateway.
    pub(super) const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Asks for a mapping, and keeps it. With the nonce of an earlier time it is that mapping which is renewed.
    ///
    /// # Errors
    ///
    /// When this host has no random numbers.
    pub(super) fn want(&mut self, wanted: Wanted, nonce: Option<[u8; 12]>) -> io::Result<()> {
        let nonce = match nonce {
            Some(nonce) => Nonce(nonce),
            None => random_nonce()?,
        };
        self.insert(wanted, nonce);
        Ok(())
    }

    /// Gives back a mapping of an earlier time.
    pub(super) fn release_earlier(&mut self, wanted: Wanted, nonce: [u8; 12]) {
        let id = self.insert(wanted, Nonce(nonce));
        self.connection.client().remove(id, Instant::now());
    }

    /// Gives everything back.
    pub(super) fn release_all(&mut self) {
        for id in self.entries.keys() {
            self.connection.client().remove(*id, Instant::now());
        }
    }

    /// Whether nothing is wanted any more.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether nothing is wanted that could be asked for there.
    pub(super) fn is_hopeless(&self) -> bool {
        self.entries.values().all(|entry| entry.is_hopeless)
    }

    /// Whether everything that is wanted is held, but for these.
    pub(super) fn is_settled_but(&self, refused: &[(Protocol, u16)]) -> bool {
        self.entries.values().all(|entry| {
            entry.held || refused.contains(&(entry.wanted.protocol, entry.wanted.first.get()))
        })
    }

    /// Waits for the next change. Nothing is lost when the wait is given up.
    pub(super) async fn next_change(&mut self) -> Change {
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
                entry.is_hopeless = rest.is_none();
                let reason = reason(failure, &entry.wanted);
                Some(Change::Failed(entry.wanted.clone(), reason, rest))
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
        entry.is_hopeless = false;
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
            pinhole: None,
            watcher: None,
            watcher_began: None,
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
            is_hopeless: false,
        };
        self.entries.insert(id, entry);
        id
    }
}

fn reason(failure: Failure, wanted: &Wanted) -> Reason {
    let text = failure.to_string();
    match failure {
        Failure::HostnamesNotOffered => Reason::NoNames(text),
        Failure::NeedsPcp if !wanted.hostnames.is_empty() => Reason::NoNames(text),
        Failure::NeedsPcp | Failure::Pcp(_) | Failure::NatPmp(_) | Failure::NoAnswer => {
            Reason::Other(text)
        }
    }
}

fn random_nonce() -> io::Result<Nonce> {
    let mut nonce = [0; 12];
    getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(Nonce(nonce))
}
