//! Flows between real sockets of this host, in the time that the tests say.

use std::net::UdpSocket;
use std::time::Duration;

use rustix::event::epoll::CreateFlags;

use super::*;
use crate::admission::Admission;
use crate::route::Names;
use crate::shared::Entrance;
use crate::table::{Limits, Listener, Mode, Service, Target};

const GATE: u64 = 1;
const OWN: &[u8] = b"client";
const FIRST: &[u8] = b"by-client";
const CHOSEN: &[u8] = b"by-server";

struct Bench {
    flows: Flows,
    front: SocketAddr,
    device: UdpSocket,
    begin: Instant,
}

/// A packet with a long header, of a version that only devices know.
fn long(destination: &[u8], source: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a];
    for id in [destination, source] {
        datagram.push(id.len() as u8);
        datagram.extend(id);
    }
    datagram
}

fn short(destination: &[u8]) -> Vec<u8> {
    [&[0x40], destination].concat()
}

fn local() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn received(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 100];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    Some((buffer[..length].to_vec(), from))
}

impl Bench {
    fn new(limits: Limits, has_fallback: bool) -> Self {
        let shared = Shared::new(Admission::new(10_000));
        shared.admission.set(limits);
        let device = local();
        let target = Target {
            address: device.local_addr().unwrap(),
            mode: Mode::Gateway,
            near: [].into(),
        };
        let socket = socket::open(([127, 0, 0, 1], 0).into(), Service::Quic).unwrap();
        let front = rustix::net::getsockname(&socket).unwrap();
        let front = front.try_into().unwrap();
        let listener = Listener {
            address: front,
            service: Service::Quic,
            names: [].into(),
            fallback: has_fallback.then_some(Route::Device(target)),
        };
        let (names, _) = Names::new(&listener, &Names::default());
        let gate = Gate::new(GATE, socket, Entrance::new(front, Service::Quic, names));
        let epoll = Arc::new(epoll::create(CreateFlags::CLOEXEC).unwrap());
        let mut flows = Flows::new(shared, epoll);
        let begin = Instant::now();
        flows.carry(Arc::new(gate), Vec::new(), begin);
        Self {
            flows,
            front,
            device,
            begin,
        }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.begin + Duration::from_secs(seconds)
    }

    /// Where the device sees it come from, if it does.
    fn say(&mut self, client: &UdpSocket, datagram: &[u8], seconds: u64) -> Option<SocketAddr> {
        client.send_to(datagram, self.front).unwrap();
        self.flows.receive(GATE, self.at(seconds));
        let (seen, from) = received(&self.device)?;
        assert_eq!(seen, datagram);
        Some(from)
    }

    /// Whether the client hears it.
    fn answer(
        &mut self,
        client: &UdpSocket,
        to: SocketAddr,
        datagram: &[u8],
        seconds: u64,
    ) -> bool {
        self.device.send_to(datagram, to).unwrap();
        let keys: Vec<usize> = self.flows.store.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.flows.answer(key, self.at(seconds));
        }
        received(client).is_some_and(|(heard, from)| heard == datagram && from == self.front)
    }

    fn expire(&mut self, seconds: u64) {
        for second in 0..=seconds {
            self.flows.expire(self.at(second));
        }
    }

    /// One that asks and is answered, and says no more: whoever it is.
    fn stranger(&mut self, seconds: u64) -> (UdpSocket, SocketAddr) {
        let client = local();
        let from = self.say(&client, &long(FIRST, OWN), seconds).unwrap();
        assert!(self.answer(&client, from, &long(OWN, CHOSEN), seconds));
        (client, from)
    }

    /// One that hears the device.
    fn client(&mut self, seconds: u64) -> (UdpSocket, SocketAddr) {
        let (client, from) = self.stranger(seconds);
        assert_eq!(self.say(&client, &short(CHOSEN), seconds), Some(from));
        (client, from)
    }

    /// Whether the flow is still the same.
    fn is_there(&mut self, (client, from): &(UdpSocket, SocketAddr)) -> bool {
        self.flows.store.iter().any(|(_, flow)| {
            flow.client == client.local_addr().unwrap()
                && match &flow.state {
                    State::Pinned(pinned) => socket::is_bound_to(&pinned.socket, *from),
                    State::Asking(_) => false,
                }
        })
    }

    fn limited(&self) -> u64 {
        self.flows.shared.counters.failures().limited
    }
}

fn limits(unproven: u32) -> Limits {
    Limits {
        unproven,
        ..Limits::default()
    }
}

