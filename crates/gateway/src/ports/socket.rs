//! The sockets that requests come to: one of each family, of the tunnel interface only, each with a thread that reads it.
//!
//! A thread that waits in the system call itself answers sooner than one that is told by a runtime that there is something, and
//! most answers take less time than that telling.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
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
    reader: Option<Reader>,
    has_failed: bool,
}

/// A socket and the thread that reads it, which is told to end with this.
struct Reader {
    socket: Arc<PortSocket>,
    thread: JoinHandle<()>,
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
        self.ipv4.is_heard() && self.ipv6.is_heard()
    }

    /// The socket that sends from an address.
    pub(super) fn at(&self, address: IpAddr) -> Option<&Arc<PortSocket>> {
        match address {
            IpAddr::V4(_) => self.ipv4.socket(),
            IpAddr::V6(_) => self.ipv6.socket(),
        }
    }
}

impl Family {
    fn socket(&self) -> Option<&Arc<PortSocket>> {
        self.reader.as_ref().map(|reader| &reader.socket)
    }

    /// Whether somebody reads: a request that our own code fails on ends the thread.
    fn is_heard(&self) -> bool {
        (self.reader.as_ref()).is_some_and(|reader| !reader.thread.is_finished())
    }

    fn listen(&mut self, domain: Domain, interface: &str, take: &(impl Take + Clone)) {
        if self.is_heard() {
            return;
        }
        // The next one needs its place.
        self.reader = None;
        match Reader::start(domain, interface, take.clone()) {
            Ok(reader) => {
                self.has_failed = false;
                self.reader = Some(reader);
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

impl Reader {
    fn start(domain: Domain, interface: &str, take: impl Take) -> io::Result<Self> {
        let socket = Arc::new(PortSocket::bind(domain, interface)?);
        let ours = Arc::clone(&socket);
        let thread = thread::Builder::new().name("ports".to_owned());
        let thread = thread.spawn(move || ours.read(take))?;
        Ok(Self { socket, thread })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.socket.close();
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// What a request that breaks our own code ends, begins anew.
    #[test]
    fn a_thread_that_failed_is_followed_by_another() {
        // A network of this thread's own, and of those that it starts.
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let take = |datagram: &[u8], _: Path, _: &Arc<PortSocket>| {
            assert_ne!(datagram, b"bad", "what breaks it");
            Some(datagram.to_vec())
        };
        let mut listening = Listening::default();
        for (own, server) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1")] {
            let client = UdpSocket::bind(own).unwrap();
            let server = (server.parse::<IpAddr>().unwrap(), SERVER_PORT);
            client
                .set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            listening.follow("lo", &take);
            assert!(listening.is_complete());
            client.send_to(b"bad", server).unwrap();
            let mut answer = [0; 10];
            let is_heard = (0..50).any(|_| {
                listening.follow("lo", &take);
                client.send_to(b"good", server).unwrap();
                matches!(client.recv(&mut answer), Ok(4))
            });
            assert!(is_heard, "{server:?}");
        }
    }
}
