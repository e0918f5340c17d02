//! Two hosts with a TUN device each, and between them what a tunnel does, without the tunnel.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use super::{LONGEST_PACKET, Tun, TunError, control};
use crate::coalesce::Coalescer;
use crate::namespace::Namespace;
use crate::segment::Segments;

const MTU: usize = 1420;

struct World {
    left: Host,
    right: Host,
}

struct Host {
    namespace: Namespace,
    tun: Tun,
    addresses: [IpAddr; 2],
}

/// What went through.
#[derive(Default)]
struct Count {
    packets: AtomicUsize,
    superpackets_read: AtomicUsize,
    superpackets_written: AtomicUsize,
}

impl World {
    fn new() -> Self {
        Self {
            left: Host::new(1),
            right: Host::new(2),
        }
    }

    /// Does something while packets go both ways.
    fn connected<T>(&self, work: impl FnOnce() -> T) -> (T, Count) {
        let count = Count::default();
        let is_over = AtomicBool::new(false);
        let result = thread::scope(|scope| {
            scope.spawn(|| carry(&self.left.tun, &self.right.tun, &count, &is_over));
            scope.spawn(|| carry(&self.right.tun, &self.left.tun, &count, &is_over));
            let guard = Over(&is_over);
            let result = work();
            drop(guard);
            result
        });
        (result, count)
    }
}

/// So that a test that fails ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Host {
    fn new(number: u8) -> Self {
        let namespace = Namespace::new();
        let tun = namespace.enter(|| Tun::open("tun0").unwrap());
        namespace.enter(|| tun.set_mtu(u32::try_from(MTU).unwrap()).unwrap());
        assert_eq!(namespace.enter(|| tun.mtu().unwrap()), 1420);
        namespace.run(&format!("ip address add 10.0.0.{number}/24 dev tun0"));
        namespace.run(&format!("ip address add fd00::{number}/64 dev tun0 nodad"));
        namespace.run("ip link set tun0 up");
        namespace.await_address(&format!("fd00::{number}"));
        Self {
            namespace,
            tun,
            addresses: [
                format!("10.0.0.{number}").parse().unwrap(),
                format!("fd00::{number}").parse().unwrap(),
            ],
        }
    }
}

fn carry(from: &Tun, to: &Tun, count: &Count, is_over: &AtomicBool) {
    let mut buffer = vec![0; LONGEST_PACKET];
    let mut coalescer = Coalescer::default();
    while !is_over.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::from(50_u8)).unwrap();
        let mut batch: Vec<Vec<u8>> = Vec::new();
        while batch.len() < 256
            && let Some((header, length)) = from.read(&mut buffer).unwrap()
        {
            let mut segments = Segments::new(&header, &buffer[..length]).unwrap();
            if segments.remaining() > 1 {
                count.superpackets_read.fetch_add(1, Ordering::Relaxed);
            }
            while segments.remaining() > 0 {
                let mut packet = vec![0; segments.next_length()];
                assert!(packet.len() <= MTU);
                assert_eq!(segments.next_into(&mut packet), Some(packet.len()));
                batch.push(packet);
            }
        }
        coalescer.coalesce(&batch, to.offers());
        let joined = coalescer.groups().iter().filter(|group| group.len() > 1);
        count
            .superpackets_written
            .fetch_add(joined.count(), Ordering::Relaxed);
        let written = to.write(&batch, &coalescer);
        assert_eq!((written.taken, written.refused), (batch.len(), 0));
        count.packets.fetch_add(batch.len(), Ordering::Relaxed);
    }
}

/// Bytes whose place shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8)
        .collect()
}

fn send_by_tcp(world: &World, to: IpAddr, bytes: &[u8]) -> Vec<u8> {
    let listener = world
        .right
        .namespace
        .enter(|| TcpListener::bind(SocketAddr::new(to, 7)).unwrap());
    let mut sending = world
        .left
        .namespace
        .enter(|| TcpStream::connect(SocketAddr::new(to, 7)).unwrap());
    let (mut receiving, _) = listener.accept().unwrap();
    receiving
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    thread::scope(|scope| {
        scope.spawn(move || sending.write_all(bytes).unwrap());
        let mut received = Vec::new();
        receiving.read_to_end(&mut received).unwrap();
        received
    })
}

