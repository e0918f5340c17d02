//! One connection of a client: what it wants is read, the device is called, and the two are left to each other.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_proto::http::{self, HeadReader};
use adit_proto::proxy_protocol;
use adit_proto::tls::{self, ClientHelloReader};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt};

use super::direction::{CHUNK, Direction, Ready, Side};
use super::pipe::Pipes;
use crate::admission::{Held, Permit};
use crate::route::{Entry, OpenEntry};
use crate::shared::{Counted, Counters, Entrance, Gate, Shared, count};
use crate::socket;
use crate::table::{Mode, Route, Service, Target};

/// RFC 8555 §8.3
const CHALLENGES: &str = "/.well-known/acme-challenge/";

#[derive(Debug)]
pub(super) struct Connection {
    /// Keys are used again, this is not.
    pub(super) id: u64,
    /// When its time is over, if its state has one.
    pub(super) due: Instant,
    client: OwnedFd,
    client_ready: Ready,
    address: SocketAddr,
    entrance: Arc<Entrance>,
    state: State,
    /// Until it is closed.
    permit: Option<Permit>,
}

#[derive(Debug)]
enum State {
    /// It has not said all of where it wants to.
    Asking(Box<Asking>),
    Carrying(Box<Carrying>),
    /// It was answered, and what it still sends is thrown away: a socket that is closed with bytes unread resets the
    /// connection, and takes the answer with it.
    Answered,
    Closed,
}

#[derive(Debug)]
struct Asking {
    reader: Reader,
    held: Held,
    _counted: Counted,
}

#[derive(Debug)]
enum Reader {
    Tls(ClientHelloReader),
    Http(HeadReader),
}

#[derive(Debug)]
struct Carrying {
    device: OwnedFd,
    device_ready: Ready,
    to_device: Direction,
    to_client: Direction,
    is_connected: bool,
    entry: OpenEntry,
    _counted: Counted,
}

/// What a worker lends to the connection that it serves.
pub(super) struct Loan<'a> {
    pub(super) pipes: &'a mut Pipes,
    pub(super) chunk: &'a mut [u8; CHUNK],
    pub(super) shared: &'a Arc<Shared>,
}

/// What a connection needs after a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// The next event.
    Event,
    /// Another turn when the others had theirs.
    Turn,
    /// To be called again after this time at the latest.
    Deadline(Duration),
    /// Events of the device's socket, too, and to be called again after this time at the latest.
    Device(Duration),
    /// It has ended.
    Nothing,
}

/// What a client gets to say where it wants to.
pub(super) const ASKING: Duration = Duration::from_secs(5);
/// What a device gets to answer.
const CONNECTING: Duration = Duration::from_secs(10);
/// What a client gets to read its answer.
const ANSWERED: Duration = Duration::from_secs(2);

impl Connection {
    pub(super) fn new(
        id: u64,
        client: OwnedFd,
        address: SocketAddr,
        gate: &Arc<Gate>,
        permit: Permit,
        shared: &Arc<Shared>,
        now: Instant,
    ) -> Self {
        let reader = match gate.service {
            Service::Tls | Service::Quic => Reader::Tls(ClientHelloReader::default()),
            Service::Http => Reader::Http(HeadReader::default()),
        };
        let asking = Asking {
            reader,
            held: permit.hold(),
            _counted: Counted::waiting(shared),
        };
        Self {
            id,
            due: now + ASKING,
            client,
            client_ready: Ready {
                readable: true,
                writable: true,
                hung_up: false,
            },
            address,
            entrance: Arc::clone(&gate.entrance),
            state: State::Asking(Box::new(asking)),
            permit: Some(permit),
        }
    }

    pub(super) const fn client(&self) -> &OwnedFd {
        &self.client
    }

    pub(super) fn device(&self) -> Option<&OwnedFd> {
        match &self.state {
            State::Carrying(carrying) => Some(&carrying.device),
            State::Asking(_) | State::Answered | State::Closed => None,
        }
    }

    pub(super) const fn is_asking(&self) -> bool {
        matches!(self.state, State::Asking(_))
    }

    pub(super) const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Whether it leads where no table leads any more.
    pub(super) fn is_ended(&self) -> bool {
        match &self.state {
            State::Carrying(carrying) => carrying.entry.is_ended(),
            State::Asking(_) | State::Answered | State::Closed => false,
        }
    }

    pub(super) fn note_client(&mut self, flags: EventFlags) {
        self.client_ready.note(flags);
    }

    pub(super) fn note_device(&mut self, flags: EventFlags) {
        if let State::Carrying(carrying) = &mut self.state {
            carrying.device_ready.note(flags);
        }
    }

