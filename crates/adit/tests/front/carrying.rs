//! Connections that are carried: every byte, both ways, to whatever end.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use adit_front::{Client, Service, Table};
use anyhow::{Context as _, Result, ensure};
use socket2::SockRef;

use crate::device::{Plain, connect, ensure_closed, exchange, hello};
use crate::network::{FAMILIES, Family, Front, Network, Place, listeners};

const NAMES: [(&str, Place, u16); 1] = [("nas.example", Place::Nas, 443)];

/// A front with one name, a device behind it, and what a client says first.
struct Way {
    network: Network,
    front: Front,
    device: Plain,
    hello: Vec<u8>,
}

impl Way {
    fn new(purpose: &str) -> Result<Self> {
        let network = Network::new(purpose)?;
        let front = network.start_front()?;
        front.set(listeners(Service::Tls, 443, &NAMES, None))?;
        Ok(Self {
            device: Plain::listen(&network.nas, Place::Nas.at(Family::V4, 443))?,
            hello: hello(&network.client, "nas.example", 0)?,
            front,
            network,
        })
    }

    /// A connection that leads to the device: its two ends.
    fn open(&self) -> Result<(TcpStream, TcpStream)> {
        let mut client = connect(&self.network.client, Place::Front.at(Family::V4, 443))?;
        client.write_all(&self.hello)?;
        let (mut device, seen) = self.device.accept()?;
        ensure!(seen == client.local_addr()?, "the device sees {seen}");
        let mut received = vec![0; self.hello.len()];
        device.read_exact(&mut received)?;
        ensure!(received == self.hello, "another hello");
        Ok((client, device))
    }
}

