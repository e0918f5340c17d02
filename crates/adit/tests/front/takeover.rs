//! The next front takes over from the one before, and nobody notices.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use adit_front::{Client, Service};
use adit_lab::wait_until;
use anyhow::{Result, ensure};

use crate::device::{Plain, TLS, connect, exchange, hello};
use crate::network::{FAMILIES, Family, LIMIT, Network, Place, binary, listeners};

const NAMES: [(&str, Place, u16); 1] = [("nas.example", Place::Nas, 443)];
const READY: &str = "leading connections";

/// A device that sends back what it gets.
fn echo(device: &Plain) {
    while let Ok((mut stream, _)) = device.connections.recv() {
        thread::spawn(move || {
            let Ok(mut back) = stream.try_clone() else {
                return;
            };
            let _ = std::io::copy(&mut stream, &mut back);
        });
    }
}

#[test]
fn no_connection_is_lost_while_one_front_follows_another() -> Result<()> {
    let network = Network::new("front-takeover")?;
    let front = network.start_front()?;
    front.set(listeners(Service::Tls, 443, &NAMES, None))?;
    let device = Plain::listen(&network.nas, Place::Nas.at(Family::V4, 443))?;
    thread::spawn(move || echo(&device));
    let hello = hello(&network.client, "nas.example", 0)?;
    let open = || -> Result<TcpStream> {
        let mut client = connect(&network.client, Place::Front.at(Family::V4, 443))?;
        client.write_all(&hello)?;
        let mut received = vec![0; hello.len()];
        client.read_exact(&mut received)?;
        ensure!(received == hello, "another hello");
        Ok(client)
    };
    let is_over = AtomicBool::new(false);
    let opened = AtomicU64::new(0);
    thread::scope(|scope| {
        let busy: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while !is_over.load(Ordering::Relaxed) {
                        let mut client = open()?;
                        client.write_all(b"once more")?;
                        client.read_exact(&mut [0; 9])?;
                        opened.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        let followed = (|| {
            let mut before = front.process;
            for round in 0..5 {
                let mut held = open()?;
                let mut next = network.spawn_front()?;
                next.wait_for_output(READY, LIMIT)?;
                let status = Client::connect(&network.socket)?.status()?;
                ensure!(status.pid == next.id(), "{status:?}");
                ensure!(
                    status.listeners.len() == 2 && status.revision == 1,
                    "{status:?}"
                );
                let count = opened.load(Ordering::Relaxed);
                wait_until("more connections", LIMIT, || {
                    Ok(opened.load(Ordering::Relaxed) > count + 20)
                })?;
                // What was there is carried on by the one before, which ends with it.
                held.write_all(&[round; 100])?;
                held.read_exact(&mut [0; 100])?;
                ensure!(before.is_running()?, "it ended with a connection");
                drop(held);
                let ended = before.wait(LIMIT)?;
                ensure!(ended.success(), "{ended}: {}", before.stderr()?);
                before = next;
            }
            Ok(before)
        })();
        is_over.store(true, Ordering::Relaxed);
        for thread in busy {
            thread.join().unwrap()?;
        }
        followed.map(drop)
    })
}

#[test]
fn a_handover_that_is_broken_off_changes_nothing() -> Result<()> {
    use std::os::unix::net::UnixStream;

    let network = Network::new("front-broken-off")?;
    let certificate = network.certificate(&["nas.example"])?;
    let _nas = network.serve(Place::Nas, 443, "nas", TLS, &certificate)?;
    let front = network.start_front()?;
    front.set(listeners(Service::Tls, 443, &NAMES, None))?;
    for words in [
        &["{\"version\":1,\"take-over\":{}}\n"][..],
        &[
            "{\"version\":1,\"take-over\":{}}\n",
            "{\"version\":1,\"send\":{}}\n",
        ],
        &["{\"version\":2,\"status\":{}}\n"],
        &["{\"version\":1,\"taken\":{}}\n"],
        &["nonsense\n"],
    ] {
        let mut stream = UnixStream::connect(&network.socket)?;
        for word in words {
            stream.write_all(word.as_bytes())?;
            ensure!(stream.read(&mut [0; 4096])? > 0, "{words:?}");
        }
        drop(stream);
        front.status()?;
        for family in FAMILIES {
            let url = "https://nas.example/";
            network.fetch(&network.client, family, url, &certificate)?;
        }
    }
    Ok(())
}

#[test]
fn one_in_the_background_goes_on_alone_and_ends_when_it_is_told() -> Result<()> {
    let network = Network::new("front-background")?;
    let socket = network.socket.to_string_lossy().into_owned();
    let device = Plain::listen(&network.nas, Place::Nas.at(Family::V4, 443))?;
    let hello = hello(&network.client, "nas.example", 0)?;
    let mut pids = Vec::new();
    for round in 0..2 {
        network.gateway.exec([binary(), "front", &socket])?;
        let mut client = Client::connect(&network.socket)?;
        if round == 0 {
            client.set(&adit_front::Table {
                listeners: listeners(Service::Tls, 443, &NAMES, None),
                ..Default::default()
            })?;
        }
        pids.push(client.status()?.pid);
        let mut stream = connect(&network.client, Place::Front.at(Family::V4, 443))?;
        stream.write_all(&hello)?;
        let (mut nas, _) = device.accept()?;
        nas.read_exact(&mut vec![0; hello.len()])?;
        exchange(&stream, &nas)?;
    }
    ensure!(pids[0] != pids[1], "{pids:?}");
    Client::connect(&network.socket)?.stop()?;
    wait_until("both have ended", LIMIT, || {
        let is_there = |pid| std::path::Path::new(&format!("/proc/{pid}/fd/0")).exists();
        Ok(!pids.iter().any(is_there))
    })?;
    ensure!(
        Client::connect(&network.socket).is_err(),
        "somebody answers"
    );
    ensure!(!network.socket.exists(), "the socket is left");
    // One that is killed leaves its socket, which hinders nobody.
    let mut front = network.start_front()?;
    front.process.signal(nix::sys::signal::Signal::SIGKILL)?;
    front.process.wait(Duration::from_secs(5))?;
    ensure!(network.socket.exists(), "the socket is gone");
    network.start_front()?.status()?;
    Ok(())
}
