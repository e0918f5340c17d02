//! QUIC: a flow is the datagrams between two addresses. Its first ones say where it leads to, and there it stays.

mod asking;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::{self, EventFlags};

use self::asking::{Asking, Reading};
use self::store::{Origin, Pinned, State, Store, Unproven};
use super::Subject;
use crate::admission::Files;
use crate::datagrams;
use crate::pairs::Pair;
use crate::route::{Entry, OpenEntry};
use crate::shared::{Counted, Gate, Shared, count};
use crate::socket;
use crate::table::Route;

/// Datagrams in a row before others have their turn.
const TURN: usize = 64;
const LARGEST_DATAGRAM: usize = 1 << 16;

/// A flow as one front hands it to the next.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) client: SocketAddr,
    /// Nothing for the fallback.
    pub(crate) name: Option<String>,
    /// Whether the client is known to be where it says.
    pub(crate) is_proven: bool,
    /// Towards the device.
    pub(crate) socket: OwnedFd,
}

/// The flows of a worker.
#[derive(Debug)]
pub(super) struct Flows {
    shared: Arc<Shared>,
    epoll: Arc<OwnedFd>,
    gates: HashMap<u64, Side>,
    store: Store,
    buffer: Vec<u8>,
    control: Vec<u8>,
}

#[derive(Debug)]
struct Side {
    gate: Arc<Gate>,
    by_client: HashMap<SocketAddr, usize>,
}

