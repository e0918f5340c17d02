//! Flows, in the orders in which their time is over and in which they make room.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use adit_proto::quic::AddressProof;
use slab::Slab;

use super::asking::Asking;
use crate::admission::{Files, Place};
use crate::pairs::Pair;
use crate::route::OpenEntry;
use crate::shared::Counted;

/// What a client gets to say where it wants to.
const ASKING: Duration = Duration::from_secs(5);
/// How long a flow is kept whose client has not said a word after the device, as nobody knows whether its source is true.
const UNANSWERED: Duration = Duration::from_secs(15);
/// How long any other is kept in silence (RFC 4787 §4.3: two minutes at least).
const IDLE: Duration = Duration::from_secs(150);
/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(15);

/// Nothing is left in it of a flow that is gone, however it went: strangers make as many as they like.
#[derive(Debug, Default)]
pub(super) struct Store {
    flows: Slab<Kept>,
    next_number: u64,
    due: BTreeMap<(Instant, u64), usize>,
    /// Those that have not said where they want to.
    asking: BTreeMap<u64, usize>,
    /// Those, and all whose clients are not proven, in the order in which they make room.
    unproven: BTreeMap<u64, usize>,
}

#[derive(Debug)]
pub(super) struct Kept {
    pub(super) gate: u64,
    pub(super) client: SocketAddr,
    pub(super) state: State,
    _files: Files,
    /// Keys are used again, this is not.
    id: u64,
    due: Instant,
    /// Its place among those who make room.
    turn: u64,
}

#[derive(Debug)]
pub(super) enum State {
    Asking(Box<Asking>),
    Pinned(Pinned),
}

#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) socket: OwnedFd,
    pub(super) entry: OpenEntry,
    pub(super) origin: Origin,
    pub(super) last: Instant,
    /// None if another flow talks from the client's port to the device.
    pub(super) _pair: Option<Pair>,
    pub(super) _counted: Counted,
}

/// What is known of whether a client is where it says.
#[derive(Debug)]
pub(super) enum Origin {
    Proven { _place: Place },
    Unproven(Unproven),
}

/// It may be anybody.
#[derive(Debug, Default)]
pub(super) struct Unproven {
    proof: AddressProof,
    /// The device has said something since the client last has.
    is_answered: bool,
    /// The client has said something after the device: a stranger could have, but few would go on with it.
    is_talking: bool,
    /// It has since others last made room.
    has_talked: bool,
}

impl Store {
    pub(super) fn insert(
        &mut self,
        gate: u64,
        client: SocketAddr,
        asking: Asking,
        files: Files,
        now: Instant,
    ) -> usize {
        let id = self.number();
        let due = now + ASKING;
        let key = self.flows.insert(Kept {
            gate,
            client,
            state: State::Asking(Box::new(asking)),
            _files: files,
            id,
            due,
            turn: id,
        });
        self.due.insert((due, id), key);
        self.asking.insert(id, key);
        self.unproven.insert(id, key);
        key
    }

    pub(super) fn get(&self, key: usize) -> Option<&Kept> {
        self.flows.get(key)
    }

