//! A thread that accepts connections and carries them, and one of them datagrams: whatever happens to any of its sockets
//! wakes it.

mod connection;
mod deadlines;
mod direction;
mod flows;
mod pipe;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use slab::Slab;

pub(crate) use flows::Flow;

use self::connection::{ASKING, Connection, Loan, Need, is_passing};
use self::deadlines::Deadlines;
use self::direction::CHUNK;
use self::flows::Flows;
use self::pipe::Pipes;
use crate::admission::Excess;
use crate::shared::{Gate, Shared, count};

/// More than one core's worth of threads for each of these many cores carries nothing more.
pub(crate) const MOST_WORKERS: u32 = 8;
/// Events that are fetched at once, and connections that are accepted before others have their turn.
const EVENTS: usize = 256;
const ACCEPTED: usize = 64;
/// How long nobody is accepted when the system has no room for more.
const PAUSE: Duration = Duration::from_millis(20);

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Connections over entries that have ended, end.
    Sweep,
    /// Carry the datagrams of this gate; these are its flows.
    Carry(Arc<Gate>, Vec<Flow>),
    /// Give up a gate of datagrams, and say what its flows were.
    Yield(u64, Sender<Vec<Flow>>),
}

/// How a worker is reached.
#[derive(Debug)]
pub(crate) struct Handle {
    epoll: Arc<OwnedFd>,
    waker: Arc<OwnedFd>,
    commands: Sender<Command>,
}

/// Whom an event concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Waker,
    Gate(u64),
    Client(usize),
    Device(usize),
    Datagrams(u64),
    Flow(usize),
}

struct Worker {
    shared: Arc<Shared>,
    epoll: Arc<OwnedFd>,
    waker: Arc<OwnedFd>,
    commands: Receiver<Command>,
    connections: Slab<Connection>,
    next_id: u64,
    deadlines: Deadlines,
    flows: Flows,
    pipes: Pipes,
    chunk: Box<[u8; CHUNK]>,
    /// Those that want another turn.
    turns: Vec<usize>,
    /// Those that have ended; their keys are not used again before the events at hand are done with.
    ended: Vec<usize>,
    now: Instant,
}

impl Handle {
    /// Begins to accept the connections of a gate.
    pub(crate) fn open(&self, gate: &Gate) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
        let subject = Subject::Gate(gate.id).data();
        Ok(epoll::add(&self.epoll, &gate.socket, subject, flags)?)
    }

    /// Accepts no more of them.
    pub(crate) fn close(&self, gate: &Gate) {
        // It may be none of its own.
        let _ = epoll::delete(&self.epoll, &gate.socket);
    }

    pub(crate) fn tell(&self, command: Command) {
        // A worker ends with its process.
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&self.waker, &1_u64.to_ne_bytes());
    }
}

/// Starts one; `name` is what its thread is called.
pub(crate) fn start(shared: &Arc<Shared>, name: &str) -> io::Result<Handle> {
    let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
    let waker = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    epoll::add(&epoll, &waker, Subject::Waker.data(), EventFlags::IN)?;
    let (sender, commands) = mpsc::channel();
    let mut worker = Worker {
        shared: Arc::clone(shared),
        epoll: Arc::clone(&epoll),
        waker: Arc::clone(&waker),
        commands,
        connections: Slab::new(),
        next_id: 0,
        deadlines: Deadlines::default(),
        flows: Flows::new(Arc::clone(shared), Arc::clone(&epoll)),
        pipes: Pipes::new(Arc::clone(&shared.admission)),
        chunk: Box::new([0; CHUNK]),
        turns: Vec::new(),
        ended: Vec::new(),
        now: Instant::now(),
    };
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let _fatal = Fatal;
            worker.run();
        })?;
    Ok(Handle {
        epoll,
        waker,
        commands: sender,
    })
}

