//! QUIC: by the name in the first packets, and then by the addresses.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use adit_front::{Limits, Service};
use adit_lab::{Host, Process, wait_until};
use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::device::{Plain, connect, exchange, hello};
use crate::findings::Findings;
use crate::network::{FAMILIES, Family, LIMIT, Network, Place, file, listeners};

const NAMES: [(&str, Place, u16); 2] = [
    ("nas.example", Place::Nas, 443),
    ("*.blog.example", Place::Blog, 8443),
];
/// The name in [`initial`].
const EXAMPLE: [(&str, Place, u16); 1] = [("example.com", Place::Nas, 443)];

/// That of RFC 9001 appendix A.2.
fn initial() -> Result<Vec<u8>> {
    const INITIAL: &str = include_str!("../../../proto/src/quic/vectors/initial-v1.hex");
    let digits: Vec<char> = INITIAL.chars().filter(char::is_ascii_hexdigit).collect();
    let initial = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16));
    let initial = initial.collect::<Result<Vec<u8>, _>>()?;
    ensure!(initial.len() == 1200, "{}", initial.len());
    Ok(initial)
}

fn bound(host: &Host, address: SocketAddr) -> Result<UdpSocket> {
    let socket = host.enter(|| UdpSocket::bind(address))??;
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket)
}

fn python() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/quic/bin/python3");
    ensure!(
        path.exists(),
        "{} is missing: run scripts/install-peers",
        path.display()
    );
    Ok(path.to_string_lossy().into_owned())
}

fn script() -> String {
    file("quic.py").to_string_lossy().into_owned()
}

fn serve(
    network: &Network,
    place: Place,
    port: u16,
    name: &str,
    certificate: &[String; 2],
) -> Result<Vec<Process>> {
    let (python, script, port) = (python()?, script(), port.to_string());
    let [certificate, key] = certificate;
    FAMILIES
        .iter()
        .map(|family| {
            let address = place.address(*family).to_string();
            let words = [
                &python,
                &script,
                "serve",
                name,
                &address,
                &port,
                certificate,
                key,
            ];
            let mut process = network.host(place).spawn(words)?;
            process.wait_for_output("listening", LIMIT)?;
            Ok(process)
        })
        .collect()
}

fn ask(
    network: &Network,
    family: Family,
    name: &str,
    certificate: &[String; 2],
    options: &[&str],
) -> Result<Process> {
    let (python, script) = (python()?, script());
    let address = Place::Front.address(family).to_string();
    let mut words = vec![
        &python,
        &script,
        "ask",
        &address,
        "443",
        name,
        &certificate[0],
    ];
    words.extend(options);
    network.client.spawn(words)
}

/// The answer of a server: who it is, and whom it sees.
fn answered(mut process: Process) -> Result<(String, IpAddr)> {
    process.wait(Duration::from_secs(60))?;
    let text = process.stdout()?;
    let stderr = process.stderr()?;
    let mut words = text.split_whitespace();
    let name = words.next().with_context(|| stderr.clone())?;
    let address = words.next().with_context(|| stderr.clone())?;
    ensure!(text.ends_with("done\n"), "{text}{stderr}");
    Ok((name.to_owned(), address.parse()?))
}

#[test]
fn flows_lead_to_the_device_of_the_name_which_sees_the_client() -> Result<()> {
    let network = Network::new("front-quic")?;
    let certificate = network.certificate(&["nas.example", "*.blog.example", "other.example"])?;
    let _nas = serve(&network, Place::Nas, 443, "nas", &certificate)?;
    let _blog = serve(&network, Place::Blog, 8443, "blog", &certificate)?;
    let front = network.start_front()?;
    // Each that is there has shown that it hears its device, or it would have made room for the next.
    let limits = Limits {
        unproven: 1,
        ..Limits::default()
    };
    front.set_limited(listeners(Service::Quic, 443, &NAMES, None), limits)?;
    let mut findings = Findings::default();
    for family in FAMILIES {
        for (name, server, options) in [
            ("nas.example", "nas", &[][..]),
            ("a.blog.example", "blog", &[]),
            // A hello that takes several Initials, and much that goes both ways.
            ("nas.example", "nas", &["--protocols", "120"]),
            ("nas.example", "nas", &["--bytes", "3000000"]),
            ("a.blog.example", "blog", &["--second"]),
        ] {
            let process = ask(&network, family, name, &certificate, options)?;
            findings.check(
                &format!("{name} {options:?} over {family:?}"),
                answered(process).and_then(|(answer, client)| {
                    let expected = Place::Client.address(family);
                    ensure!(answer == server && client == expected, "{answer} {client}");
                    Ok(())
                }),
            );
        }
    }
    let status = front.status()?;
    findings.check("flows", {
        let count = status.names.iter().map(|name| name.total).sum::<u64>();
        if count == 10 && status.flows == 10 {
            Ok(())
        } else {
            Err(anyhow::anyhow!("{status:?}"))
        }
    });
    // What nobody has, is led to the fallback if there is one.
    let mut process = ask(&network, Family::V4, "other.example", &certificate, &[])?;
    front.await_status("it is refused", |status| status.failures.unknown_name > 0)?;
    process.stop()?;
    front.set(listeners(
        Service::Quic,
        443,
        &NAMES,
        Some((Place::Blog, 8443)),
    ))?;
    let process = ask(&network, Family::V4, "other.example", &certificate, &[])?;
    findings.check(
        "the fallback",
        answered(process).and_then(|(answer, _)| {
            ensure!(answer == "blog", "{answer}");
            Ok(())
        }),
    );
    findings.conclude()
}