/// Bytes that differ from place to place, so that none can be lost, doubled or moved unseen.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut value = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        value = value
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend((value >> 16).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn a_connection_that_one_side_has_ended_goes_on_the_other_way() -> Result<()> {
    let way = Way::new("front-half")?;
    for is_client_first in [true, false] {
        let (client, device) = way.open()?;
        let (mut first, mut second) = if is_client_first {
            (client, device)
        } else {
            (device, client)
        };
        for length in [1, 3000, 1 << 20] {
            exchange(&first, &second)?;
            let sent = pattern(length, 1);
            thread::scope(|scope| {
                scope.spawn(|| first.write_all(&sent));
                let mut received = vec![0; length];
                second.read_exact(&mut received)?;
                ensure!(received == sent, "{length} bytes");
                Ok(())
            })?;
        }
        first.shutdown(Shutdown::Write)?;
        ensure_end(&mut second)?;
        // Long after its own end it still hears the other.
        for round in 0..3 {
            thread::sleep(Duration::from_millis(50));
            let sent = pattern(300_000, round);
            thread::scope(|scope| {
                scope.spawn(|| second.write_all(&sent));
                let mut received = vec![0; sent.len()];
                first.read_exact(&mut received)?;
                ensure!(received == sent, "round {round}");
                Ok(())
            })?;
        }
        drop(second);
        ensure_closed(&mut first)?;
    }
    way.front
        .await_status("nothing is left", |status| status.connections == 0)?;
    Ok(())
}

fn ensure_end(stream: &mut TcpStream) -> Result<()> {
    let mut byte = [0];
    ensure!(stream.read(&mut byte)? == 0, "it goes on");
    Ok(())
}

#[test]
fn many_bytes_go_both_ways_at_once_to_slow_readers_too() -> Result<()> {
    let way = Way::new("front-bulk")?;
    let length = 24 << 20;
    for is_slow in [false, true] {
        let (client, device) = way.open()?;
        let outward = pattern(length, 7);
        let inward = pattern(length, 8);
        thread::scope(|scope| {
            let writers = [(&client, &outward), (&device, &inward)]
                .map(|(mut stream, bytes)| scope.spawn(move || stream.write_all(bytes)));
            let readers = [(&device, &outward), (&client, &inward)].map(|(mut stream, bytes)| {
                scope.spawn(move || -> Result<()> {
                    let mut chunk = vec![0; if is_slow { 70_001 } else { 1 << 20 }];
                    let mut place = 0;
                    while place < bytes.len() {
                        let count = stream.read(&mut chunk)?;
                        ensure!(count > 0, "it ends at {place}");
                        ensure!(chunk[..count] == bytes[place..place + count], "at {place}");
                        place += count;
                        if is_slow && place % 17 == 0 {
                            thread::sleep(Duration::from_millis(5));
                        }
                    }
                    Ok(())
                })
            });
            for writer in writers {
                writer.join().unwrap()?;
            }
            for reader in readers {
                reader.join().unwrap()?;
            }
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_reset_and_a_refusal_are_handed_on() -> Result<()> {
    let way = Way::new("front-reset")?;
    for is_client in [true, false] {
        let (client, device) = way.open()?;
        let (one, mut other) = if is_client {
            (client, device)
        } else {
            (device, client)
        };
        SockRef::from(&one).set_linger(Some(Duration::ZERO))?;
        drop(one);
        let error = other.read(&mut [0]).err().context("it was not reset")?;
        ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
    }
    // Nobody listens there.
    let names = [("nas.example", Place::Nas, 444)];
    way.front.set(listeners(Service::Tls, 443, &names, None))?;
    for family in FAMILIES {
        let mut client = connect(&way.network.client, Place::Front.at(family, 443))?;
        client.write_all(&way.hello)?;
        let error = client.read(&mut [0]).err().context("it was not reset")?;
        ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
    }
    way.front.await_status("they are counted", |status| {
        status.failures.unreachable == 2 && status.connections == 0
    })?;
    Ok(())
}

#[test]
fn a_name_that_is_taken_away_ends_its_connections_and_no_others() -> Result<()> {
    let way = Way::new("front-away")?;
    let names = [
        ("nas.example", Place::Nas, 443),
        ("blog.example", Place::Blog, 443),
    ];
    way.front.set(listeners(Service::Tls, 443, &names, None))?;
    let (mut client, mut device) = way.open()?;
    let blog = Plain::listen(&way.network.blog, Place::Blog.at(Family::V4, 443))?;
    let mut other = connect(&way.network.client, Place::Front.at(Family::V4, 443))?;
    other.write_all(&hello(&way.network.client, "blog.example", 0)?)?;
    let (mut blog, _) = blog.accept()?;
    blog.read_exact(&mut vec![
        0;
        hello(&way.network.client, "blog.example", 0)?
            .len()
    ])?;
    exchange(&other, &blog)?;
    let status = way.front.status()?;
    let open = |name: &str| {
        let of_name = status
            .names
            .iter()
            .filter(|it| it.name.as_deref() == Some(name));
        of_name.map(|it| it.open).sum::<u64>()
    };
    ensure!(
        open("nas.example") == 1 && open("blog.example") == 1,
        "{status:?}"
    );
    // Another limit or another name in the table concerns neither.
    let more = [names[0], names[1], ("new.example", Place::Blog, 443)];
    way.front.set(listeners(Service::Tls, 443, &more, None))?;
    exchange(&client, &device)?;
    way.front
        .set(listeners(Service::Tls, 443, &more[1..], None))?;
    ensure!(client.read(&mut [0]).is_err(), "the connection goes on");
    ensure!(device.read(&mut [0]).is_err(), "the connection goes on");
    exchange(&other, &blog)?;
    // The same without any listener at all.
    way.front.set(Vec::new())?;
    ensure!(other.read(&mut [0]).is_err(), "the connection goes on");
    let refused = connect(&way.network.client, Place::Front.at(Family::V4, 443));
    ensure!(refused.is_err(), "it listens still");
    Ok(())
}

#[test]
fn a_port_that_somebody_has_is_told_and_taken_when_it_is_free() -> Result<()> {
    let network = Network::new("front-taken")?;
    let front = network.start_front()?;
    let address = Place::Front.at(Family::V4, 443);
    let other = network.gateway.enter(|| TcpListener::bind(address))??;
    let table = Table {
        revision: 9,
        listeners: listeners(Service::Tls, 443, &NAMES, None),
        ..Table::default()
    };
    let status = Client::connect(&network.socket)?.set(&table)?;
    ensure!(status.revision == 9, "{status:?}");
    for listener in &status.listeners {
        let is_taken = listener.address == address;
        ensure!(listener.problem.is_some() == is_taken, "{listener:?}");
    }
    drop(other);
    front.await_status("it listens", |status| {
        status
            .listeners
            .iter()
            .all(|listener| listener.problem.is_none())
    })?;
    connect(&network.client, address)?;
    // A table that cannot be changes nothing.
    let mut wrong = table.clone();
    wrong.listeners.extend(table.listeners.clone());
    let refused = Client::connect(&network.socket)?.set(&wrong);
    ensure!(refused.is_err(), "{refused:?}");
    connect(&network.client, address)?;
    Ok(())
}

#[test]
fn one_port_of_a_client_leads_to_a_device_by_two_listeners_at_once() -> Result<()> {
    let way = Way::new("front-same-port")?;
    let both = [443, 444]
        .map(|port| listeners(Service::Tls, port, &NAMES, None))
        .concat();
    way.front.set(both)?;
    let (client, device) = way.open()?;
    let source = client.local_addr()?;
    let second = way.network.client.enter(|| -> Result<TcpStream> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        // The first has its port alone until somebody asks for the same kindly.
        SockRef::from(&client).set_reuse_address(true)?;
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
        socket.connect(&Place::Front.at(Family::V4, 444).into())?;
        Ok(socket.into())
    })??;
    (&second).write_all(&way.hello)?;
    let (mut other, seen) = way.device.accept()?;
    ensure!(seen.ip() == source.ip(), "the device sees {seen}");
    ensure!(seen.port() != source.port(), "two connections are one");
    other.read_exact(&mut vec![0; way.hello.len()])?;
    exchange(&second, &other)?;
    exchange(&client, &device)?;
    Ok(())
}

#[test]
fn a_device_that_is_slow_to_answer_gets_its_time_however_late_the_hello_was() -> Result<()> {
    let way = Way::new("front-late")?;
    let network = &way.network;
    let rules = "table ip block {
        chain input {
            type filter hook input priority 0
            tcp flags syn drop
        }
    }
    ";
    network.nas.exec_with_input(["nft", "-f", "-"], rules)?;
    let mut client = connect(&network.client, Place::Front.at(Family::V4, 443))?;
    let (first, second) = way.hello.split_at(100);
    client.write_all(first)?;
    thread::sleep(Duration::from_secs(4));
    client.write_all(second)?;
    // Later than the time for the hello, and sooner than that for the device.
    thread::sleep(Duration::from_secs(2));
    network
        .nas
        .exec(["nft", "delete", "table", "ip", "block"])?;
    let (device, _) = way.device.accept()?;
    (&device).read_exact(&mut vec![0; way.hello.len()])?;
    exchange(&client, &device)
}