    pub(super) fn get_mut(&mut self, key: usize) -> Option<&mut Kept> {
        self.flows.get_mut(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Kept)> {
        self.flows.iter()
    }

    pub(super) fn remove(&mut self, key: usize) -> Option<Kept> {
        let flow = self.flows.try_remove(key)?;
        self.due.remove(&(flow.due, flow.id));
        self.asking.remove(&flow.id);
        self.unproven.remove(&flow.turn);
        Some(flow)
    }

    /// Lets a flow lead somewhere.
    pub(super) fn pin(&mut self, key: usize, pinned: Pinned, now: Instant) {
        let Some(flow) = self.flows.get_mut(key) else {
            return;
        };
        self.asking.remove(&flow.id);
        match &pinned.origin {
            Origin::Proven { .. } => {
                self.unproven.remove(&flow.turn);
            }
            Origin::Unproven(_) => {}
        }
        flow.state = State::Pinned(pinned);
        self.await_look(key, now);
    }

    /// A flow need not make room any more.
    pub(super) fn prove(&mut self, key: usize, place: Place) {
        let Some(flow) = self.flows.get_mut(key) else {
            return;
        };
        if let State::Pinned(pinned) = &mut flow.state {
            pinned.origin = Origin::Proven { _place: place };
            self.unproven.remove(&flow.turn);
        }
    }

    /// Flows that may be anybody's.
    pub(super) fn unproven(&self) -> usize {
        self.unproven.len()
    }

    /// The one that has waited the longest without saying where it wants to.
    pub(super) fn oldest_asking(&self) -> Option<usize> {
        self.asking.first_key_value().map(|(_, key)| *key)
    }

    /// The next that makes room. Who goes on talking with its device is passed over once.
    pub(super) fn next_to_go(&mut self) -> Option<usize> {
        while let Some((_, key)) = self.unproven.pop_first() {
            let turn = self.number();
            let Some(flow) = self.flows.get_mut(key) else {
                continue;
            };
            flow.turn = turn;
            self.unproven.insert(turn, key);
            if !flow.state.take_chance() {
                return Some(key);
            }
        }
        None
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// One that has to be looked at, and whether its time is over.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(usize, bool)> {
        let first = self.due.first_entry()?;
        if first.key().0 > now {
            return None;
        }
        let key = first.remove();
        let is_over = match &self.flows.get(key)?.state {
            State::Asking(_) => true,
            State::Pinned(pinned) => {
                now.saturating_duration_since(pinned.last) >= pinned.origin.patience()
            }
        };
        if !is_over {
            self.await_look(key, now);
        }
        Some((key, is_over))
    }

    /// Of each list.
    #[cfg(test)]
    pub(super) fn counts(&self) -> [usize; 4] {
        let Self {
            flows,
            next_number: _,
            due,
            asking,
            unproven,
        } = self;
        [flows.len(), due.len(), asking.len(), unproven.len()]
    }

    fn await_look(&mut self, key: usize, now: Instant) {
        if let Some(flow) = self.flows.get_mut(key) {
            self.due.remove(&(flow.due, flow.id));
            flow.due = now + LOOK;
            self.due.insert((flow.due, flow.id), key);
        }
    }

    const fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

impl State {
    fn take_chance(&mut self) -> bool {
        match self {
            Self::Pinned(Pinned {
                origin: Origin::Unproven(unproven),
                ..
            }) => std::mem::take(&mut unproven.has_talked),
            Self::Asking(_) | Self::Pinned(_) => false,
        }
    }
}

impl Origin {
    pub(super) const fn is_proven(&self) -> bool {
        match self {
            Self::Proven { .. } => true,
            Self::Unproven(_) => false,
        }
    }

    const fn patience(&self) -> Duration {
        match self {
            Self::Proven { .. } => IDLE,
            Self::Unproven(unproven) if unproven.is_talking => IDLE,
            Self::Unproven(_) => UNANSWERED,
        }
    }
}

impl Unproven {
    /// Takes what the client says; whether that proves where it is.
    pub(super) fn handle_client<'a>(
        &mut self,
        datagrams: impl IntoIterator<Item = &'a [u8]>,
    ) -> bool {
        if std::mem::take(&mut self.is_answered) {
            self.is_talking = true;
            self.has_talked = true;
        }
        let mut datagrams = datagrams.into_iter();
        datagrams.any(|datagram| self.proof.handle_client(datagram))
    }

    /// Takes what the device says.
    pub(super) fn handle_device<'a>(&mut self, datagrams: impl IntoIterator<Item = &'a [u8]>) {
        self.is_answered = true;
        for datagram in datagrams {
            self.proof.handle_server(datagram);
        }
    }
}
