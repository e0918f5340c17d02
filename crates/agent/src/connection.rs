//! A client of a gateway with its socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::{Duration, Instant};

use adit_proto::port_control::client::{Client, Event};
use adit_proto::port_control::{BUFFER_LENGTH, CLIENT_PORT};
use futures_util::future::select_all;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::gateway::Candidate;

/// Routers announce to all that their state is lost there (RFC 6886 section 3.2.1, RFC 6887 section 14.1.3).
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);

/// For so long a gateway that answered waits for a better one.
const COURTESY: Duration = Duration::from_millis(1500);

/// A gateway is asked, and listened to.
#[derive(Debug)]
pub struct Connection {
    candidate: Candidate,
    client: Client,
    socket: UdpSocket,
    /// Where announcements to all arrive, if that could be had.
    announcements: Option<UdpSocket>,
    buffer: Box<[u8; BUFFER_LENGTH]>,
    announced: Box<[u8; BUFFER_LENGTH]>,
}

impl Connection {
    /// Begins to ask what the gateway speaks. Needs a runtime around it.
    ///
    /// # Errors
    ///
    /// When this host has no such address, or no way there.
    pub fn open(candidate: Candidate) -> io::Result<Self> {
        let local = match candidate.server {
            SocketAddr::V6(server) if server.scope_id() != 0 => match candidate.local {
                IpAddr::V6(local) => SocketAddrV6::new(local, 0, 0, server.scope_id()).into(),
                IpAddr::V4(local) => SocketAddrV4::new(local, 0).into(),
            },
            SocketAddr::V4(_) | SocketAddr::V6(_) => SocketAddr::new(candidate.local, 0),
        };
        let socket = std::net::UdpSocket::bind(local)?;
        // The kernel then drops what others send, and tells when the port is closed.
        socket.connect(candidate.server)?;
        socket.set_nonblocking(true)?;
        let client = Client::new(candidate.server, candidate.local, seed()?, Instant::now());
        Ok(Self {
            announcements: announcements(&candidate).ok(),
            candidate,
            client,
            socket: UdpSocket::from_std(socket)?,
            buffer: Box::new([0; BUFFER_LENGTH]),
            announced: Box::new([0; BUFFER_LENGTH]),
        })
    }

    /// Whom it is with.
    pub const fn candidate(&self) -> &Candidate {
        &self.candidate
    }

    /// What asks there.
    pub const fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Waits for the next thing that happens. Nothing is lost when the wait is given up.
    pub async fn next_event(&mut self) -> Event {
        loop {
            // A socket that was just made is not known to be ready, and sends nothing then. An error is told when it is used.
            let _ = self.socket.writable().await;
            self.client.handle_timeout(Instant::now());
            while let Some(transmit) = self.client.poll_transmit() {
                match self.socket.try_send(&transmit.datagram) {
                    Ok(_) => {}
                    Err(error) => self.fail(&error),
                }
            }
            if let Some(event) = self.client.poll_event() {
                return event;
            }
            let due = self.client.poll_timeout();
            let sleep = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            let announcement = async {
                match &self.announcements {
                    Some(socket) => socket.recv_from(&mut self.announced[..]).await,
                    None => std::future::pending().await,
                }
            };
            let server = self.candidate.server;
            tokio::select! {
                received = self.socket.recv(&mut self.buffer[..]) => match received {
                    Ok(length) => {
                        let datagram = self.buffer.get(..length).unwrap_or_default();
                        self.client.handle_input(datagram, server, Instant::now());
                    }
                    Err(error) => self.fail(&error),
                },
                received = announcement => if let Ok((length, source)) = received {
                    let datagram = self.announced.get(..length).unwrap_or_default();
                    self.client.handle_input(datagram, source, Instant::now());
                },
                () = sleep => {}
            }
        }
    }

    /// What cannot be sent is as good as lost: it is sent again.
    fn fail(&mut self, error: &io::Error) {
        tracing::debug!(server = %self.candidate.server, %error, "no datagram goes through");
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.client.handle_unreachable(Instant::now());
        }
    }
}

/// Asks all at once; the first in the order of those that answer is taken, and does not keep better ones from answering for long.
pub async fn find(candidates: Vec<Candidate>) -> Option<Connection> {
    let opened = candidates.into_iter().filter_map(|candidate| {
        let name = candidate.to_string();
        Connection::open(candidate)
            .inspect_err(|error| tracing::debug!(gateway = name, %error, "cannot be asked"))
            .ok()
    });
    let mut asked: Vec<Option<Connection>> = opened.map(Some).collect();
    let mut found: Option<(usize, Connection)> = None;
    let mut until = None;
    while asked.iter().any(Option::is_some) {
        let waits = asked
            .iter_mut()
            .enumerate()
            .filter_map(|(rank, connection)| {
                let connection = connection.as_mut()?;
                Some(Box::pin(
                    async move { (rank, connection.next_event().await) },
                ))
            });
        let next = select_all(waits);
        let (rank, event) = match until {
            None => next.await.0,
            Some(until) => match tokio::time::timeout_at(until, next).await {
                Ok((outcome, _, _)) => outcome,
                Err(_) => break,
            },
        };
        let Some(slot) = asked.get_mut(rank) else {
            break;
        };
        match event {
            Event::Found(_) => {
                if let Some(connection) = slot.take() {
                    found = Some((rank, connection));
                }
                // Nobody behind it is of interest any more.
                asked.truncate(rank);
                until.get_or_insert_with(|| tokio::time::Instant::now() + COURTESY);
            }
            Event::Absent(_) => *slot = None,
            Event::Mapped(..)
            | Event::Failed(..)
            | Event::Lost(_)
            | Event::Removed(..)
            | Event::Reset => {}
        }
    }
    found.map(|(_, connection)| connection)
}

fn announcements(candidate: &Candidate) -> io::Result<UdpSocket> {
    let IpAddr::V4(local) = candidate.local else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddrV4::new(ALL_HOSTS, CLIENT_PORT).into())?;
    socket.join_multicast_v4(&ALL_HOSTS, &local)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

fn seed() -> io::Result<u64> {
    getrandom::u64().map_err(|error| io::Error::other(error.to_string()))
}
