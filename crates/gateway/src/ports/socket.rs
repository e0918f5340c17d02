//! The sockets that requests come to: one of each family, of the tunnel interface only, each with a thread that reads it.
//!
//! A thread that waits in the system call itself answers sooner than one that is told by a runtime that there is something, and
//! most answers take less time than that telling.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use adit_front::datagrams;
use adit_proto::port_control::SERVER_PORT;
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// What comes together is at most so long.
const LARGEST: usize = 1 << 16;

/// Bytes of requests that may wait for us.
const BACKLOG: usize = 1 << 20;

/// After a failure the next request is waited for after so long.
const PAUSE: Duration = Duration::from_millis(50);

/// A socket of one family, at every address of the tunnel interface.
pub(super) struct PortSocket {
    socket: Socket,
    is_closed: AtomicBool,
}

/// Who is at the other end, and at which of our addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) from: SocketAddr,
    pub(super) at: IpAddr,
}

/// What is done with a datagram: it is answered now, or later by the socket, or not.
pub(super) trait Take:
    Fn(&[u8], Path, &Arc<PortSocket>) -> Option<Vec<u8>> + Send + 'static
{
}

impl<F: Fn(&[u8], Path, &Arc<PortSocket>) -> Option<Vec<u8>> + Send + 'static> Take for F {}

/// What is listened to. What is read ends with it.
#[derive(Default)]
pub(super) struct Listening {
    /// Of the interface that they are bound to: a new one of the same name has another.
    index: Option<u32>,
    ipv4: Family,
    ipv6: Family,
}

#[derive(Default)]
struct Family {
    socket: Option<Arc<PortSocket>>,
    has_failed: bool,
}

impl Listening {
    /// Listens on the interface as it is now.
    pub(super) fn follow(&mut self, interface: &str, take: &(impl Take + Clone)) {
        let index = nix::net::if_::if_nametoindex(interface).ok();
        if index != self.index {
            *self = Self {
                index,
                ..Self::default()
            };
        }
        if index.is_some() {
            self.ipv4.listen(Domain::IPV4, interface, take);
            self.ipv6.listen(Domain::IPV6, interface, take);
        }
    }

    /// Whether both families are heard.
    pub(super) fn is_complete(&self) -> bool {
        self.ipv4.socket.is_some() && self.ipv6.socket.is_some()
    }

    /// The socket that sends from an address.
    pub(super) fn at(&self, address: IpAddr) -> Option<&Arc<PortSocket>> {
        match address {
            IpAddr::V4(_) => self.ipv4.socket.as_ref(),
            IpAddr::V6(_) => self.ipv6.socket.as_ref(),
        }
    }
}

impl Family {
    fn listen(&mut self, domain: Domain, interface: &str, take: &(impl Take + Clone)) {
        if self.socket.is_some() {
            return;
        }
        let begun = PortSocket::bind(domain, interface).and_then(|socket| {
            let socket = Arc::new(socket);
            let (ours, take) = (Arc::clone(&socket), take.clone());
            let thread = thread::Builder::new().name("ports".to_owned());
            thread.spawn(move || ours.read(take))?;
            Ok(socket)
        });
        match begun {
            Ok(socket) => {
                self.has_failed = false;
                self.socket = Some(socket);
            }
            Err(error) => {
                if !std::mem::replace(&mut self.has_failed, true) {
                    let family = if domain == Domain::IPV4 { 4 } else { 6 };
                    tracing::warn!(%error, "devices cannot ask for ports by IPv{family}; it is tried again");
                }
            }
        }
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            socket.close();
        }
    }
}

impl PortSocket {
    fn bind(domain: Domain, interface: &str) -> io::Result<Self> {
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        let any: IpAddr = if domain == Domain::IPV4 {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            socket.set_only_v6(true)?;
            Ipv6Addr::UNSPECIFIED.into()
        };
        datagrams::tell_destination(&socket, domain == Domain::IPV6)?;
        datagrams::take_together(&socket);
        socket.set_recv_buffer_size(BACKLOG)?;
        socket.bind(&SocketAddr::new(any, SERVER_PORT).into())?;
        Ok(Self {
            socket,
            is_closed: AtomicBool::new(false),
        })
    }

    /// Sends from one of our addresses. What the socket does not take at once is lost: the client asks again.
    pub(super) fn send(&self, datagram: &[u8], path: Path) {
        self.send_together(datagram, datagram.len(), path);
    }

    fn send_together(&self, bytes: &[u8], each: usize, path: Path) {
        datagrams::send(
            &self.socket,
            bytes,
            each.max(1),
            Some(path.at),
            Some(path.from),
        );
    }

    /// Ends the wait of the thread that reads.
    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        // The error is that there is no connection; who waits is woken nevertheless.
        let _ = self.socket.shutdown(Shutdown::Read);
    }

    /// Reads until the socket is closed.
    fn read(self: &Arc<Self>, take: impl Take) {
        let mut buffer = vec![0; LARGEST];
        let mut room = datagrams::room();
        let mut answers = Answers::default();
        while !self.is_closed.load(Ordering::Acquire) {
            let received = match datagrams::receive(&self.socket, &mut buffer, &mut room) {
                Ok(received) => received,
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::debug!(%error, "a request for a port was not received");
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            let (Some(from), Some(at)) = (received.from, received.at) else {
                continue;
            };
            let path = Path { from, at };
            let bytes = buffer.get(..received.length).unwrap_or_default();
            for datagram in bytes.chunks(received.each) {
                if let Some(answer) = take(datagram, path, self) {
                    answers.add(&answer, path, self);
                }
            }
            answers.send(path, self);
        }
    }
}

/// Answers to one who asked for many things at once: those of one length go together.
#[derive(Default)]
struct Answers {
    bytes: Vec<u8>,
    each: usize,
}

impl Answers {
    fn add(&mut self, answer: &[u8], path: Path, socket: &PortSocket) {
        if answer.len() != self.each {
            self.send(path, socket);
            self.each = answer.len();
        }
        self.bytes.extend_from_slice(answer);
    }

    fn send(&mut self, path: Path, socket: &PortSocket) {
        socket.send_together(&self.bytes, self.each, path);
        self.bytes.clear();
    }
}