#[test]
fn tcp_goes_through_as_superpackets() {
    let world = World::new();
    let bytes = pattern(16 << 20);
    for to in world.right.addresses {
        let (received, count) = world.connected(|| send_by_tcp(&world, to, &bytes));
        assert!(
            received == bytes,
            "bytes are not as they were sent, to {to}"
        );
        assert!(count.superpackets_read.into_inner() > 100);
        assert!(count.superpackets_written.into_inner() > 100);
    }
}

#[test]
fn tcp_goes_through_a_kernel_without_offloads() {
    let world = World::new();
    for host in [&world.left, &world.right] {
        control::set_offloads(host.tun.as_fd(), 0).unwrap();
        host.tun.tcp.is_on.store(false, Ordering::Relaxed);
        host.tun.udp.is_on.store(false, Ordering::Relaxed);
    }
    let bytes = pattern(4 << 20);
    for to in world.right.addresses {
        let (received, count) = world.connected(|| send_by_tcp(&world, to, &bytes));
        assert!(
            received == bytes,
            "bytes are not as they were sent, to {to}"
        );
        assert_eq!(count.superpackets_read.into_inner(), 0);
        assert_eq!(count.superpackets_written.into_inner(), 0);
    }
}

#[test]
fn datagrams_go_through_in_their_order() {
    const DATAGRAMS: usize = 40;
    const LENGTH: usize = 1000;
    let world = World::new();
    for (from, to) in world.left.addresses.into_iter().zip(world.right.addresses) {
        let sending = world
            .left
            .namespace
            .enter(|| UdpSocket::bind(SocketAddr::new(from, 0)).unwrap());
        let receiving = world
            .right
            .namespace
            .enter(|| UdpSocket::bind(SocketAddr::new(to, 9)).unwrap());
        receiving
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        // As programs do that have much to send, so that the device gets superpackets.
        setsockopt(
            &sending,
            sockopt::UdpGsoSegment,
            &i32::try_from(LENGTH).unwrap(),
        )
        .unwrap();
        let ((), count) = world.connected(|| {
            for round in 0..200_usize {
                // The last one is shorter.
                let bytes = pattern(DATAGRAMS * LENGTH - round);
                sending.send_to(&bytes, SocketAddr::new(to, 9)).unwrap();
                for expected in bytes.chunks(LENGTH) {
                    let mut buffer = [0; 2048];
                    let length = receiving.recv(&mut buffer).unwrap();
                    assert!(&buffer[..length] == expected, "round {round}");
                }
            }
        });
        assert!(count.superpackets_written.into_inner() >= 200);
        assert!(count.superpackets_read.into_inner() >= 200);
        // The hosts have to say something themselves, too.
        assert!(count.packets.into_inner() >= 200 * DATAGRAMS);
    }
}

#[test]
fn a_device_belongs_to_one_program() {
    let namespace = Namespace::new();
    namespace.enter(|| {
        let first = Tun::open("tun0").unwrap();
        let refusal = Tun::open("tun0").unwrap_err();
        assert!(matches!(refusal, TunError::Taken { .. }), "{refusal}");
        drop(first);
        // The interface went with it.
        let deadline = Instant::now() + Duration::from_secs(10);
        while Tun::open("tun0").is_err() {
            assert!(Instant::now() < deadline);
        }
    });
    for name in ["", "sixteen-letters-", "a/b", "tun%d", "..", "a b"] {
        let refusal = Tun::open(name).unwrap_err();
        assert!(
            matches!(refusal, TunError::Name { .. }),
            "{name}: {refusal}"
        );
    }
}

#[test]
fn an_interface_that_is_down_refuses_packets_and_goes_on() {
    let world = World::new();
    let bytes = pattern(1 << 20);
    world.right.namespace.run("ip link set tun0 down");
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[3] = 20;
    let mut coalescer = Coalescer::default();
    let batch = [packet];
    coalescer.coalesce(&batch, world.right.tun.offers());
    let written = world.right.tun.write(&batch, &coalescer);
    assert_eq!((written.taken, written.refused), (0, 1));
    world.right.namespace.run("ip link set tun0 up");
    let (received, _) = world.connected(|| send_by_tcp(&world, world.right.addresses[0], &bytes));
    assert!(received == bytes);
}
