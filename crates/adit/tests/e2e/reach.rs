//! The Internet reaches a device through pinholes only, and a device reaches the Internet.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::support::{
    Capture, Device, Findings, INTERNET4, INTERNET6, PUBLIC4, STRANGER6, World, accept, at,
    connect, converse, exchange, listen, receive, send, udp,
};

const SHORT: Duration = Duration::from_millis(700);
const SNAT_PORTS: std::ops::RangeInclusive<u16> = 32768..=49151;

#[test]
fn a_routed_prefix() -> Result<()> {
    reach("routed")
}

#[test]
fn an_on_link_prefix() -> Result<()> {
    reach("on-link")
}

pub(crate) fn reach(topology: &str) -> Result<()> {
    let world = World::with_subnet(topology, "e2e-reach")?;
    let server = world.join("box", "--kind server")?;
    let laptop = world.join("laptop", "")?;
    let mut findings = Findings::default();
    if world.provided().is_some() {
        findings.check("pinholes", pinholes(&world, &server));
        findings.check("closing a pinhole", closing(&world, &server));
        findings.check(
            "an unused address from outside",
            unused_from_outside(&world, &server),
        );
        findings.check(
            "an unused address from a device",
            unused_from_inside(&world, &laptop),
        );
    }
    findings.check("outwards over IPv6", outwards6(&world, &laptop));
    findings.check("outwards over IPv4", outwards4(&world, &laptop));
    findings.check("ping", ping(&world, &server, &laptop));
    findings.conclude()
}

/// A datagram to an open port tells that all that was sent before it would have arrived by now.
fn mark(world: &World, device: &Device, watch: &Capture) -> Result<()> {
    let internet = udp(&world.host("internet")?, at(INTERNET6, 0))?;
    send(&internet, at(device.ipv6()?, 9000), "mark")?;
    watch.wait_for(&format!("> {}.9000: UDP", device.ipv6()?))
}

fn pinholes(world: &World, server: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let address = server.ipv6()?;
    world.adit("pinhole add box 9000/udp --label mark")?;
    let web = listen(&server.host, at(address, 80))?;
    let datagrams = udp(&server.host, at(address, 80))?;

    let watch = Capture::start(&server.host, &server.interface, "ip6 and (tcp or udp)")?;
    let from = udp(&internet, at(INTERNET6, 7000))?;
    send(&from, at(address, 80), "without a pinhole")?;
    let refused = connect(&internet, None, at(address, 80), Duration::from_millis(700));
    ensure!(refused.is_err(), "TCP connects without a pinhole");
    mark(world, server, &watch)?;
    ensure!(
        watch.text()?.lines().count() == 1,
        "without a pinhole these arrived: {}",
        watch.text()?
    );
    drop(watch);

    world.adit("pinhole add box 80/tcp")?;
    let conversation = converse(&internet, None, at(address, 80), &web)?;
    ensure!(
        conversation.seen.ip() == IpAddr::V6(INTERNET6),
        "the server sees {}",
        conversation.seen
    );
    let stranger = converse(&world.host("stranger")?, None, at(address, 80), &web)?;
    ensure!(
        stranger.seen.ip() == IpAddr::V6(STRANGER6),
        "the server sees {}",
        stranger.seen
    );
    let watch = Capture::start(&server.host, &server.interface, "ip6 and udp")?;
    send(&from, at(address, 80), "UDP to a pinhole for TCP")?;
    mark(world, server, &watch)?;
    ensure!(
        watch.text()?.lines().count() == 1,
        "a pinhole for TCP lets UDP in: {}",
        watch.text()?
    );
    world.adit("pinhole add box 80/udp")?;
    let seen = exchange(&from, at(address, 80), &datagrams, "through a pinhole")?;
    ensure!(
        seen == at(INTERNET6, 7000),
        "the server sees {seen} as the source"
    );
    drop(watch);

    world.adit("pinhole add box 5000-5003/udp")?;
    let watch = Capture::start(&server.host, &server.interface, "ip6 and udp")?;
    for port in [4999, 5004] {
        send(&from, at(address, port), "outside the range")?;
    }
    for port in [5000, 5003] {
        let socket = udp(&server.host, at(address, port))?;
        let seen = exchange(&from, at(address, port), &socket, "in the range")?;
        ensure!(seen == at(INTERNET6, 7000), "in the range: seen {seen}");
    }
    mark(world, server, &watch)?;
    for port in [4999, 5004] {
        ensure!(
            watch.count(&format!("> {address}.{port}:"))? == 0,
            "{port} is outside the range and arrived"
        );
    }
    Ok(())
}