#[test]
fn who_has_not_shown_where_it_is_makes_room_and_who_has_stays() {
    let mut bench = Bench::new(limits(3), true);
    let client = bench.client(0);
    let strangers: Vec<_> = (0..10).map(|_| bench.stranger(1)).collect();
    let there: Vec<bool> = strangers.iter().map(|it| bench.is_there(it)).collect();
    assert_eq!(there, [[false; 7].as_slice(), &[true; 3]].concat());
    assert_eq!(bench.limited(), 7);
    assert!(bench.is_there(&client));
    assert!(bench.answer(&client.0, client.1, b"more", 2));
    assert_eq!(bench.say(&client.0, b"more", 2), Some(client.1));
    // Among them somebody comes, and is somebody as soon as it has heard the device.
    let other = bench.client(3);
    strangers.iter().for_each(|_| drop(bench.stranger(3)));
    assert!(bench.is_there(&client) && bench.is_there(&other));
}

#[test]
fn what_the_device_says_is_no_reason_to_keep_a_flow_and_what_the_client_says_is() {
    let mut bench = Bench::new(limits(10), true);
    let client = bench.client(0);
    let stranger = bench.stranger(0);
    let talking = bench.stranger(0);
    assert!(bench.say(&talking.0, b"more", 0).is_some());
    bench.expire(14);
    assert!(bench.is_there(&stranger));
    bench.expire(15);
    assert!(!bench.is_there(&stranger));
    bench.expire(149);
    assert!(bench.is_there(&client) && bench.is_there(&talking));
    bench.expire(150);
    assert!(!bench.is_there(&client) && !bench.is_there(&talking));
    assert_eq!(bench.flows.next_deadline(), None);
}

#[test]
fn who_goes_on_talking_makes_room_after_the_silent() {
    let mut bench = Bench::new(limits(3), true);
    let talking = bench.stranger(0);
    for _ in 0..5 {
        assert!(bench.answer(&talking.0, talking.1, b"and?", 1));
        assert!(bench.say(&talking.0, b"more", 1).is_some());
        // It goes to the end once, behind those that are there.
        let strangers = [(); 2].map(|()| bench.stranger(1));
        assert!(bench.is_there(&talking) && bench.is_there(&strangers[1]));
    }
    // Speaking alone is not talking.
    for _ in 0..5 {
        assert!(bench.say(&talking.0, b"more", 2).is_some());
        let _strangers = [(); 2].map(|()| bench.stranger(2));
    }
    assert!(!bench.is_there(&talking));
}

#[test]
fn a_source_has_its_share_of_flows() {
    let two = Limits {
        per_source: 2,
        ..limits(10)
    };
    let mut bench = Bench::new(two, true);
    let strangers = [(); 3].map(|()| bench.stranger(0));
    let clients = [(); 2].map(|()| bench.client(0));
    assert!(
        clients
            .iter()
            .chain(&strangers)
            .all(|it| bench.is_there(it))
    );
    // No more begin, and those that had begun end when they turn out to be of the same source.
    assert_eq!(bench.say(&local(), &long(FIRST, OWN), 1), None);
    assert_eq!(bench.limited(), 1);
    assert!(bench.say(&strangers[0].0, &short(CHOSEN), 1).is_some());
    assert!(!bench.is_there(&strangers[0]));
    bench.expire(200);
    let client = bench.client(200);
    assert!(bench.is_there(&client));
}

#[test]
fn nothing_is_left_of_who_was_refused_or_made_room() {
    let mut bench = Bench::new(limits(3), false);
    for _ in 0..100 {
        assert_eq!(bench.say(&local(), b"x", 0), None);
    }
    assert_eq!(bench.flows.shared.counters.failures().malformed, 100);
    assert_eq!(bench.flows.next_deadline(), None);
    assert!(bench.flows.gates[&GATE].by_client.is_empty());
    let mut bench = Bench::new(limits(3), true);
    for _ in 0..100 {
        bench.stranger(0);
    }
    assert_eq!(bench.flows.store.counts(), [3, 3, 0, 3]);
    assert_eq!(bench.flows.gates[&GATE].by_client.len(), 3);
    bench.expire(15);
    assert_eq!(bench.flows.store.counts(), [0; 4]);
    // Where nobody may be unproven there is no flow.
    bench.flows.shared.admission.set(limits(0));
    assert_eq!(bench.say(&local(), b"x", 16), None);
}

#[test]
fn the_next_front_knows_who_has_shown_where_it_is() {
    let mut bench = Bench::new(limits(10), true);
    let (client, stranger) = (bench.client(0), bench.stranger(0));
    let gate = Arc::clone(&bench.flows.gates[&GATE].gate);
    let flows = bench.flows.give_up(GATE);
    assert_eq!(bench.flows.store.counts(), [0; 4]);
    bench.flows.carry(gate, flows, bench.at(1));
    assert_eq!(bench.flows.store.counts(), [2, 2, 0, 1]);
    assert!(bench.is_there(&client) && bench.is_there(&stranger));
    assert!(bench.answer(&client.0, client.1, b"more", 2));
    bench.expire(20);
    assert!(bench.is_there(&client) && !bench.is_there(&stranger));
}
