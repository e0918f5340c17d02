//! QUIC: a flow is the datagrams between two addresses. Its first ones say where it leads to, and there it stays.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_proto::quic::{InitialReader, QuicError};
use rustix::event::epoll::{self, EventFlags};
use slab::Slab;

use super::Subject;
use super::deadlines::Deadlines;
use crate::admission::{Excess, Held, Permit};
use crate::datagrams;
use crate::route::{Entry, OpenEntry};
use crate::shared::{Counted, Gate, Shared, count};
use crate::socket;
use crate::table::Route;

/// What a client gets to say where it wants to.
const ASKING: Duration = Duration::from_secs(5);
/// How long a flow is kept that the device has not answered, as nobody knows whether its source is true.
const UNANSWERED: Duration = Duration::from_secs(15);
/// How long one that it has answered is kept in silence (RFC 4787 §4.3: two minutes at least).
const IDLE: Duration = Duration::from_secs(150);
/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(15);
/// Datagrams in a row before others have their turn.
const TURN: usize = 64;
/// Datagrams of one who asks; a ClientHello of post-quantum size takes two or three.
const MOST_ASKING: usize = 16;
const LARGEST_DATAGRAM: usize = 1 << 16;

/// A flow as one front hands it to the next.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) client: SocketAddr,
    /// Nothing for the fallback.
    pub(crate) name: Option<String>,
    /// Towards the device.
    pub(crate) socket: OwnedFd,
}

/// The flows of a worker.
#[derive(Debug)]
pub(super) struct Flows {
    shared: Arc<Shared>,
    epoll: Arc<OwnedFd>,
    gates: HashMap<u64, Side>,
    flows: Slab<Kept>,
    next_id: u64,
    deadlines: Deadlines,
    buffer: Vec<u8>,
    control: Vec<u8>,
}

#[derive(Debug)]
struct Side {
    gate: Arc<Gate>,
    by_client: HashMap<SocketAddr, usize>,
}

#[derive(Debug)]
struct Kept {
    /// Keys are used again, this is not.
    id: u64,
    gate: u64,
    client: SocketAddr,
    _permit: Permit,
    state: State,
}

#[derive(Debug)]
enum State {
    Asking(Box<Asking>),
    Pinned(Pinned),
}

#[derive(Debug)]
struct Asking {
    reader: InitialReader,
    datagrams: Vec<Vec<u8>>,
    held: Held,
}

#[derive(Debug)]
struct Pinned {
    socket: OwnedFd,
    entry: OpenEntry,
    is_answered: bool,
    last: Instant,
    _counted: Counted,
}

impl Flows {
    pub(super) fn new(shared: Arc<Shared>, epoll: Arc<OwnedFd>) -> Self {
        Self {
            shared,
            epoll,
            gates: HashMap::new(),
            flows: Slab::new(),
            next_id: 0,
            deadlines: Deadlines::default(),
            buffer: vec![0; LARGEST_DATAGRAM],
            control: datagrams::room(),
        }
    }

    /// Begins with a gate, and goes on with flows that it had before.
    pub(super) fn carry(&mut self, gate: Arc<Gate>, flows: Vec<Flow>, now: Instant) {
        let id = gate.id;
        datagrams::take_together(&gate.socket);
        let subject = Subject::Datagrams(id).data();
        if let Err(error) = epoll::add(&self.epoll, &gate.socket, subject, EventFlags::IN) {
            tracing::error!(address = %gate.address, %error, "cannot wait for datagrams");
        }
        let names = gate.names();
        let by_client = HashMap::new();
        self.gates.insert(id, Side { gate, by_client });
        for flow in flows {
            let Flow {
                client,
                name,
                socket,
            } = flow;
            let entry = names.named(name.as_deref());
            let permit = self.shared.admission.admit(client.ip());
            if let (Some(entry), Ok(permit)) = (entry, permit) {
                let key = self.insert(id, client, permit, now);
                self.pin(key, entry, socket, true, now);
            }
        }
    }

    /// Ends with a gate, and says which flows led somewhere.
    pub(super) fn give_up(&mut self, gate: u64) -> Vec<Flow> {
        let Some(side) = self.gates.remove(&gate) else {
            return Vec::new();
        };
        let _ = epoll::delete(&self.epoll, &side.gate.socket);
        let mut given = Vec::new();
        for key in side.by_client.into_values() {
            let Some(flow) = self.flows.try_remove(key) else {
                continue;
            };
            if let State::Pinned(pinned) = flow.state {
                // Who has it next has the same file, so closing ours would not end the events.
                let _ = epoll::delete(&self.epoll, &pinned.socket);
                given.push(Flow {
                    client: flow.client,
                    name: pinned.entry.name.clone(),
                    socket: pinned.socket,
                });
            }
        }
        given
    }

