//! Packets that were made to deceive: borrowed sources, the wrong family, every source port.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use adit_lab::Host;
use anyhow::{Context as _, Result, ensure};

use crate::support::{
    Capture, Device, Findings, INTERNET4, INTERNET6, Injector, PUBLIC4, World, at, connect,
    converse, exchange, listen, send, syn4, udp, udp4, udp6,
};

#[test]
fn forged_packets_with_a_routed_prefix() -> Result<()> {
    forged("routed")
}

#[test]
fn forged_packets_with_an_on_link_prefix() -> Result<()> {
    forged("on-link")
}

fn forged(topology: &str) -> Result<()> {
    let world = World::with_subnet(topology, "e2e-forged")?;
    let server = world.join("box", "--kind server")?;
    let laptop = world.join("laptop", "")?;
    let nas = world.join("nas", "")?;
    let mut findings = Findings::default();
    findings.check("borrowed sources", borrowed(&world, &laptop, &nas));
    findings.check("the wrong family", wrong_family(&world, &server));
    findings.conclude()
}

/// The laptop sends with sources of others; the last packet, with its own, takes the same way.
fn borrowed(world: &World, laptop: &Device, nas: &Device) -> Result<()> {
    let injector = Injector::new(&laptop.host, &laptop.interface)?;
    let internet = world.host("internet")?;
    let borrowed4 = [nas.ipv4, Ipv4Addr::new(10, 59, 0, 99), INTERNET4, PUBLIC4];
    let unused6: Ipv6Addr = world.prefix()?.replace("/64", "dead").parse()?;
    let borrowed6 = [nas.ipv6()?, unused6, INTERNET6];
    let four = |source: Ipv4Addr, destination: Ipv4Addr, text: &str| {
        udp4(
            SocketAddrV4::new(source, 6000),
            SocketAddrV4::new(destination, 7600),
            text.as_bytes(),
        )
    };
    let six = |source: Ipv6Addr, destination: Ipv6Addr, text: &str| {
        udp6(
            SocketAddrV6::new(source, 6000, 0, 0),
            SocketAddrV6::new(destination, 7600, 0, 0),
            text.as_bytes(),
        )
    };
    for (host, interface, to4, to6) in [
        (&internet, "eth0", INTERNET4, INTERNET6),
        (&nas.host, nas.interface.as_str(), nas.ipv4, nas.ipv6()?),
    ] {
        let watch = Capture::start(host, interface, "udp and dst port 7600")?;
        let sockets = [udp(host, at(to4, 7600))?, udp(host, at(to6, 7600))?];
        for source in borrowed4.into_iter().filter(|source| *source != to4) {
            injector.send(&four(source, to4, "borrowed"))?;
        }
        for source in borrowed6.into_iter().filter(|source| *source != to6) {
            injector.send(&six(source, to6, "borrowed"))?;
        }
        injector.send(&four(laptop.ipv4, to4, "own"))?;
        injector.send(&six(laptop.ipv6()?, to6, "own"))?;
        for socket in &sockets {
            crate::support::receive(socket, "own")
                .with_context(|| format!("on {} must come first", host.name()))?;
        }
        watch.wait_for(&format!("> {to6}.7600"))?;
        ensure!(
            watch.text()?.lines().count() == 2,
            "at {} arrived: {}",
            host.name(),
            watch.text()?
        );
    }
    Ok(())
}

/// At byte 12 of an IPv6 packet, where IPv4 has its source, lie bytes 4 to 7 of its source; at byte 16, where IPv4 has its
/// destination, bytes 8 to 11. Whoever sends chooses them.
fn wrong_family(world: &World, server: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let injector = Injector::new(&internet, "eth0")?;
    world.adit("forward add 8080 box")?;
    world.adit("pinhole add box 9000/udp")?;
    let [a, b, c, d] = server.ipv4.octets().map(u16::from);
    let [e, f, g, h] = PUBLIC4.octets().map(u16::from);
    let own = Ipv6Addr::new(0x2001, 0xdb8, a << 8 | b, c << 8 | d, 0, 0, 0, 1);
    let forward = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, e << 8 | f, g << 8 | h, 0, 1);
    let neither = Ipv6Addr::new(
        0x2001,
        0xdb8,
        a << 8 | b,
        c << 8 | d,
        e << 8 | f,
        g << 8 | h,
        0,
        1,
    );
    let watch = Capture::start(&server.host, &server.interface, "udp or tcp")?;
    for source in [own, forward, neither] {
        for destination in [server.ipv6()?, crate::support::PUBLIC6] {
            injector.send(&udp6(
                SocketAddrV6::new(source, 6000, 0, 0),
                SocketAddrV6::new(destination, 8080, 0, 0),
                b"IPv4 in disguise",
            ))?;
        }
    }
    // Such a source is no reason to refuse what a pinhole lets in.
    injector.send(&udp6(
        SocketAddrV6::new(neither, 6000, 0, 0),
        SocketAddrV6::new(server.ipv6()?, 9000, 0, 0),
        b"through a pinhole",
    ))?;
    watch.wait_for(&format!("> {}.9000: UDP", server.ipv6()?))?;
    ensure!(
        watch.text()?.lines().count() == 1,
        "these arrived: {}",
        watch.text()?
    );
    let datagrams = udp(&server.host, at(server.ipv4, 8080))?;
    let from = udp(&internet, at(INTERNET4, 0))?;
    exchange(&from, at(PUBLIC4, 8080), &datagrams, "the forward itself")?;
    Ok(())
}

