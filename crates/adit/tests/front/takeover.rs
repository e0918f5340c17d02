//! The next front takes over from the one before, and nobody notices.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use adit_front::{Change, Client, Listener, ListenerChange, Route, Service, Status, Table, Target};
use adit_lab::{Process, wait_until};
use anyhow::{Context as _, Result, ensure};

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
            client.set(&Table {
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

/// A front after another, with devices and a visitor.
struct Succession {
    network: Network,
    nas: Plain,
    blog: Plain,
}

/// A connection of which both ends are in the test.
struct Held {
    client: TcpStream,
    device: TcpStream,
}

impl Held {
    fn talk(&self) -> Result<()> {
        exchange(&self.client, &self.device)
    }

    fn ensure_ended(&mut self) -> Result<()> {
        for stream in [&mut self.client, &mut self.device] {
            match stream.read(&mut [0]) {
                Ok(0) => {}
                Ok(_) => anyhow::bail!("it says something"),
                Err(error) => ensure!(
                    error.kind() == std::io::ErrorKind::ConnectionReset,
                    "it goes on: {error}"
                ),
            }
        }
        Ok(())
    }
}

impl Succession {
    fn new(purpose: &str) -> Result<Self> {
        let network = Network::new(purpose)?;
        let nas = Plain::listen(&network.nas, Place::Nas.at(Family::V4, 443))?;
        let blog = Plain::listen(&network.blog, Place::Blog.at(Family::V4, 443))?;
        Ok(Self { network, nas, blog })
    }

    fn follow(&self) -> Result<Process> {
        let mut next = self.network.spawn_front()?;
        next.wait_for_output(READY, LIMIT)?;
        ensure!(self.status()?.pid == next.id(), "another serves the socket");
        Ok(next)
    }

    fn open(&self, name: &str, at: &Plain) -> Result<Held> {
        let hello = hello(&self.network.client, name, 0)?;
        let mut client = connect(&self.network.client, Place::Front.at(Family::V4, 443))?;
        client.write_all(&hello)?;
        let (mut device, _) = at.accept()?;
        device.read_exact(&mut vec![0; hello.len()])?;
        Ok(Held { client, device })
    }

    fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.network.socket)?)
    }

    fn status(&self) -> Result<Status> {
        Ok(self.client()?.status_with_names()?)
    }

    fn set(&self, revision: u64, listeners: Vec<Listener>) -> Result<()> {
        let table = Table {
            revision,
            listeners,
            ..Table::default()
        };
        let status = self.client()?.set(&table)?;
        let mut problems = status.listeners.iter().filter_map(|it| it.problem.as_ref());
        ensure!(problems.next().is_none(), "{status:?}");
        Ok(())
    }
}

fn all_of(names: &[&str]) -> Vec<Listener> {
    let names: Vec<_> = names.iter().map(|name| (*name, Place::Nas, 443)).collect();
    listeners(Service::Tls, 443, &names, None)
}

/// Of all threads, in hundredths of a second.
fn busy(process: &Process) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let times = fields.split_whitespace().skip(11).take(2);
    times.map(|time| Ok(time.parse::<u64>()?)).sum()
}