    /// Ends flows that lead where no table leads any more.
    pub(super) fn sweep(&mut self) {
        let ended = self.flows.iter().filter(|(_, flow)| match &flow.state {
            State::Pinned(pinned) => pinned.entry.is_ended(),
            State::Asking(_) => false,
        });
        for key in ended.map(|(key, _)| key).collect::<Vec<_>>() {
            self.remove(key);
        }
    }

    /// Takes what clients have sent to a gate.
    pub(super) fn receive(&mut self, gate: u64, now: Instant) {
        let Some(side) = self.gates.get(&gate) else {
            return;
        };
        let gate = Arc::clone(&side.gate);
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..TURN {
            let Ok(received) = datagrams::receive(&gate.socket, &mut buffer, &mut self.control)
            else {
                break;
            };
            let bytes = buffer.get(..received.length).unwrap_or_default();
            if let Some(client) = received.from {
                self.receive_from(&gate, client, bytes, received.each, now);
            }
        }
        self.buffer = buffer;
    }

    /// Takes what a device has sent.
    pub(super) fn answer(&mut self, key: usize, now: Instant) {
        let Some(flow) = self.flows.get_mut(key) else {
            return;
        };
        let (State::Pinned(pinned), Some(side)) = (&mut flow.state, self.gates.get(&flow.gate))
        else {
            return;
        };
        for _ in 0..TURN {
            // A port that is closed is an error once; the client learns it by the silence.
            let Ok(received) =
                datagrams::receive(&pinned.socket, &mut self.buffer, &mut self.control)
            else {
                break;
            };
            pinned.is_answered = true;
            pinned.last = now;
            let bytes = self.buffer.get(..received.length).unwrap_or_default();
            let client = Some(flow.client);
            datagrams::send(&side.gate.socket, bytes, received.each, None, client);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(deadline) = self.deadlines.take_over(now) {
            let flow = self.flows.get(deadline.key);
            let Some(flow) = flow.filter(|flow| flow.id == deadline.id) else {
                continue;
            };
            match &flow.state {
                State::Asking(_) => {
                    count(&self.shared.counters.too_slow);
                    self.remove(deadline.key);
                }
                State::Pinned(pinned) => {
                    let limit = if pinned.is_answered { IDLE } else { UNANSWERED };
                    if now.saturating_duration_since(pinned.last) >= limit {
                        self.remove(deadline.key);
                    } else {
                        self.deadlines.add(now, LOOK, deadline.key, deadline.id);
                    }
                }
            }
        }
    }

    /// Datagrams of `each` bytes from one client.
    fn receive_from(
        &mut self,
        gate: &Arc<Gate>,
        client: SocketAddr,
        mut bytes: &[u8],
        each: usize,
        now: Instant,
    ) {
        // One may be what leads the rest to the device.
        loop {
            let known = self
                .gates
                .get(&gate.id)
                .and_then(|side| side.by_client.get(&client).copied());
            if let Some(key) = known
                && let Some(Kept {
                    state: State::Pinned(pinned),
                    ..
                }) = self.flows.get_mut(key)
            {
                pinned.last = now;
                datagrams::send(&pinned.socket, bytes, each, None, None);
                return;
            }
            let (datagram, rest) = bytes.split_at(each.min(bytes.len()));
            self.receive_one(gate, client, known, datagram, now);
            if rest.is_empty() {
                return;
            }
            bytes = rest;
        }
    }

    /// A datagram of one who leads nowhere yet.
    fn receive_one(
        &mut self,
        gate: &Arc<Gate>,
        client: SocketAddr,
        known: Option<usize>,
        datagram: &[u8],
        now: Instant,
    ) {
        match known {
            Some(key) => self.ask(gate, key, datagram, now),
            None => {
                // One who has not said what it wants makes room for one who may.
                let permit = match self.shared.admission.admit(client.ip()) {
                    Err(Excess::Total) if self.evict() => self.shared.admission.admit(client.ip()),
                    permit => permit,
                };
                let Ok(permit) = permit else {
                    count(&self.shared.counters.limited);
                    return;
                };
                let key = self.insert(gate.id, client, permit, now);
                self.ask(gate, key, datagram, now);
            }
        }
    }

    /// Another datagram of one who has not said yet where it wants to.
    fn ask(&mut self, gate: &Arc<Gate>, key: usize, datagram: &[u8], now: Instant) {
        let Some(Kept {
            state: State::Asking(asking),
            ..
        }) = self.flows.get_mut(key)
        else {
            return;
        };
        let read = asking.reader.handle_input(datagram);
        let is_first = asking.datagrams.is_empty();
        asking.datagrams.push(datagram.to_vec());
        let bytes: usize = asking.datagrams.iter().map(Vec::len).sum();
        asking.held.set(bytes + asking.reader.size());
        let is_too_much = asking.datagrams.len() >= MOST_ASKING;
        let names = gate.names();
        match read {
            Ok(Some(hello)) => match names.find(hello.server_name.as_deref()) {
                Some(entry) => self.decide(gate, key, entry, now),
                None => {
                    count(&self.shared.counters.unknown_name);
                    self.remove(key);
                }
            },
            Err(QuicError::Tls(_)) => self.refuse(key),
            // A flow from before, or of a version that only its device may know.
            Err(QuicError::NotInitial) if is_first => match names.find(None) {
                Some(entry) => self.decide(gate, key, entry, now),
                None => self.refuse(key),
            },
            Err(_) if is_first => self.refuse(key),
            Ok(None) | Err(_) if is_too_much => self.refuse(key),
            Ok(None) | Err(_) => {}
        }
        while self.shared.admission.holds_too_much() && self.evict() {}
    }

    fn decide(&mut self, gate: &Arc<Gate>, key: usize, entry: &Arc<Entry>, now: Instant) {
        let Some(flow) = self.flows.get_mut(key) else {
            return;
        };
        let socket = match &entry.route {
            Route::Device(target) => socket::dial(target, gate.service, flow.client),
            Route::Redirect { .. } => Err(io::ErrorKind::Unsupported.into()),
        };
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                count(&self.shared.counters.unreachable);
                tracing::warn!(address = %gate.address, %error, "cannot lead a flow to a device");
                self.remove(key);
                return;
            }
        };
        if let State::Asking(asking) = &flow.state {
            for datagram in &asking.datagrams {
                datagrams::send(&socket, datagram, datagram.len().max(1), None, None);
            }
        }
        self.pin(key, entry, socket, false, now);
    }

    fn refuse(&mut self, key: usize) {
        count(&self.shared.counters.malformed);
        self.remove(key);
    }

    fn insert(&mut self, gate: u64, client: SocketAddr, permit: Permit, now: Instant) -> usize {
        let id = self.next_id;
        self.next_id += 1;
        let asking = Asking {
            reader: InitialReader::default(),
            datagrams: Vec::new(),
            held: permit.hold(),
        };
        let key = self.flows.insert(Kept {
            id,
            gate,
            client,
            _permit: permit,
            state: State::Asking(Box::new(asking)),
        });
        if let Some(side) = self.gates.get_mut(&gate) {
            side.by_client.insert(client, key);
        }
        self.deadlines.add(now, ASKING, key, id);
        key
    }

    fn pin(
        &mut self,
        key: usize,
        entry: &Arc<Entry>,
        socket: OwnedFd,
        is_answered: bool,
        now: Instant,
    ) {
        let Some(flow) = self.flows.get_mut(key) else {
            return;
        };
        datagrams::take_together(&socket);
        let subject = Subject::Flow(key).data();
        if epoll::add(&self.epoll, &socket, subject, EventFlags::IN).is_err() {
            self.remove(key);
            return;
        }
        flow.state = State::Pinned(Pinned {
            socket,
            entry: OpenEntry::new(Arc::clone(entry)),
            is_answered,
            last: now,
            _counted: Counted::flow(&self.shared),
        });
        self.deadlines.add(now, LOOK, key, flow.id);
    }

    fn remove(&mut self, key: usize) {
        if let Some(flow) = self.flows.try_remove(key)
            && let Some(side) = self.gates.get_mut(&flow.gate)
        {
            side.by_client.remove(&flow.client);
        }
    }

    /// Forgets the one that has waited the longest without saying where it wants to; whether there was one.
    fn evict(&mut self) -> bool {
        while let Some(deadline) = self.deadlines.take_oldest(ASKING) {
            let flow = self.flows.get(deadline.key);
            let is_asking = flow.is_some_and(|flow| {
                flow.id == deadline.id && matches!(flow.state, State::Asking(_))
            });
            if is_asking {
                count(&self.shared.counters.limited);
                self.remove(deadline.key);
                return true;
            }
        }
        false
    }
}
