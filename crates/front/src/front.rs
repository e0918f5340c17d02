//! The listeners of a front, kept as its table says.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use crate::admission::Admission;
use crate::client::{Client, ClientError};
use crate::handover::{FlowItem, Inventory, ListenerItem};
use crate::predecessors::Predecessors;
use crate::route::Names;
use crate::shared::{Entrance, Gate, Shared};
use crate::socket;
use crate::status::{ListenerStatus, NameStatus, Status};
use crate::table::{Change, Listener, Service, Table, TableError};
use crate::worker::{self, Command, Flow, Handle};

/// What a worker gets to give up its flows.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Front {
    shared: Arc<Shared>,
    workers: Vec<Handle>,
    /// What keeps it from taking addresses of others, which does not change while it runs.
    transparency: Option<String>,
    state: Mutex<State>,
}

/// What the table makes of it. Whoever has this is the only one who changes it.
#[derive(Debug, Default)]
pub(crate) struct State {
    table: Table,
    doors: BTreeMap<Key, Door>,
    next_gate: u64,
    is_handed_over: bool,
    predecessors: Predecessors,
}

type Key = (SocketAddr, Service);

/// A listener that is open, or why it is not.
#[derive(Debug)]
enum Door {
    Open(Arc<Gate>),
    Failed(String),
    /// Another front has it. Connections that came by it are led by its names still.
    Left(Arc<Entrance>),
}

/// What another front has left.
#[derive(Debug, Default)]
pub(crate) struct Inheritance {
    sockets: BTreeMap<Key, OwnedFd>,
    flows: BTreeMap<Key, Vec<Flow>>,
    /// Over which those before are told what leads where.
    pub(crate) predecessors: Vec<OwnedFd>,
}

/// What is about to be handed over: it has stopped to carry datagrams.
#[derive(Debug)]
pub(crate) struct Leaving {
    control: Arc<OwnedFd>,
    gates: Vec<Arc<Gate>>,
    flows: Vec<(usize, Vec<Flow>)>,
    predecessors: Vec<OwnedFd>,
}