#[test]
fn a_flow_goes_on_while_one_front_follows_another() -> Result<()> {
    let network = Network::new("front-quic-takeover")?;
    let certificate = network.certificate(&["nas.example"])?;
    let _nas = serve(&network, Place::Nas, 443, "nas", &certificate)?;
    let mut front = network.start_front()?;
    front.set(listeners(Service::Quic, 443, &NAMES, None))?;
    let end = network.client.folder()?.join("end");
    let until = end.to_string_lossy().into_owned();
    let mut processes = Vec::new();
    for family in FAMILIES {
        let options = ["--until", &until, "--bytes", "20000"];
        let mut process = ask(&network, family, "nas.example", &certificate, &options)?;
        process.wait_for_output("nas ", LIMIT)?;
        processes.push(process);
    }
    for _ in 0..3 {
        let mut next = network.spawn_front()?;
        next.wait_for_output("leading connections", LIMIT)?;
        let ended = front.process.wait(LIMIT)?;
        ensure!(ended.success(), "{ended}");
        front.process = next;
        let status = front.status()?;
        ensure!(status.flows == 2, "{status:?}");
    }
    fs::write(&end, "")?;
    for process in processes {
        answered(process)?;
    }
    // A name that is taken away takes its flows along.
    front.set(listeners(Service::Quic, 443, &NAMES[1..], None))?;
    front.await_status("no flow is left", |status| status.flows == 0)?;
    Ok(())
}

#[test]
fn datagrams_of_others_hold_nothing_and_get_no_answer() -> Result<()> {
    let network = Network::new("front-quic-noise")?;
    let front = network.start_front()?;
    front.set(listeners(Service::Quic, 443, &NAMES, None))?;
    let socket = network
        .client
        .enter(|| UdpSocket::bind((Place::Client.address(Family::V4), 0)))??;
    socket.connect(Place::Front.at(Family::V4, 443))?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut unknown_version = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a];
    unknown_version.resize(1200, 0);
    let mut cut_off = vec![0xc0, 0, 0, 0, 1, 8];
    cut_off.resize(1200, 0xff);
    for datagram in [&b"x"[..], &[0x40; 60], &unknown_version, &cut_off] {
        socket.send(datagram)?;
    }
    wait_until("all of them are refused", LIMIT, || {
        Ok(front.status()?.failures.malformed == 4)
    })?;
    ensure!(socket.recv(&mut [0; 2000]).is_err(), "it was answered");
    let status = front.status()?;
    ensure!(
        status.flows == 0 && status.names.iter().all(|name| name.total == 0),
        "{status:?}"
    );
    Ok(())
}

