//! Sockets on interfaces that carry much, little, or not everything.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use super::{Family, Receiver, Sender, Socket};
use crate::endpoint::{Endpoint, Source};
use crate::namespace::Namespace;

const LOOPBACKS: [&str; 2] = ["127.0.0.1", "::1"];

fn pair(namespace: &Namespace, family: Family) -> (Socket, Socket) {
    namespace.enter(|| {
        (
            Socket::bind(family, 0).unwrap(),
            Socket::bind(family, 0).unwrap(),
        )
    })
}

fn family(address: &str) -> Family {
    let address: IpAddr = address.parse().unwrap();
    Family::of(SocketAddr::new(address, 0))
}

fn at(address: &str, socket: &Socket) -> Endpoint {
    Endpoint::new(SocketAddr::new(address.parse().unwrap(), socket.port()))
}

/// Takes datagrams until there are so many, and says in how many buffers each call found them.
fn receive(socket: &Socket, number: usize) -> (Vec<(Vec<u8>, Endpoint)>, Vec<usize>) {
    let mut receiver = Receiver::default();
    let mut received = Vec::new();
    let mut buffers = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while received.len() < number && Instant::now() < deadline {
        match socket.receive(&mut receiver).unwrap() {
            0 => thread::sleep(Duration::from_millis(1)),
            count => buffers.push(count),
        }
        received.extend(
            receiver
                .datagrams()
                .map(|(bytes, endpoint)| (bytes.to_vec(), endpoint)),
        );
    }
    (received, buffers)
}

/// Datagrams one after another, all of a length but the last, and the same apart.
fn datagrams(number: usize, length: usize, last: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let apart: Vec<Vec<u8>> = (1..=number)
        .map(|index| {
            let length = if index == number { last } else { length };
            vec![index as u8; length]
        })
        .collect();
    (apart.concat(), apart)
}

#[test]
fn many_datagrams_go_and_come_together() {
    let namespace = Namespace::new();
    for address in LOOPBACKS {
        let (from, to) = pair(&namespace, family(address));
        // More than the kernel cuts at once, by their number, and by their bytes.
        for (number, length, last) in [
            (150, 100, 99),
            (150, 1452, 1),
            (1, 1452, 1452),
            (3, 30_000, 5),
        ] {
            let (bytes, apart) = datagrams(number, length, last);
            Sender::default()
                .send(&from, &mut at(address, &to), &bytes, length)
                .unwrap();
            let (received, buffers) = receive(&to, number);
            let received: Vec<Vec<u8>> = received.into_iter().map(|(bytes, _)| bytes).collect();
            assert!(received == apart, "{number} of {length} to {address}");
            // They came as joined as they went.
            let sent = number.div_ceil(64.min(65_507 / length));
            assert_eq!(
                buffers.iter().sum::<usize>(),
                sent,
                "{number} of {length} to {address}"
            );
        }
    }
}

#[test]
fn datagrams_longer_than_the_link_carries_are_fragmented() {
    let namespace = Namespace::new();
    namespace.run("ip link set lo mtu 1400");
    for address in LOOPBACKS {
        let (from, to) = pair(&namespace, family(address));
        let mut sender = Sender::default();
        for round in 0..3 {
            let (bytes, apart) = datagrams(100, 1452, 700);
            sender
                .send(&from, &mut at(address, &to), &bytes, 1452)
                .unwrap();
            let (received, _) = receive(&to, 100);
            let received: Vec<Vec<u8>> = received.into_iter().map(|(bytes, _)| bytes).collect();
            assert!(received == apart, "round {round} to {address}");
            assert_eq!(sender.refusals.len(), 1);
        }
        // Shorter ones are cut by the kernel as before.
        let (bytes, apart) = datagrams(60, 1000, 1000);
        sender
            .send(&from, &mut at(address, &to), &bytes, 1000)
            .unwrap();
        let (received, buffers) = receive(&to, 60);
        assert!(received.into_iter().map(|(bytes, _)| bytes).eq(apart));
        assert_eq!(buffers.iter().sum::<usize>(), 1);
    }
}