/// Towards one of them there are as many connections as there are ports in the range: one would be too few.
const FAR_PORTS: [u16; 8] = [7700, 7701, 7702, 7703, 7704, 7705, 7706, 7707];
const LISTENER: u16 = 2222;
const WIREGUARD: u16 = 51820;
const OTHERS_FORWARD: u16 = 8443;
const OWN_FORWARD: u16 = 6060;
const THAT_MATTER: [u16; 6] = [22, 53, LISTENER, WIREGUARD, OTHERS_FORWARD, OWN_FORWARD];

/// As many connections as one device is allowed to have at once.
const ROUND: u16 = 8192;

/// A host that sends from every port towards one address of the Internet wants to be taken for the VPS there.
#[test]
fn every_source_port_of_a_device_shadows_nothing() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-ports")?;
    let server = world.join("box", "--kind server")?;
    let laptop = world.join("laptop", "")?;
    let internet = world.host("internet")?;
    let vps = world.host("vps")?;
    world.adit(&format!("forward add {OTHERS_FORWARD} box"))?;
    world.adit(&format!("forward add {OWN_FORWARD} laptop"))?;
    world.adit(&format!("settings set connection-limit {ROUND}"))?;

    let far = FAR_PORTS
        .iter()
        .map(|port| udp(&internet, at(INTERNET4, *port)))
        .collect::<Result<Vec<UdpSocket>>>()?;
    let mut seen = BTreeMap::new();
    let started = Instant::now();
    // What those that matter opened is there still when it has to shadow nothing.
    let (matter, rest): (Vec<u16>, Vec<u16>) =
        (1..=65535).partition(|port| THAT_MATTER.contains(port));
    let rounds = rest.chunks(usize::from(ROUND)).chain([matter.as_slice()]);
    for ports in rounds {
        vps.exec(["conntrack", "-F"])?;
        for _ in 0..4 {
            let missing: Vec<u16> = ports
                .iter()
                .copied()
                .filter(|port| !seen.contains_key(port))
                .collect();
            if missing.is_empty() {
                break;
            }
            sweep(&laptop, &missing, &far, &mut seen)?;
        }
    }
    Findings::note(&format!(
        "{} of 65535 source ports seen after {:?}",
        seen.len(),
        started.elapsed()
    ));
    // Every port would shadow its own service, so those that matter have to be among them.
    for port in THAT_MATTER {
        ensure!(seen.contains_key(&port), "source port {port} was not seen");
    }
    ensure!(seen.len() > 65_000, "only {} ports were seen", seen.len());
    let wrong: BTreeMap<u16, SocketAddrV4> = seen
        .iter()
        .map(|(port, source)| (*port, *source))
        .filter(|(port, source)| {
            *source.ip() != PUBLIC4
                || (*port == OWN_FORWARD) != (source.port() == OWN_FORWARD)
                || (*port != OWN_FORWARD && source.port() < 32768)
        })
        .collect();
    ensure!(
        wrong.is_empty(),
        "sent from the port, seen as: {:?}",
        wrong.iter().take(10).collect::<Vec<_>>()
    );
    let external: BTreeSet<u16> = seen.values().map(SocketAddrV4::port).collect();
    Findings::note(&format!("{} external ports", external.len()));

    shadows(&world, &internet, &vps, &server, &laptop, &far)
}