    /// Does what can be done.
    pub(super) fn advance(&mut self, loan: &mut Loan<'_>) -> Need {
        match &mut self.state {
            State::Asking(_) => self.ask(loan),
            State::Carrying(_) => self.carry(loan),
            State::Answered => self.discard(loan),
            State::Closed => Need::Nothing,
        }
    }

    /// Its time is over, if it is one of those that have one.
    pub(super) fn expire(&mut self, shared: &Shared) -> Need {
        match &mut self.state {
            State::Asking(_) => {
                count(&shared.counters.too_slow);
                self.close()
            }
            State::Carrying(carrying) if carrying.is_connected => {
                // Most end before that, and need not be asked whether they are there.
                let _ = socket::keep_alive(&carrying.device);
                Need::Event
            }
            State::Carrying(_) => self.fail_to_reach(&shared.counters),
            State::Answered => self.close(),
            State::Closed => Need::Nothing,
        }
    }

    /// Ends it at once, with a reset of both sides when it carried something.
    pub(super) fn abort(&mut self) -> Need {
        let _ = sockopt::set_socket_linger(&self.client, Some(Duration::ZERO));
        if let Some(device) = self.device() {
            let _ = sockopt::set_socket_linger(device, Some(Duration::ZERO));
        }
        self.close()
    }

    fn close(&mut self) -> Need {
        self.state = State::Closed;
        self.permit = None;
        Need::Nothing
    }

    fn ask(&mut self, loan: &mut Loan<'_>) -> Need {
        while self.client_ready.readable {
            let State::Asking(asking) = &mut self.state else {
                return Need::Event;
            };
            let room = asking.reader.room().min(loan.chunk.len());
            let chunk = loan.chunk.get_mut(..room).unwrap_or_default();
            let bytes = match recv(&self.client, &mut *chunk, RecvFlags::empty()) {
                Ok((0, _)) => return self.close(),
                Ok((length, _)) => chunk.get(..length).unwrap_or_default(),
                Err(Errno::AGAIN) => {
                    self.client_ready.readable = false;
                    break;
                }
                Err(Errno::INTR) => continue,
                Err(_) => return self.close(),
            };
            self.client_ready.note_read(bytes.len(), room);
            let wish = asking.reader.handle_input(bytes);
            match wish {
                Ok(None) => {
                    asking.held.set(asking.reader.size());
                    // It may wait for that before it says more.
                    let _ = sockopt::set_tcp_quickack(&self.client, true);
                }
                Ok(Some(wish)) => return self.decide(&wish, loan),
                Err(refusal) => {
                    count(&loan.shared.counters.malformed);
                    return self.answer(refusal);
                }
            }
        }
        Need::Event
    }

    fn decide(&mut self, wish: &Wish, loan: &mut Loan<'_>) -> Need {
        let names = self.entrance.names();
        let Some(entry) = names.find(wish.name.as_deref()) else {
            count(&loan.shared.counters.unknown_name);
            return self.answer(match self.entrance.service {
                Service::Tls | Service::Quic => &tls::UNRECOGNIZED_NAME,
                Service::Http => http::MISDIRECTED,
            });
        };
        match &entry.route {
            Route::Device(target) => self.call(entry, target, loan),
            Route::Redirect {
                challenges: Some(target),
                ..
            } if wish.path.starts_with(CHALLENGES) => self.call(entry, target, loan),
            Route::Redirect { port, .. } => match &wish.name {
                Some(host) => self.answer(&http::redirect(host, *port, &wish.path)),
                None => self.answer(http::BAD_REQUEST),
            },
        }
    }

    fn call(&mut self, entry: &Arc<Entry>, target: &Target, loan: &mut Loan<'_>) -> Need {
        let State::Asking(asking) = &self.state else {
            return Need::Event;
        };
        let mut first = Vec::new();
        if target.mode == Mode::ProxyProtocol {
            first.extend(proxy_protocol::header(self.address, self.entrance.address));
        }
        first.extend_from_slice(asking.reader.received());
        let has_room = self.permit.as_mut().is_some_and(Permit::take_file);
        if !has_room {
            count(&loan.shared.counters.limited);
            return self.abort();
        }
        let device = match socket::dial(target, self.entrance.service, self.address) {
            Ok(device) => device,
            Err(error) => {
                tracing::warn!(device = %target.address, %error, "cannot call a device");
                return self.fail_to_reach(&loan.shared.counters);
            }
        };
        self.state = State::Carrying(Box::new(Carrying {
            device,
            device_ready: Ready::default(),
            to_device: Direction::beginning_with(first),
            to_client: Direction::default(),
            is_connected: false,
            entry: OpenEntry::new(Arc::clone(entry)),
            _counted: Counted::connection(loan.shared),
        }));
        Need::Device(CONNECTING)
    }