#[test]
fn sockets_that_the_kernel_does_not_cut_for_send_one_by_one() {
    let namespace = Namespace::new();
    for address in LOOPBACKS {
        let (mut from, to) = pair(&namespace, family(address));
        from.is_cutting = false;
        let (bytes, apart) = datagrams(100, 1000, 10);
        let mut sender = Sender::default();
        sender
            .send(&from, &mut at(address, &to), &bytes, 1000)
            .unwrap();
        let (received, buffers) = receive(&to, 100);
        assert!(received.into_iter().map(|(bytes, _)| bytes).eq(apart));
        assert_eq!(buffers.iter().sum::<usize>(), 100);
        assert!(sender.refusals.is_empty());
    }
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let namespace = Namespace::new();
    namespace.run("ip address add 192.0.2.1/32 dev lo");
    namespace.run("ip address add 192.0.2.2/32 dev lo");
    namespace.run("ip address add 2001:db8::1/128 dev lo nodad");
    namespace.run("ip address add 2001:db8::2/128 dev lo nodad");
    namespace.await_address("2001:db8::1");
    namespace.await_address("2001:db8::2");
    for (address, from, family) in [
        ("192.0.2.2", "192.0.2.1", Family::V4),
        ("2001:db8::2", "2001:db8::1", Family::V6),
    ] {
        let (asking, answering) = pair(&namespace, family);
        let mut sender = Sender::default();
        let mut there = at(address, &answering);
        // Else the host takes the very address that is asked.
        there.source = Some(Source {
            address: from.parse().unwrap(),
            interface: 1,
        });
        sender.send(&asking, &mut there, b"question", 8).unwrap();
        let (received, _) = receive(&answering, 1);
        let mut back = received[0].1;
        assert_eq!(
            back.source,
            Some(Source {
                address: address.parse().unwrap(),
                interface: 1
            })
        );
        let (bytes, _) = datagrams(100, 1000, 1000);
        sender.send(&answering, &mut back, &bytes, 1000).unwrap();
        let (received, _) = receive(&asking, 100);
        assert_eq!(received.len(), 100);
        for (_, endpoint) in received {
            assert_eq!(endpoint.address.ip().to_string(), address);
            assert_eq!(endpoint.address.port(), answering.port());
        }

        // The address goes: answers still leave, joined as before, from another.
        let length = if family == Family::V4 { 32 } else { 128 };
        namespace.run(&format!("ip address del {address}/{length} dev lo"));
        sender.send(&answering, &mut back, &bytes, 1000).unwrap();
        assert_eq!(back.source, None);
        assert!(sender.refusals.is_empty());
        let (received, buffers) = receive(&asking, 100);
        assert_eq!(received.len(), 100);
        assert!(buffers.iter().sum::<usize>() <= 2);
        assert!(
            received
                .iter()
                .all(|(_, endpoint)| endpoint.address.ip().to_string() != address)
        );
    }
}

#[test]
fn a_way_that_is_not_there_is_told_and_does_not_stop_others() {
    let namespace = Namespace::new();
    let (from, to) = pair(&namespace, Family::V4);
    let mut sender = Sender::default();
    let mut nowhere = Endpoint::new("198.51.100.1:5".parse().unwrap());
    nowhere.source = Some(Source {
        address: "127.0.0.1".parse().unwrap(),
        interface: 1,
    });
    let (bytes, _) = datagrams(10, 100, 100);
    let error = sender.send(&from, &mut nowhere, &bytes, 100).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH));
    assert!(sender.refusals.is_empty());
    sender
        .send(&from, &mut at("127.0.0.1", &to), &bytes, 100)
        .unwrap();
    assert_eq!(receive(&to, 10).0.len(), 10);
}

#[test]
fn datagrams_bear_the_mark() {
    let namespace = Namespace::new();
    namespace.run("ip rule add fwmark 0x51 blackhole priority 1");
    namespace.run("ip -6 rule add fwmark 0x51 blackhole priority 1");
    // The rule for local addresses comes first otherwise.
    namespace.run("ip rule add lookup local priority 2");
    namespace.run("ip rule del lookup local priority 0");
    namespace.run("ip -6 rule add lookup local priority 2");
    namespace.run("ip -6 rule del lookup local priority 0");
    for address in LOOPBACKS {
        let (from, to) = pair(&namespace, family(address));
        let mut sender = Sender::default();
        from.set_mark(0x51).unwrap();
        sender
            .send(&from, &mut at(address, &to), b"marked", 6)
            .unwrap_err();
        from.set_mark(0).unwrap();
        sender
            .send(&from, &mut at(address, &to), b"plain", 5)
            .unwrap();
        assert_eq!(receive(&to, 1).0[0].0, b"plain");
    }
}

#[test]
fn both_families_share_a_port() {
    let namespace = Namespace::new();
    namespace.enter(|| {
        let v4 = Socket::bind(Family::V4, 0).unwrap();
        let v6 = Socket::bind(Family::V6, v4.port()).unwrap();
        assert_eq!(v4.port(), v6.port());
        let refusal = Socket::bind(Family::V4, v4.port()).unwrap_err();
        assert_eq!(refusal.source.raw_os_error(), Some(libc::EADDRINUSE));
    });
}
