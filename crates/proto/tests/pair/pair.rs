//! A client and a server, and between them a line that loses, doubles and reorders, all in virtual time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use adit_model::protocol::Protocol;
use adit_proto::pcp::server::Target;
use adit_proto::pcp::wire::Nonce;
use adit_proto::port_control::client::{Client, Event};
use adit_proto::port_control::wish::{MappingId, Wish};

use crate::server::{Held, Server};

pub(crate) const ID: MappingId = MappingId(1);
pub(crate) const NONCE: Nonce = Nonce([7; 12]);

/// What the line does to datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Line {
    /// Of a hundred, so many are lost.
    pub(crate) lost: u64,
    /// Of a hundred, so many come twice.
    pub(crate) doubled: u64,
    /// Each takes up to this time, so they overtake each other.
    pub(crate) delay: Duration,
}

pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    pub(crate) client: Client,
    pub(crate) server: Server,
    pub(crate) line: Line,
    pub(crate) events: Vec<(Duration, Event)>,
    /// When the client sent something.
    pub(crate) sent: Vec<Duration>,
    local: SocketAddr,
    remote: SocketAddr,
    under_way: BTreeMap<(Instant, u64), (bool, Vec<u8>)>,
    random: u64,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::between("10.59.0.2:40000", "10.59.0.1:5351")
    }

    #[expect(clippy::disallowed_methods, reason = "any point in time will do")]
    pub(crate) fn between(local: &str, remote: &str) -> Self {
        let start = Instant::now();
        let local: SocketAddr = local.parse().expect("an address");
        let remote = remote.parse().expect("an address");
        Self {
            now: start,
            start,
            client: Client::new(remote, local.ip(), 3, start),
            server: Server::new(start),
            line: Line::default(),
            events: Vec::new(),
            sent: Vec::new(),
            local,
            remote,
            under_way: BTreeMap::new(),
            random: 1,
        }
    }

    /// A wish for TCP port 8080 for an hour.
    pub(crate) fn wish() -> Wish {
        Wish::new(
            Protocol::Tcp,
            NonZeroU16::new(8080).expect("not zero"),
            3600,
        )
    }

    pub(crate) fn insert(&mut self, wish: Wish) {
        self.client.insert(ID, wish, NONCE, self.now);
    }

    /// Another wish like [`Self::wish`], for another port.
    pub(crate) fn insert_at(&mut self, id: MappingId, port: u16) {
        let port = NonZeroU16::new(port).expect("not zero");
        let wish = Wish::new(Protocol::Tcp, port, 3600);
        self.client.insert(id, wish, NONCE, self.now);
    }

    /// What the server holds for the client's port 8080.
    pub(crate) fn held(&self) -> Option<&Held> {
        let port = NonZeroU16::new(8080).expect("not zero");
        let target = Target::Port(Protocol::Tcp, port);
        let held = self.server.held.get(&(self.local.ip(), target));
        held.filter(|it| it.expires > self.now)
    }

    /// The external address and port that the client was told last.
    pub(crate) fn mapped(&self) -> Option<SocketAddr> {
        self.events.iter().rev().find_map(|(_, event)| match event {
            Event::Mapped(_, mapped) => Some(mapped.external),
            _ => None,
        })
    }

    pub(crate) fn count(&self, is_counted: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|(_, it)| is_counted(it)).count()
    }

    /// Lets time pass, and everything happen that falls into it.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.flush();
            let arrival = self.under_way.keys().next().map(|(at, _)| *at);
            let next = [
                arrival,
                self.client.poll_timeout(),
                self.server.poll_timeout(),
            ];
            let Some(at) = next.into_iter().flatten().min().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            while let Some(entry) = self.under_way.first_entry()
                && entry.key().0 <= self.now
            {
                let (to_server, datagram) = entry.remove();
                self.arrive(to_server, &datagram);
            }
            self.client.handle_timeout(self.now);
        }
    }

    /// An answer from the server's address that was not asked for.
    pub(crate) fn inject(&mut self, datagram: &[u8], source: &str) {
        let source = source.parse().expect("an address");
        self.client.handle_input(datagram, source, self.now);
        self.flush();
    }

    pub(crate) const fn server_address(&self) -> IpAddr {
        self.remote.ip()
    }

    fn arrive(&mut self, to_server: bool, datagram: &[u8]) {
        if to_server {
            if let Some(answer) = self.server.handle_input(datagram, self.local, self.now) {
                self.send(false, &answer);
            }
        } else {
            self.client.handle_input(datagram, self.remote, self.now);
        }
    }

    fn flush(&mut self) {
        while let Some(transmit) = self.client.poll_transmit() {
            assert_eq!(transmit.to, self.remote);
            assert!(transmit.datagram.len() <= 1100);
            self.sent.push(self.now - self.start);
            self.send(true, &transmit.datagram);
        }
        while let Some(transmit) = self.server.poll_transmit(self.now) {
            assert_eq!(transmit.to, self.local);
            self.send(false, &transmit.datagram);
        }
        while let Some(event) = self.client.poll_event() {
            self.events.push((self.now - self.start, event));
        }
    }

    fn send(&mut self, to_server: bool, datagram: &[u8]) {
        let copies = 1 + u64::from(self.chance(self.line.doubled));
        for _ in 0..copies {
            if self.chance(self.line.lost) {
                continue;
            }
            let delay = self.line.delay.as_micros().max(1) as u64;
            let at = self.now + Duration::from_micros(10 + self.next() % delay);
            let order = self.next();
            self.under_way
                .insert((at, order), (to_server, datagram.to_vec()));
        }
    }

    fn chance(&mut self, of_hundred: u64) -> bool {
        self.next() % 100 < of_hundred
    }

    /// Knuth's generator, of which the upper bits are good.
    const fn next(&mut self) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }
}