impl Front {
    pub(crate) fn start(workers: usize, files: u32) -> io::Result<Self> {
        let shared = Shared::new(Admission::new(files));
        let workers = (0..workers)
            .map(|number| worker::start(&shared, &format!("connections-{number}")))
            .collect::<io::Result<_>>()?;
        let may_be_another = socket::may_be_another();
        Ok(Self {
            shared,
            workers,
            transparency: may_be_another.err().map(|error| error.to_string()),
            state: Mutex::default(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> u32 {
        self.shared.admission.connections()
    }

    /// Puts a table in force, over sockets that another front has left where there are any.
    pub(crate) fn set(
        &self,
        state: &mut State,
        table: Table,
        mut inheritance: Inheritance,
    ) -> Result<(), TableError> {
        table.check()?;
        self.shared.admission.set(table.limits);
        let listeners: BTreeMap<Key, &Listener> = table
            .listeners
            .iter()
            .map(|listener| ((listener.address, listener.service), listener))
            .collect();
        let mut is_any_gone = false;
        // What goes makes room for what comes.
        state.doors.retain(|key, door| {
            let stays = listeners.contains_key(key);
            if !stays && let Some(entrance) = door.entrance() {
                is_any_gone |= rename(entrance, None);
            }
            if !stays && let Door::Open(gate) = door {
                self.close(gate);
            }
            stays
        });
        for (key, listener) in &listeners {
            if let Some(entrance) = state.doors.get(key).and_then(Door::entrance) {
                is_any_gone |= rename(entrance, Some(listener));
                continue;
            }
            if state.is_handed_over {
                continue;
            }
            let id = state.next_gate;
            state.next_gate += 1;
            let socket = inheritance.sockets.remove(key);
            let flows = inheritance.flows.remove(key).unwrap_or_default();
            let door = match self.open_gate(id, listener, socket, flows) {
                Ok(gate) => Door::Open(gate),
                Err(error) => Door::failed(listener, &error),
            };
            state.doors.insert(*key, door);
        }
        if is_any_gone {
            self.sweep();
        }
        state.table = table;
        state.predecessors.set(&state.table);
        Ok(())
    }

    /// Puts a change of the table in force.
    pub(crate) fn change(&self, state: &mut State, change: &Change) -> Result<(), TableError> {
        state.table.change(change)?;
        let mut is_any_gone = false;
        for changed in &change.listeners {
            // One that could not be opened has the table's names when it can.
            let door = state.doors.get(&(changed.address, changed.service));
            if let Some(entrance) = door.and_then(Door::entrance) {
                is_any_gone |= entrance.change_names(&changed.names);
            }
        }
        if is_any_gone {
            self.sweep();
        }
        state.predecessors.change(change, &state.table);
        Ok(())
    }

    /// Leads one that carries its last connections.
    pub(crate) fn lead(&self, state: &mut State, follower: Client) -> Result<(), ClientError> {
        state.predecessors.add(follower, &state.table)
    }

    /// Ends those that carry their last connections.
    pub(crate) fn stop_predecessors(&self, state: &mut State) {
        state.predecessors.stop();
    }

    /// Tries once more what could not be opened.
    pub(crate) fn retry(&self) {
        let mut state = self.lock();
        let State {
            table,
            doors,
            next_gate,
            is_handed_over,
            predecessors: _,
        } = &mut *state;
        if *is_handed_over {
            return;
        }
        for listener in &table.listeners {
            let key = (listener.address, listener.service);
            let Some(Door::Failed(before)) = doors.get(&key) else {
                continue;
            };
            let id = *next_gate;
            *next_gate += 1;
            let door = match self.open_gate(id, listener, None, Vec::new()) {
                Ok(gate) => {
                    tracing::info!(address = %listener.address, "listening at last");
                    Door::Open(gate)
                }
                Err(error) if error.to_string() == *before => continue,
                Err(error) => Door::failed(listener, &error),
            };
            doors.insert(key, door);
        }
    }

    /// With all that those before carry still.
    pub(crate) fn fresh_status(&self, state: &mut State, with_names: bool) -> Status {
        state.predecessors.refresh(with_names);
        let mut status = self.own_status(state);
        if with_names {
            status.names = Self::names(state);
        }
        state.predecessors.count(&mut status);
        status
    }

    /// Without the names.
    pub(crate) fn status(&self, state: &State) -> Status {
        let mut status = self.own_status(state);
        state.predecessors.count(&mut status);
        status
    }

    fn own_status(&self, state: &State) -> Status {
        let counters = &self.shared.counters;
        let listeners = state.table.listeners.iter().map(|listener| {
            let Listener {
                address, service, ..
            } = *listener;
            let problem = match state.doors.get(&(address, service)) {
                Some(Door::Failed(problem)) => Some(problem.clone()),
                Some(Door::Open(_) | Door::Left(_)) | None => None,
            };
            ListenerStatus {
                address,
                service,
                problem,
            }
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            revision: state.table.revision,
            connections: counters.connections.load(Ordering::Relaxed),
            waiting: counters.waiting.load(Ordering::Relaxed),
            flows: counters.flows.load(Ordering::Relaxed),
            listeners: listeners.collect(),
            names: Vec::new(),
            failures: counters.failures(),
            transparency: self.transparency.clone(),
        }
    }

    fn names(state: &State) -> Vec<NameStatus> {
        let mut names = Vec::new();
        for listener in &state.table.listeners {
            let Listener {
                address, service, ..
            } = *listener;
            let entrance = state
                .doors
                .get(&(address, service))
                .and_then(Door::entrance);
            let entries = entrance.map(|entrance| entrance.names());
            let listed = listener.names.keys().map(|name| Some(name.as_str()));
            let fallback = listener.fallback.iter().map(|_| None);
            for name in listed.chain(fallback) {
                let entry = entries.as_ref().and_then(|entries| entries.named(name));
                names.push(NameStatus {
                    address,
                    service,
                    name: name.map(str::to_owned),
                    open: entry.map_or(0, |entry| entry.open()),
                    total: entry.map_or(0, |entry| entry.total()),
                });
            }
        }
        names
    }

    /// Says what there is to hand over, and stops to carry datagrams. It goes on with [`Self::stay`], or ends with
    /// [`Self::leave`].
    pub(crate) fn prepare_to_leave(
        &self,
        state: &State,
        control: Arc<OwnedFd>,
    ) -> (Inventory, Leaving) {
        let predecessors = state.predecessors.sockets();
        let mut inventory = Inventory {
            table: state.table.clone(),
            predecessors: predecessors.len(),
            ..Inventory::default()
        };
        let mut gates = Vec::new();
        let mut flows = Vec::new();
        for ((address, service), door) in &state.doors {
            let Door::Open(gate) = door else {
                continue;
            };
            let place = gates.len();
            gates.push(Arc::clone(gate));
            inventory.listeners.push(ListenerItem {
                address: *address,
                service: *service,
            });
            if service.is_tcp() {
                continue;
            }
            let given = self.give_up(gate);
            inventory.flows.extend(given.iter().map(|flow| FlowItem {
                listener: place,
                client: flow.client,
                name: flow.name.clone(),
                is_proven: flow.is_proven,
            }));
            flows.push((place, given));
        }
        let leaving = Leaving {
            control,
            gates,
            flows,
            predecessors,
        };
        (inventory, leaving)
    }

    /// Nobody has taken it.
    pub(crate) fn stay(&self, leaving: Leaving) {
        for (place, flows) in leaving.flows {
            if let Some(gate) = leaving.gates.get(place) {
                self.datagram_worker(gate.id)
                    .tell(Command::Carry(Arc::clone(gate), flows));
            }
        }
    }

    /// Another front has taken it: connections that are there go on to their end, or to that of their name.
    pub(crate) fn leave(&self, state: &mut State, leaving: Leaving) {
        for gate in &leaving.gates {
            for worker in &self.workers {
                worker.close(gate);
            }
            self.shared.remove_gate(gate.id);
        }
        let doors = std::mem::take(&mut state.doors).into_iter();
        let left = doors.filter_map(|(key, door)| match door {
            Door::Open(gate) => Some((key, Door::Left(Arc::clone(&gate.entrance)))),
            Door::Left(entrance) => Some((key, Door::Left(entrance))),
            Door::Failed(_) => None,
        });
        state.doors = left.collect();
        state.is_handed_over = true;
        state.predecessors = Predecessors::default();
    }

    fn sweep(&self) {
        for worker in &self.workers {
            worker.tell(Command::Sweep);
        }
    }

    fn open_gate(
        &self,
        id: u64,
        listener: &Listener,
        socket: Option<OwnedFd>,
        flows: Vec<Flow>,
    ) -> io::Result<Arc<Gate>> {
        let Listener {
            address, service, ..
        } = *listener;
        let socket = match socket {
            Some(socket) => socket,
            None => socket::open(address, service)?,
        };
        let (names, _) = Names::new(listener, &Names::default());
        let entrance = Entrance::new(address, service, names);
        let gate = Arc::new(Gate::new(id, socket, entrance));
        self.shared.add_gate(Arc::clone(&gate));
        if service.is_tcp() {
            for worker in &self.workers {
                worker.open(&gate)?;
            }
        } else {
            self.datagram_worker(id)
                .tell(Command::Carry(Arc::clone(&gate), flows));
        }
        Ok(gate)
    }

    fn close(&self, gate: &Gate) {
        if gate.service.is_tcp() {
            for worker in &self.workers {
                worker.close(gate);
            }
        } else {
            drop(self.give_up(gate));
        }
        self.shared.remove_gate(gate.id);
    }

    fn give_up(&self, gate: &Gate) -> Vec<Flow> {
        let (sender, flows) = mpsc::channel();
        self.datagram_worker(gate.id)
            .tell(Command::Yield(gate.id, sender));
        flows.recv_timeout(PATIENCE).unwrap_or_default()
    }

    /// All datagrams of a gate are one worker's.
    fn datagram_worker(&self, gate: u64) -> &Handle {
        let count = self.workers.len() as u64;
        let place = usize::try_from(gate % count).unwrap_or(0);
        &self.workers[place]
    }
}

impl State {
    pub(crate) const fn is_handed_over(&self) -> bool {
        self.is_handed_over
    }
}

impl Inheritance {
    /// Of the descriptors after the control socket's.
    pub(crate) fn new(
        inventory: &Inventory,
        mut descriptors: impl Iterator<Item = OwnedFd>,
    ) -> Self {
        let mut inheritance = Self::default();
        let key = |item: &ListenerItem| (item.address, item.service);
        for (item, socket) in inventory.listeners.iter().zip(descriptors.by_ref()) {
            inheritance.sockets.insert(key(item), socket);
        }
        for (item, socket) in inventory.flows.iter().zip(descriptors.by_ref()) {
            if let Some(listener) = inventory.listeners.get(item.listener) {
                let flows = inheritance.flows.entry(key(listener)).or_default();
                flows.push(Flow {
                    client: item.client,
                    name: item.name.clone(),
                    is_proven: item.is_proven,
                    socket,
                });
            }
        }
        inheritance.predecessors = descriptors.collect();
        inheritance
    }
}

impl Leaving {
    /// In the order of the inventory.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let gates = self.gates.iter().map(|gate| gate.socket.as_fd());
        let flows = self.flows.iter().flat_map(|(_, flows)| flows);
        let flows = flows.map(|flow| flow.socket.as_fd());
        std::iter::once(self.control.as_fd())
            .chain(gates)
            .chain(flows)
            .chain(self.predecessors.iter().map(OwnedFd::as_fd))
            .collect()
    }
}

impl Door {
    fn failed(listener: &Listener, error: &io::Error) -> Self {
        tracing::warn!(address = %listener.address, %error, "cannot listen");
        Self::Failed(error.to_string())
    }

    fn entrance(&self) -> Option<&Entrance> {
        match self {
            Self::Open(gate) => Some(gate),
            Self::Left(entrance) => Some(entrance),
            Self::Failed(_) => None,
        }
    }
}

/// Gives an entrance the names of a listener, or none; whether any that it had is gone.
fn rename(entrance: &Entrance, listener: Option<&Listener>) -> bool {
    let none = Listener {
        address: entrance.address,
        service: entrance.service,
        names: BTreeMap::new(),
        fallback: None,
    };
    let (names, is_any_gone) = Names::new(listener.unwrap_or(&none), &entrance.names());
    entrance.set_names(Arc::new(names));
    is_any_gone
}