impl Flows {
    pub(super) fn new(shared: Arc<Shared>, epoll: Arc<OwnedFd>) -> Self {
        Self {
            shared,
            epoll,
            gates: HashMap::new(),
            store: Store::default(),
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
            if let Some(entry) = names.named(flow.name.as_deref()) {
                self.go_on(id, entry, flow, now);
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
            let Some(flow) = self.store.remove(key) else {
                continue;
            };
            if let State::Pinned(pinned) = flow.state {
                // Who has it next has the same file, so closing ours would not end the events.
                let _ = epoll::delete(&self.epoll, &pinned.socket);
                given.push(Flow {
                    client: flow.client,
                    name: pinned.entry.name.clone(),
                    is_proven: pinned.origin.is_proven(),
                    socket: pinned.socket,
                });
            }
        }
        given
    }

    /// Ends flows that lead where no table leads any more.
    pub(super) fn sweep(&mut self) {
        let ended = self.store.iter().filter(|(_, flow)| match &flow.state {
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
        let Some(flow) = self.store.get_mut(key) else {
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
            pinned.last = now;
            let bytes = self.buffer.get(..received.length).unwrap_or_default();
            match &mut pinned.origin {
                Origin::Proven { .. } => {}
                Origin::Unproven(unproven) => unproven.handle_device(bytes.chunks(received.each)),
            }
            let client = Some(flow.client);
            datagrams::send(&side.gate.socket, bytes, received.each, None, client);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.store.next_deadline()
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((key, is_over)) = self.store.take_due(now) {
            if is_over {
                let flow = self.remove(key);
                if let Some(State::Asking(_)) = flow {
                    count(&self.shared.counters.too_slow);
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
                && let Some(flow) = self.store.get_mut(key)
                && let State::Pinned(pinned) = &mut flow.state
            {
                pinned.last = now;
                datagrams::send(&pinned.socket, bytes, each, None, None);
                let is_proof = match &mut pinned.origin {
                    Origin::Proven { .. } => false,
                    Origin::Unproven(unproven) => unproven.handle_client(bytes.chunks(each)),
                };
                if is_proof {
                    self.prove(key, client.ip());
                }
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
        let names = gate.names();
        if let Some(key) = known {
            let flow = self.store.get_mut(key);
            let Some(State::Asking(asking)) = flow.map(|flow| &mut flow.state) else {
                return;
            };
            match asking.read(datagram, &names) {
                Reading::Leads(entry) => self.decide(gate, key, &entry, now),
                Reading::More => {}
                nowhere @ (Reading::UnknownName | Reading::Malformed) => {
                    self.count_refusal(&nowhere);
                    self.remove(key);
                }
            }
        } else {
            let mut asking = Asking::new(self.shared.admission.hold());
            let entry = match asking.read(datagram, &names) {
                Reading::Leads(entry) => Some(entry),
                Reading::More => None,
                nowhere @ (Reading::UnknownName | Reading::Malformed) => {
                    self.count_refusal(&nowhere);
                    return;
                }
            };
            let Some(files) = self.make_room(client.ip()) else {
                count(&self.shared.counters.limited);
                return;
            };
            let key = self.insert(gate.id, client, asking, files, now);
            if let Some(entry) = entry {
                self.decide(gate, key, &entry, now);
            }
        }
        while self.shared.admission.holds_too_much()
            && let Some(key) = self.store.oldest_asking()
        {
            self.evict(key);
        }
    }

    fn count_refusal(&self, reading: &Reading) {
        let counters = &self.shared.counters;
        match reading {
            Reading::UnknownName => count(&counters.unknown_name),
            Reading::Malformed => count(&counters.malformed),
            Reading::Leads(_) | Reading::More => {}
        }
    }

    fn decide(&mut self, gate: &Gate, key: usize, entry: &Arc<Entry>, now: Instant) {
        let Some(flow) = self.store.get(key) else {
            return;
        };
        let (socket, pair) = match self.dial(gate, entry, flow.client) {
            Ok(dialled) => dialled,
            Err(error) => {
                count(&self.shared.counters.unreachable);
                tracing::warn!(address = %gate.address, %error, "cannot lead a flow to a device");
                self.remove(key);
                return;
            }
        };
        let mut unproven = Unproven::default();
        if let State::Asking(asking) = &flow.state {
            for datagram in asking.datagrams() {
                unproven.handle_client([datagram.as_slice()]);
                datagrams::send(&socket, datagram, datagram.len().max(1), None, None);
            }
        }
        self.pin(key, entry, socket, pair, Origin::Unproven(unproven), now);
    }

    fn dial(
        &self,
        gate: &Gate,
        entry: &Entry,
        client: SocketAddr,
    ) -> io::Result<(OwnedFd, Option<Pair>)> {
        let target = match &entry.route {
            Route::Device(target) => target,
            Route::Redirect { .. } => return Err(io::ErrorKind::Unsupported.into()),
        };
        // It may have another flow to this device from that port: by another listener, say.
        let pair = self.shared.pairs.take(client, target.address);
        let port = if pair.is_some() { client.port() } else { 0 };
        let client = SocketAddr::new(client.ip(), port);
        Ok((socket::dial(target, gate.service, client)?, pair))
    }

    /// Goes on with a flow of the front before.
    fn go_on(&mut self, gate: u64, entry: &Arc<Entry>, flow: Flow, now: Instant) {
        let Flow {
            client,
            name: _,
            is_proven,
            socket,
        } = flow;
        let admission = Arc::clone(&self.shared.admission);
        let origin = if is_proven {
            let place = admission.admit_flow(client.ip());
            place.map(|place| Origin::Proven { _place: place })
        } else {
            Ok(Origin::Unproven(Unproven::default()))
        };
        let (Ok(origin), Some(files)) = (origin, admission.spare_files(1)) else {
            count(&self.shared.counters.limited);
            return;
        };
        let pair = match &entry.route {
            Route::Device(target) if socket::is_bound_to(&socket, client) => {
                self.shared.pairs.take(client, target.address)
            }
            Route::Device(_) | Route::Redirect { .. } => None,
        };
        let asking = Asking::new(admission.hold());
        let key = self.insert(gate, client, asking, files, now);
        self.pin(key, entry, socket, pair, origin, now);
    }

    fn insert(
        &mut self,
        gate: u64,
        client: SocketAddr,
        asking: Asking,
        files: Files,
        now: Instant,
    ) -> usize {
        let key = self.store.insert(gate, client, asking, files, now);
        if let Some(side) = self.gates.get_mut(&gate) {
            side.by_client.insert(client, key);
        }
        key
    }

    fn pin(
        &mut self,
        key: usize,
        entry: &Arc<Entry>,
        socket: OwnedFd,
        pair: Option<Pair>,
        origin: Origin,
        now: Instant,
    ) {
        datagrams::take_together(&socket);
        let subject = Subject::Flow(key).data();
        if epoll::add(&self.epoll, &socket, subject, EventFlags::IN).is_err() {
            self.remove(key);
            return;
        }
        let pinned = Pinned {
            socket,
            entry: OpenEntry::new(Arc::clone(entry)),
            origin,
            last: now,
            _pair: pair,
            _counted: Counted::flow(&self.shared),
        };
        self.store.pin(key, pinned, now);
    }

    /// The client is where it says: it has a place of its own, or none if its source has had its share.
    fn prove(&mut self, key: usize, client: IpAddr) {
        match self.shared.admission.admit_flow(client) {
            Ok(place) => self.store.prove(key, place),
            Err(_) => self.evict(key),
        }
    }

    /// Room for a flow that may be anybody's.
    fn make_room(&mut self, client: IpAddr) -> Option<Files> {
        let admission = Arc::clone(&self.shared.admission);
        // There would be none when it has shown who it is.
        admission.admit_flow(client).ok()?;
        while self.store.unproven() >= admission.unproven() {
            let key = self.store.next_to_go()?;
            self.evict(key);
        }
        admission.spare_files(1).or_else(|| {
            let key = self.store.next_to_go()?;
            self.evict(key);
            admission.spare_files(1)
        })
    }

    fn evict(&mut self, key: usize) {
        count(&self.shared.counters.limited);
        self.remove(key);
    }

    /// What it was.
    fn remove(&mut self, key: usize) -> Option<State> {
        let flow = self.store.remove(key)?;
        if let Some(side) = self.gates.get_mut(&flow.gate) {
            side.by_client.remove(&flow.client);
        }
        Some(flow.state)
    }
}