#[test]
fn a_name_that_goes_takes_its_connections_along_at_whichever_front_they_are() -> Result<()> {
    let town = Succession::new("front-chain")?;
    let mut first = town.network.start_front()?.process;
    town.set(
        1,
        all_of(&["kept.example", "gone.example", "moved.example"]),
    )?;
    let [kept, mut gone, mut moved] = ["kept.example", "gone.example", "moved.example"]
        .map(|name| town.open(name, &town.nas).unwrap());
    let mut second = town.follow()?;
    let kept_by_second = town.open("kept.example", &town.nas)?;
    let mut gone_by_second = town.open("gone.example", &town.nas)?;
    let mut third = town.follow()?;
    let status = town.status()?;
    ensure!(status.connections == 5, "{status:?}");
    let open = |status: &Status, name: &str| -> u64 {
        let entries = status.names.iter();
        let entries = entries.filter(|entry| entry.name.as_deref() == Some(name));
        entries.map(|entry| entry.open).sum()
    };
    ensure!(open(&status, "gone.example") == 2, "{status:?}");

    let address = Place::Front.at(Family::V4, 443);
    let to_blog = Route::Device(Target::transparent(Place::Blog.at(Family::V4, 443)));
    town.client()?.change(&Change {
        from: 1,
        revision: 2,
        listeners: vec![ListenerChange {
            address,
            service: Service::Tls,
            names: [
                ("gone.example".to_owned(), None),
                ("moved.example".to_owned(), Some(to_blog)),
            ]
            .into(),
        }],
    })?;
    for held in [&mut gone, &mut moved, &mut gone_by_second] {
        held.ensure_ended()?;
    }
    kept.talk()?;
    kept_by_second.talk()?;
    town.open("moved.example", &town.blog)?.talk()?;

    // One in between ends with its last connection, and the one before it hears all the same.
    drop(kept_by_second);
    ensure!(second.wait(LIMIT)?.success(), "{}", second.stderr()?);
    let mut late = town.open("kept.example", &town.nas)?;
    ensure!(open(&town.status()?, "kept.example") == 2, "not both");

    // The last one dies: what others carry goes on, and they wait quietly for another.
    third.signal(nix::sys::signal::Signal::SIGKILL)?;
    third.wait(LIMIT)?;
    late.ensure_ended()?;
    let before = busy(&first)?;
    thread::sleep(Duration::from_secs(2));
    kept.talk()?;
    ensure!(busy(&first)? - before < 20, "it is busy with nothing");
    let mut fourth = town.follow()?;
    let mut kept = kept;
    // Which knows of no name at first.
    wait_until("the first has found the fourth", LIMIT, || {
        Ok(town.status()?.connections == 1)
    })?;
    kept.talk()?;
    town.set(3, all_of(&["kept.example"]))?;
    kept.talk()?;
    town.set(4, all_of(&["other.example"]))?;
    kept.ensure_ended()?;
    ensure!(first.wait(LIMIT)?.success(), "{}", first.stderr()?);
    town.client()?.stop()?;
    fourth.wait(LIMIT)?;
    Ok(())
}

#[test]
fn a_port_is_free_when_it_was_closed_after_a_handover() -> Result<()> {
    let town = Succession::new("front-closed")?;
    let mut first = town.network.start_front()?.process;
    let other = listeners(
        Service::Tls,
        8443,
        &[("other.example", Place::Nas, 443)],
        None,
    );
    let both = [all_of(&["kept.example"]), other.clone()].concat();
    town.set(1, both.clone())?;
    let mut held = town.open("kept.example", &town.nas)?;
    // It has not said where it wants to.
    let waiting = connect(&town.network.client, Place::Front.at(Family::V4, 8443))?;
    let mut second = town.follow()?;
    held.talk()?;
    town.set(2, all_of(&["kept.example"]))?;
    let refused = connect(&town.network.client, Place::Front.at(Family::V4, 8443));
    ensure!(refused.is_err(), "somebody listens where no table says so");
    town.set(3, both)?;
    held.talk()?;
    drop(waiting);

    // The last name goes.
    town.set(4, Vec::new())?;
    held.ensure_ended()?;
    ensure!(first.wait(LIMIT)?.success(), "{}", first.stderr()?);
    town.client()?.stop()?;
    second.wait(LIMIT)?;
    Ok(())
}

#[test]
fn a_front_that_is_told_to_end_ends_those_before_it() -> Result<()> {
    let town = Succession::new("front-all-end")?;
    let mut first = town.network.start_front()?.process;
    town.set(1, all_of(&["kept.example"]))?;
    let mut held = town.open("kept.example", &town.nas)?;
    let mut second = town.follow()?;
    let mut third = town.follow()?;
    held.talk()?;
    town.client()?.stop()?;
    for process in [&mut first, &mut second, &mut third] {
        ensure!(process.wait(LIMIT)?.success(), "{}", process.stderr()?);
    }
    held.ensure_ended()
}