#[test]
fn datagrams_that_are_sent_together_arrive_as_they_were_sent() -> Result<()> {
    let network = Network::new("front-quic-together")?;
    let front = network.start_front()?;
    front.set(listeners(Service::Quic, 443, &EXAMPLE, None))?;
    let initial = initial()?;
    for family in FAMILIES {
        let device = bound(&network.nas, Place::Nas.at(family, 443))?;
        let client = bound(&network.client, Place::Client.at(family, 0))?;
        for socket in [&device, &client] {
            setsockopt(socket, sockopt::UdpGsoSegment, &1200)?;
        }
        client.connect(Place::Front.at(family, 443))?;
        // The first leads the others, in this call and the next.
        let more: Vec<u8> = (0..20 * 1200 + 300)
            .map(|place| (place % 251) as u8)
            .collect();
        let first = [&initial[..], &more].concat();
        let mut buffer = [0; 4096];
        let mut source = None;
        for sent in [&first, &more] {
            client.send(sent)?;
            for expected in sent.chunks(1200) {
                let (length, from) = device.recv_from(&mut buffer)?;
                ensure!(buffer[..length] == *expected, "{length} from {from}");
                source = Some(from);
            }
        }
        let source = source.context("a source")?;
        ensure!(source == client.local_addr()?, "{source}");
        device.send_to(&more, source)?;
        for expected in more.chunks(1200) {
            let length = client.recv(&mut buffer)?;
            ensure!(buffer[..length] == *expected, "{length} back");
        }
    }
    Ok(())
}

#[test]
fn flows_of_strangers_take_no_place_of_a_connection() -> Result<()> {
    let network = Network::new("front-quic-strangers")?;
    let front = network.start_front()?;
    let limits = Limits {
        per_source: 3,
        connections: 5,
        ..Limits::default()
    };
    let quic = listeners(Service::Quic, 443, &EXAMPLE, None);
    let tls = listeners(Service::Tls, 443, &[("nas.example", Place::Nas, 443)], None);
    front.set_limited([quic, tls].concat(), limits)?;
    let device = bound(&network.nas, Place::Nas.at(Family::V4, 443))?;
    let initial = initial()?;
    // Whoever sends them need not be where they seem to come from; that the device answers says nothing about it.
    let mut sockets = Vec::new();
    for _ in 0..20 {
        let stranger = bound(&network.client, Place::Client.at(Family::V4, 0))?;
        stranger.connect(Place::Front.at(Family::V4, 443))?;
        stranger.send(&initial)?;
        let (_, from) = device.recv_from(&mut [0; 2000])?;
        ensure!(from == stranger.local_addr()?, "{from}");
        device.send_to(b"answer", from)?;
        ensure!(stranger.recv(&mut [0; 2000])? == 6, "another answer");
        sockets.push(stranger);
    }
    let hello = hello(&network.client, "nas.example", 0)?;
    let server = Plain::listen(&network.nas, Place::Nas.at(Family::V4, 443))?;
    let mut client = connect(&network.client, Place::Front.at(Family::V4, 443))?;
    client.write_all(&hello)?;
    let (mut nas, _) = server.accept()?;
    nas.read_exact(&mut vec![0; hello.len()])?;
    exchange(&client, &nas)?;
    Ok(())
}

#[test]
fn a_client_has_several_flows_to_one_device_from_one_port() -> Result<()> {
    let network = Network::new("front-quic-several")?;
    let mut front = network.start_front()?;
    let ports = [443, 8443, 9443];
    let at = |port| listeners(Service::Quic, port, &EXAMPLE, None);
    front.set(ports.map(at).concat())?;
    let initial = initial()?;
    let mut ends = Vec::new();
    for family in FAMILIES {
        let device = bound(&network.nas, Place::Nas.at(family, 443))?;
        let client = bound(&network.client, Place::Client.at(family, 0))?;
        ends.push((family, device, client, Vec::new()));
    }
    for (round, port) in ports.into_iter().enumerate() {
        for (family, device, client, seen) in &mut ends {
            client.send_to(&initial, Place::Front.at(*family, port))?;
            let (_, from) = device.recv_from(&mut [0; 2000])?;
            let own = client.local_addr()?;
            ensure!(from.ip() == own.ip(), "{from}");
            ensure!((from == own) == (round == 0), "{from} in round {round}");
            ensure!(!seen.contains(&from), "{from} among {seen:?}");
            seen.push(from);
            // Each answer comes back from where it was asked, and so does what follows.
            for (port, seen) in ports.iter().zip(&*seen) {
                device.send_to(b"answer", seen)?;
                let front = Place::Front.at(*family, *port);
                let (_, from) = client.recv_from(&mut [0; 2000])?;
                ensure!(from == front, "{from}");
                client.send_to(b"more", front)?;
                let (_, from) = device.recv_from(&mut [0; 2000])?;
                ensure!(from == *seen, "{from}");
            }
        }
        // The next front knows of those of the one before.
        let mut next = network.spawn_front()?;
        next.wait_for_output("leading connections", LIMIT)?;
        front.process.wait(LIMIT)?;
        front.process = next;
    }
    Ok(())
}
