//! Those who want much at once get no more than their share.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use adit_front::{Limits, Service};
use adit_lab::wait_until;
use anyhow::{Result, ensure};

use crate::device::{Plain, connect, exchange, hello};
use crate::findings::Findings;
use crate::network::{Family, LIMIT, Network, Place, listeners};

const NAMES: [(&str, Place, u16); 1] = [("nas.example", Place::Nas, 443)];
const SLOW: usize = 10_000;
const MEMORY: u64 = 200_000_000;

#[test]
fn ten_thousand_who_never_finish_hold_little_memory_and_nobody_up() -> Result<()> {
    let network = Network::alone("front-slow")?;
    let front = network.start_front()?;
    let limits = Limits {
        per_source: 20_000,
        ..Limits::default()
    };
    front.set_limited(listeners(Service::Tls, 443, &NAMES, None), limits)?;
    let address = Place::Front.at(Family::V4, 443);
    let device = Plain::listen(&network.nas, Place::Nas.at(Family::V4, 443))?;
    let good = hello(&network.client, "nas.example", 0)?;
    // A hello that announces more than comes, in records of its own size.
    let announced: [u8; 9] = [22, 3, 1, 0x3f, 0xff, 1, 0, 0x3e, 0];
    for length in [1500, 15_000] {
        let begin = Instant::now();
        let mut bytes = announced.to_vec();
        bytes.resize(length, 0);
        let streams: Vec<TcpStream> = thread::scope(|scope| {
            let parts: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| -> Result<Vec<TcpStream>> {
                        let open = || {
                            (0..SLOW / 8)
                                .map(|_| {
                                    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
                                    stream.set_read_timeout(Some(LIMIT))?;
                                    // One that had to make room is reset while it writes.
                                    let _ = stream.write_all(&bytes);
                                    Ok(stream)
                                })
                                .collect()
                        };
                        network.client.enter(open)?
                    })
                })
                .collect();
            let mut streams = Vec::new();
            for part in parts {
                streams.extend(part.join().unwrap()?);
            }
            anyhow::Ok(streams)
        })?;
        ensure!(streams.len() == SLOW, "{}", streams.len());
        let status = front.status()?;
        let memory = front.memory()?;
        Findings::note(&format!(
            "figure: {SLOW} connections that send {length} bytes within {:.1} s: {} wait, {} had to go, {} MB",
            begin.elapsed().as_secs_f32(),
            status.waiting,
            status.failures.limited,
            memory / 1_000_000
        ));
        ensure!(memory < MEMORY, "{memory} bytes");
        if length * SLOW <= limits.waiting_bytes {
            // The last may not have been accepted yet.
            front.await_status("all wait at once", |status| status.waiting == SLOW as u64)?;
        } else {
            ensure!(status.failures.limited > 0, "{status:?}");
        }
        // Among them, one who knows what it wants.
        let mut client = connect(&network.client, address)?;
        client.write_all(&good)?;
        let (mut nas, _) = device.accept()?;
        nas.read_exact(&mut vec![0; good.len()])?;
        exchange(&client, &nas)?;
        front.await_status("their time is over", |status| status.waiting == 0)?;
        for mut stream in streams {
            match stream.read(&mut [0]) {
                Ok(0) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
                other => anyhow::bail!("{other:?}"),
            }
        }
        exchange(&client, &nas)?;
        ensure!(front.memory()? < MEMORY, "memory afterwards");
    }
    let failures = front.status()?.failures;
    let ended = failures.too_slow + failures.limited + failures.malformed;
    ensure!(ended >= 2 * SLOW as u64, "{failures:?}");
    Ok(())
}

#[test]
fn one_source_has_its_share_and_others_have_theirs() -> Result<()> {
    let network = Network::new("front-share")?;
    let front = network.start_front()?;
    let limits = Limits {
        per_source: 3,
        connections: 5,
        ..Limits::default()
    };
    front.set_limited(listeners(Service::Tls, 443, &NAMES, None), limits)?;
    let address = Place::Front.at(Family::V4, 443);
    let device = Plain::listen(&network.nas, Place::Nas.at(Family::V4, 443))?;
    let good = hello(&network.client, "nas.example", 0)?;
    let open = |host| -> Result<(TcpStream, TcpStream)> {
        let mut client = connect(host, address)?;
        client.write_all(&good)?;
        let (mut nas, _) = device.accept()?;
        nas.read_exact(&mut vec![0; good.len()])?;
        Ok((client, nas))
    };
    let is_refused = |host| -> Result<()> {
        let mut client = connect(host, address)?;
        client.set_read_timeout(Some(Duration::from_secs(3)))?;
        match client.read(&mut [0]) {
            Ok(0) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            other => anyhow::bail!("{other:?}"),
        }
    };
    let is_let_in = |host| -> Result<bool> {
        let mut client = connect(host, address)?;
        if client.write_all(&good).is_err() {
            return Ok(false);
        }
        Ok(device
            .connections
            .recv_timeout(Duration::from_millis(500))
            .is_ok())
    };
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(open(&network.client)?);
    }
    is_refused(&network.client)?;
    held.push(open(&network.blog)?);
    held.push(open(&network.blog)?);
    // It has one left of its share, and all together none.
    is_refused(&network.blog)?;
    for (client, nas) in &mut held {
        exchange(client, nas)?;
    }
    held.remove(0);
    front.await_status("one has gone", |status| status.connections == 4)?;
    // One who has not said anything makes room for the next, who may; at the latest for one that the same thread accepts.
    let mut silent = connect(&network.client, address)?;
    front.await_status("it waits", |status| status.waiting == 1)?;
    wait_until("somebody to be let in", Duration::from_secs(4), || {
        is_let_in(&network.blog)
    })?;
    ensure!(!matches!(silent.read(&mut [0]), Ok(1..)), "it was answered");
    let failures = front.status()?.failures;
    ensure!(
        failures.limited >= 3 && failures.too_slow == 0,
        "{failures:?}"
    );
    Ok(())
}