impl Worker {
    fn run(&mut self) {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        loop {
            let patience = self.patience();
            let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), patience.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot wait for events");
                    thread::sleep(PAUSE);
                }
            }
            self.now = Instant::now();
            for event in &events {
                // A copy: the struct is packed.
                let flags = event.flags;
                match Subject::of(event.data.u64()) {
                    Subject::Waker => self.obey(),
                    Subject::Gate(id) => self.accept(id),
                    Subject::Client(key) => {
                        if let Some(connection) = self.connections.get_mut(key) {
                            connection.note_client(flags);
                        }
                        self.advance(key);
                    }
                    Subject::Device(key) => {
                        if let Some(connection) = self.connections.get_mut(key) {
                            connection.note_device(flags);
                        }
                        self.advance(key);
                    }
                    Subject::Datagrams(gate) => self.flows.receive(gate, self.now),
                    Subject::Flow(key) => self.flows.answer(key, self.now),
                }
            }
            for key in std::mem::take(&mut self.turns) {
                self.advance(key);
            }
            self.expire();
            self.flows.expire(self.now);
            for key in self.ended.drain(..) {
                self.connections.try_remove(key);
            }
        }
    }

    /// How long nothing may happen.
    fn patience(&self) -> Option<Duration> {
        if !self.turns.is_empty() {
            return Some(Duration::ZERO);
        }
        let next = [self.deadlines.next(), self.flows.next_deadline()];
        let next = next.into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn obey(&mut self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.waker, &mut count);
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Sweep => {
                    let ended = self.connections.iter().filter(|(_, it)| it.is_ended());
                    for key in ended.map(|(key, _)| key).collect::<Vec<_>>() {
                        self.step(key, |connection, _| connection.abort());
                    }
                    self.flows.sweep();
                }
                Command::Carry(gate, flows) => self.flows.carry(gate, flows, self.now),
                Command::Yield(gate, sender) => {
                    let _ = sender.send(self.flows.give_up(gate));
                }
            }
        }
    }

    fn accept(&mut self, gate: u64) {
        let Some(gate) = self.shared.gate(gate) else {
            return;
        };
        for _ in 0..ACCEPTED {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (client, address) = match acceptfrom_with(&gate.socket, flags) {
                Ok((client, address)) => (client, address),
                Err(Errno::AGAIN) => return,
                Err(error) => {
                    let error = io::Error::from(error);
                    if !is_passing(&error) {
                        tracing::warn!(address = %gate.address, %error, "cannot accept a connection");
                        thread::sleep(PAUSE);
                        return;
                    }
                    continue;
                }
            };
            let address = address.and_then(|address| SocketAddr::try_from(address).ok());
            if let Some(address) = address {
                self.welcome(&gate, client, address);
            }
        }
    }

    fn welcome(&mut self, gate: &Arc<Gate>, client: OwnedFd, address: SocketAddr) {
        let permit = match self.shared.admission.admit(address.ip()) {
            // One who has not said what it wants makes room for one who may.
            Err(Excess::Total) if self.evict() => self.shared.admission.admit(address.ip()),
            permit => permit,
        };
        let Ok(permit) = permit else {
            count(&self.shared.counters.limited);
            return;
        };
        let id = self.next_id;
        self.next_id += 1;
        let connection = Connection::new(id, client, address, gate, permit, &self.shared, self.now);
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        if watch(&self.epoll, connection.client(), Subject::Client(key)).is_err() {
            return;
        }
        entry.insert(connection);
        self.deadlines.add(self.now, ASKING, key, id);
        self.advance(key);
    }

    fn advance(&mut self, key: usize) {
        self.step(key, Connection::advance);
    }

    fn step(&mut self, key: usize, step: impl FnOnce(&mut Connection, &mut Loan<'_>) -> Need) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.is_closed() {
            return;
        }
        let mut loan = Loan {
            pipes: &mut self.pipes,
            chunk: &mut self.chunk,
            shared: &self.shared,
        };
        let mut need = step(connection, &mut loan);
        if let Need::Device(limit) = need {
            let watched = connection
                .device()
                .map(|device| watch(&self.epoll, device, Subject::Device(key)));
            need = match watched {
                Some(Ok(())) => Need::Deadline(limit),
                Some(Err(_)) | None => connection.abort(),
            };
        }
        match need {
            Need::Event | Need::Device(_) => {}
            Need::Turn => self.turns.push(key),
            Need::Deadline(length) => {
                connection.due = self.now + length;
                self.deadlines.add(self.now, length, key, connection.id);
            }
            Need::Nothing => self.ended.push(key),
        }
        while self.shared.admission.holds_too_much() && self.evict() {}
    }

    /// Ends the one that has waited the longest without saying where it wants to; whether there was one.
    fn evict(&mut self) -> bool {
        while let Some(deadline) = self.deadlines.take_oldest(ASKING) {
            let asking = self
                .connections
                .get_mut(deadline.key)
                .filter(|it| it.id == deadline.id && it.is_asking());
            if let Some(connection) = asking {
                count(&self.shared.counters.limited);
                connection.abort();
                self.ended.push(deadline.key);
                return true;
            }
        }
        false
    }

    fn expire(&mut self) {
        while let Some(deadline) = self.deadlines.take_over(self.now) {
            let key = deadline.key;
            let connection = self.connections.get(key);
            // It may be in another state by now, which has another time.
            if connection.is_some_and(|it| it.id == deadline.id && it.due <= self.now) {
                self.step(key, |connection, loan| connection.expire(loan.shared));
            }
        }
    }
}

/// A connection on a thread that is no more would hang for ever; who watches over the process starts another.
struct Fatal;

impl Drop for Fatal {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

fn watch(epoll: impl AsFd, socket: impl AsFd, subject: Subject) -> io::Result<()> {
    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
    Ok(epoll::add(epoll, socket, subject.data(), flags)?)
}

impl Subject {
    /// The kind in the highest byte.
    const KIND: u32 = 56;

    fn data(self) -> EventData {
        let (kind, value) = match self {
            Self::Waker => (0, 0),
            Self::Gate(id) => (1, id),
            Self::Client(key) => (2, key as u64),
            Self::Device(key) => (3, key as u64),
            Self::Datagrams(gate) => (4, gate),
            Self::Flow(key) => (5, key as u64),
        };
        EventData::new_u64(kind << Self::KIND | value)
    }

    fn of(data: u64) -> Self {
        let value = data & ((1 << Self::KIND) - 1);
        let key = usize::try_from(value).unwrap_or(usize::MAX);
        match data >> Self::KIND {
            1 => Self::Gate(value),
            2 => Self::Client(key),
            3 => Self::Device(key),
            4 => Self::Datagrams(value),
            5 => Self::Flow(key),
            _ => Self::Waker,
        }
    }
}