fn closing(world: &World, server: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let address = server.ipv6()?;
    world.adit("pinhole add box 8088")?;
    let web = listen(&server.host, at(address, 8088))?;
    let datagrams = udp(&server.host, at(address, 8088))?;
    let from = udp(&internet, at(INTERNET6, 7001))?;
    let mut conversation = converse(&internet, None, at(address, 8088), &web)?;
    exchange(&from, at(address, 8088), &datagrams, "before")?;

    let id = world.id("pinhole", &json!({"port": 8088}))?;
    let watch = Capture::start(
        &server.host,
        &server.interface,
        "ip6 and dst port 8088 or dst port 9000",
    )?;
    world.adit(&format!("pinhole set {id} --disable"))?;
    send(&from, at(address, 8088), "after")?;
    ensure!(
        conversation.is_cut()?,
        "an established TCP flow goes on after its pinhole was disabled"
    );
    mark(world, server, &watch)?;
    ensure!(
        watch.count(".8088")? == 0,
        "after its pinhole was disabled: {}",
        watch.text()?
    );
    drop(watch);
    world.adit(&format!("pinhole set {id} --enable"))?;
    conversation = converse(&internet, None, at(address, 8088), &web)?;
    world.adit(&format!("pinhole remove {id}"))?;
    // What the device goes on sending must not count as a connection of its own.
    conversation.insist();
    thread::sleep(Duration::from_millis(200));
    ensure!(
        conversation.is_cut()?,
        "an established TCP flow goes on after its pinhole was removed"
    );
    let left = world.list("pinhole")?;
    ensure!(
        left.iter().all(|pinhole| pinhole["id"] != id),
        "{left:?} still has {id}"
    );
    Ok(())
}

fn outwards6(world: &World, laptop: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let Some(outside) = world.outside6(laptop) else {
        return falls_back(laptop);
    };
    let listener = listen(&internet, at(INTERNET6, 7100))?;
    let conversation = converse(&laptop.host, None, at(INTERNET6, 7100), &listener)?;
    ensure!(
        conversation.seen.ip() == IpAddr::V6(outside),
        "the Internet sees {}, not {outside}",
        conversation.seen,
    );
    let far = udp(&internet, at(INTERNET6, 7100))?;
    let near = udp(&laptop.host, "[::]:6100".parse()?)?;
    let seen = exchange(&near, at(INTERNET6, 7100), &far, "out")?;
    if world.provided().is_some() {
        ensure!(
            seen == at(outside, 6100),
            "the Internet sees {seen} for UDP"
        );
    } else {
        ensure!(
            seen.ip() == IpAddr::V6(outside) && SNAT_PORTS.contains(&seen.port()),
            "the Internet sees {seen} for UDP"
        );
    }
    Ok(())
}

/// Without IPv6 a device hears so at once, and goes on by IPv4.
fn falls_back(laptop: &Device) -> Result<()> {
    let began = Instant::now();
    let refused = connect(&laptop.host, None, at(INTERNET6, 7100), SHORT);
    ensure!(refused.is_err(), "there is IPv6");
    ensure!(
        began.elapsed() < SHORT,
        "nobody told the device that there is no IPv6"
    );
    Ok(())
}

fn outwards4(world: &World, laptop: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let listener = listen(&internet, at(INTERNET4, 7100))?;
    let conversation = converse(&laptop.host, None, at(INTERNET4, 7100), &listener)?;
    ensure_translated(conversation.seen)?;
    let far = udp(&internet, at(INTERNET4, 7100))?;
    let near = udp(&laptop.host, "0.0.0.0:6100".parse()?)?;
    ensure_translated(exchange(&near, at(INTERNET4, 7100), &far, "out")?)?;

    let unasked = udp(&world.host("stranger")?, "0.0.0.0:0".parse()?)?;
    let seen = exchange(&near, at(INTERNET4, 7100), &far, "out again")?;
    send(&unasked, seen, "unasked")?;
    send(&far, seen, "asked")?;
    receive(&near, "asked")?;
    Ok(())
}

fn ensure_translated(seen: SocketAddr) -> Result<()> {
    ensure!(
        seen.ip() == IpAddr::V4(PUBLIC4) && SNAT_PORTS.contains(&seen.port()),
        "the Internet sees {seen}, not {PUBLIC4} and a port of {SNAT_PORTS:?}"
    );
    Ok(())
}