    fn carry(&mut self, loan: &mut Loan<'_>) -> Need {
        let State::Carrying(carrying) = &mut self.state else {
            return Need::Event;
        };
        let Carrying {
            device,
            device_ready,
            to_device,
            to_client,
            is_connected,
            ..
        } = &mut **carrying;
        if !*is_connected && !device_ready.writable {
            return Need::Event;
        }
        let mut pump = |direction: &mut Direction, is_out: bool, is_last: bool| {
            let client = Side {
                socket: self.client.as_fd(),
                ready: &mut self.client_ready,
            };
            let device = Side {
                socket: device.as_fd(),
                ready: device_ready,
            };
            let (from, to) = if is_out {
                (client, device)
            } else {
                (device, client)
            };
            direction.pump(from, to, is_last, loan.pipes, loan.chunk)
        };
        let out = pump(to_device, true, to_client.is_done());
        if out.is_err() && !*is_connected {
            return self.fail_to_reach(&loan.shared.counters);
        }
        *is_connected |= to_device.has_begun();
        let back = if *is_connected {
            pump(to_client, false, to_device.is_done())
        } else {
            Ok(false)
        };
        match (out, back) {
            (Ok(_), Ok(_)) if to_device.is_done() && to_client.is_done() => self.close(),
            (Ok(out), Ok(back)) if out || back => Need::Turn,
            (Ok(_), Ok(_)) => Need::Event,
            (Err(_), _) | (_, Err(_)) => self.abort(),
        }
    }

    fn discard(&mut self, loan: &mut Loan<'_>) -> Need {
        // No more than a client can have on the way; the deadline ends the rest.
        for _ in 0..4 {
            if !self.client_ready.readable {
                return Need::Event;
            }
            match recv(&self.client, &mut loan.chunk[..], RecvFlags::empty()) {
                Ok((0, _)) => return self.close(),
                Ok((length, _)) => self.client_ready.note_read(length, loan.chunk.len()),
                Err(Errno::AGAIN) => self.client_ready.readable = false,
                Err(Errno::INTR) => {}
                Err(_) => return self.close(),
            }
        }
        Need::Turn
    }

    /// Says the last word. A socket that has said nothing yet takes all of it.
    fn answer(&mut self, bytes: &[u8]) -> Need {
        if bytes.is_empty() {
            return self.abort();
        }
        let told = send(&self.client, bytes, SendFlags::NOSIGNAL);
        let shut = shutdown(&self.client, Shutdown::Write);
        if told.is_err() || shut.is_err() {
            return self.close();
        }
        self.state = State::Answered;
        Need::Deadline(ANSWERED)
    }

    fn fail_to_reach(&mut self, counters: &Counters) -> Need {
        count(&counters.unreachable);
        match self.entrance.service {
            Service::Tls | Service::Quic => self.abort(),
            Service::Http => self.answer(http::UNREACHABLE),
        }
    }
}

/// What a client wants.
struct Wish {
    name: Option<String>,
    path: String,
}

impl Reader {
    fn room(&self) -> usize {
        match self {
            Self::Tls(reader) => reader.room(),
            Self::Http(reader) => reader.room(),
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Tls(reader) => reader.size(),
            Self::Http(reader) => reader.size(),
        }
    }

    fn received(&self) -> &[u8] {
        match self {
            Self::Tls(reader) => reader.received(),
            Self::Http(reader) => reader.received(),
        }
    }

    /// What it wants, or what it is told when it cannot be understood: nothing where there is nothing to say.
    fn handle_input(&mut self, bytes: &[u8]) -> Result<Option<Wish>, &'static [u8]> {
        match self {
            Self::Tls(reader) => match reader.handle_input(bytes) {
                Ok(hello) => Ok(hello.map(|hello| Wish {
                    name: hello.server_name,
                    path: String::new(),
                })),
                Err(_) => Err(&[]),
            },
            Self::Http(reader) => match reader.handle_input(bytes) {
                Ok(head) => Ok(head.map(|head| Wish {
                    name: head.host,
                    path: head.path,
                })),
                Err(_) => Err(http::BAD_REQUEST),
            },
        }
    }
}

/// Whether an error is of one connection that was to be accepted, and the next may be fine (accept(2)).
pub(super) fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
    )
}