/// Whoever sent to the far end from a service's port would get what the far end sends to that service.
fn shadows(
    world: &World,
    internet: &Host,
    vps: &Host,
    server: &Device,
    laptop: &Device,
    far: &[UdpSocket],
) -> Result<()> {
    let injector = Injector::new(&laptop.host, &laptop.interface)?;
    internet.exec_with_input(
        ["nft", "-f", "-"],
        "table inet silent { chain input { type filter hook input priority filter; tcp dport 7700 drop; }; }\n",
    )?;
    let arrivals = Capture::start(internet, "eth0", "tcp and dst port 7700")?;
    for port in [22, LISTENER, OTHERS_FORWARD] {
        injector.send(&syn4(
            SocketAddrV4::new(laptop.ipv4, port),
            SocketAddrV4::new(INTERNET4, 7700),
        ))?;
    }
    arrivals.wait_for("Flags [S]")?;
    internet.exec(["nft", "delete", "table", "inet", "silent"])?;

    let watch = Capture::start(
        &laptop.host,
        &laptop.interface,
        "ip and src net 198.51.100.0/24",
    )?;
    let service = listen(vps, "0.0.0.0:2222".parse()?)?;
    let from = Some(at(INTERNET4, 7700));
    converse(internet, from, at(PUBLIC4, LISTENER), &service).context("the host's TCP listener")?;
    let service = udp(vps, at(PUBLIC4, LISTENER))?;
    let forwarded = listen(&server.host, at(server.ipv4, OTHERS_FORWARD))?;
    converse(internet, from, at(PUBLIC4, OTHERS_FORWARD), &forwarded)
        .context("another's forward, TCP")?;
    let forwarded = udp(&server.host, at(server.ipv4, OTHERS_FORWARD))?;
    for socket in far {
        exchange(socket, at(PUBLIC4, LISTENER), &service, "to the host")?;
        exchange(
            socket,
            at(PUBLIC4, OTHERS_FORWARD),
            &forwarded,
            "to the box",
        )?;
        send(socket, at(PUBLIC4, WIREGUARD), "to WireGuard")?;
    }
    let own = udp(&laptop.host, at(laptop.ipv4, OWN_FORWARD))?;
    exchange(&far[0], at(PUBLIC4, OWN_FORWARD), &own, "its own forward")?;
    watch.wait_for(&format!("> {}.{OWN_FORWARD}: UDP", laptop.ipv4))?;
    for port in [LISTENER, WIREGUARD, OTHERS_FORWARD, 22] {
        ensure!(
            watch.count(&format!("> {}.{port}:", laptop.ipv4))? == 0,
            "the laptop got what is for port {port}: {}",
            watch.text()?
        );
    }
    world
        .join("nas", "")
        .context("WireGuard still answers newcomers")?;
    let refused = connect(internet, None, at(PUBLIC4, 22), Duration::from_secs(2));
    ensure!(refused.is_err(), "somebody answers on port 22");
    Ok(())
}

/// Sends one datagram from each of the ports, to a far port that follows from it, at the pace at which they arrive.
fn sweep(
    laptop: &Device,
    ports: &[u16],
    far: &[UdpSocket],
    seen: &mut BTreeMap<u16, SocketAddrV4>,
) -> Result<()> {
    const AHEAD: usize = 256;
    let injector = Injector::new(&laptop.host, &laptop.interface)?;
    for socket in far {
        socket.set_nonblocking(true)?;
    }
    let mut stalled = Instant::now();
    let mut arrived = 0;
    for (sent, port) in ports.iter().enumerate() {
        let index = usize::from(*port) % far.len();
        injector.send(&udp4(
            SocketAddrV4::new(laptop.ipv4, *port),
            SocketAddrV4::new(INTERNET4, FAR_PORTS[index]),
            &port.to_be_bytes(),
        ))?;
        // A packet that was lost must not hold up the rest.
        while sent + 1 > arrived + AHEAD {
            let more = drain(far, seen)?;
            if more > 0 {
                arrived += more;
                stalled = Instant::now();
            } else if stalled.elapsed() > Duration::from_millis(300) {
                arrived = sent + 1;
            } else {
                thread::sleep(Duration::from_micros(200));
            }
        }
    }
    let end = Instant::now() + Duration::from_millis(700);
    while Instant::now() < end {
        drain(far, seen)?;
        thread::sleep(Duration::from_millis(5));
    }
    for socket in far {
        socket.set_nonblocking(false)?;
    }
    Ok(())
}

fn drain(far: &[UdpSocket], seen: &mut BTreeMap<u16, SocketAddrV4>) -> Result<usize> {
    let mut count = 0;
    let mut buffer = [0; 64];
    for socket in far {
        loop {
            match socket.recv_from(&mut buffer) {
                Ok((2, std::net::SocketAddr::V4(source))) => {
                    seen.insert(u16::from_be_bytes([buffer[0], buffer[1]]), source);
                    count += 1;
                }
                Ok((length, source)) => {
                    anyhow::bail!("{length} bytes from {source} that nobody sent")
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(count)
}