fn ping(world: &World, server: &Device, laptop: &Device) -> Result<()> {
    laptop
        .host
        .exec(["ping", "-c1", "-W3", &INTERNET4.to_string()])?;
    if let Some(outside) = world.outside6(server) {
        laptop
            .host
            .exec(["ping", "-c1", "-W3", &INTERNET6.to_string()])?;
        let internet = world.host("internet")?;
        internet.exec(["ping", "-c1", "-W3", &outside.to_string()])?;
    }
    Ok(())
}

fn unused_address(world: &World) -> Result<std::net::Ipv6Addr> {
    let prefix = world.prefix()?;
    Ok(prefix
        .replace("000/124", "00e")
        .replace("/64", "dead")
        .parse()?)
}

fn unused_from_outside(world: &World, server: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let vps = world.host("vps")?;
    let unused = unused_address(world)?;
    let filter =
        format!("ip6 and (dst host {unused} or icmp6[0] = 1 or udp port 9000 or icmp6[0] = 136)");
    let here = Capture::start(&internet, "eth0", &filter)?;
    let leaving = Capture::start_outgoing(&vps, "eth0", "ip6")?;
    let edge = Capture::start(&world.host("edge")?, "vps", "icmp6")?;
    let inside = Capture::start(&server.host, &server.interface, "ip6 and udp")?;
    let from = udp(&internet, at(INTERNET6, 0))?;
    for port in [9, 53] {
        send(&from, at(unused, port), "to nobody")?;
    }
    if world.is_on_link() {
        edge.wait_for(&format!("who has {unused}"))?;
        thread::sleep(Duration::from_secs(1));
        ensure!(
            edge.count(&format!("tgt is {unused}"))? == 0,
            "the gateway answers for an address that nobody has: {}",
            edge.text()?
        );
        let solicited = format!("tgt is {}", server.ipv6()?);
        mark(world, server, &inside)?;
        // The edge may know the server already; the answer for it is a control of the filter alone.
        if edge.count(&format!("who has {}", server.ipv6()?))? > 0 {
            ensure!(
                edge.count(&solicited)? > 0,
                "no answer for a device: {}",
                edge.text()?
            );
        }
    }
    mark(world, server, &inside)?;
    if !world.is_on_link() {
        // Silence, as from a device whose ports are closed: who probes does not learn which addresses have one.
        ensure!(
            // The device itself says that nobody listens on the port of the mark.
            here.count("ICMP6, destination unreachable")? == here.count("unreachable port")?,
            "the gateway tells that nobody has an address: {}",
            here.text()?
        );
    }
    let away = format!("> {unused}");
    ensure!(
        leaving.count(&away)? == 0,
        "what came for an unused address left again: {}",
        leaving.text()?
    );
    ensure!(
        inside.count(&away)? == 0,
        "a device got what is for an unused address: {}",
        inside.text()?
    );
    Ok(())
}

fn unused_from_inside(world: &World, laptop: &Device) -> Result<()> {
    let unused = unused_address(world)?;
    let leaving = Capture::start_outgoing(&world.host("vps")?, "eth0", "ip6")?;
    let from = udp(&laptop.host, at(laptop.ipv6()?, 6200))?;
    for port in [9, 53] {
        // The gateway may say at once that nobody is there.
        let _ = send(&from, at(unused, port), "to nobody");
    }
    thread::sleep(Duration::from_millis(500));
    let far = udp(&world.host("internet")?, at(INTERNET6, 7200))?;
    let near = udp(&laptop.host, at(laptop.ipv6()?, 6201))?;
    exchange(&near, at(INTERNET6, 7200), &far, "control")?;
    leaving.wait_for(&format!("{}.6201 > {INTERNET6}.7200", laptop.ipv6()?))?;
    ensure!(
        leaving.count(&unused.to_string())? == 0,
        "a packet for an unused address of our own leaves, or is asked for: {}",
        leaving.text()?
    );
    let listener = listen(&world.host("internet")?, at(INTERNET6, 7201))?;
    let stream = connect(
        &laptop.host,
        None,
        at(INTERNET6, 7201),
        Duration::from_secs(3),
    )?;
    let (_, seen) = accept(&listener)?;
    ensure!(seen.ip() == stream.local_addr()?.ip());
    Ok(())
}
