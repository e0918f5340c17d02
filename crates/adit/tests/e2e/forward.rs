//! Public ports that lead to a device, and to containers behind one; devices that use them too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use adit_lab::Host;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::support::{
    Capture, Device, Findings, INTERNET4, INTERNET6, PUBLIC4, STRANGER4, World, at, connect,
    converse, exchange, listen, send, udp,
};

const SHORT: Duration = Duration::from_millis(700);

#[test]
fn forwards_and_the_way_back_of_devices_to_them() -> Result<()> {
    forwarding("routed")
}

pub(crate) fn forwarding(topology: &str) -> Result<()> {
    let world = World::with_subnet(topology, "e2e-forward")?;
    let server = world.join("box", "--kind server")?;
    let laptop = world.join("laptop", "")?;
    let mut findings = Findings::default();
    findings.check("forwards", forwards(&world, &server));
    findings.check("switched off and on", switched(&world, &server));
    findings.check("hairpin", hairpin(&world, &server, &laptop));
    findings.conclude()
}

#[test]
fn a_container_with_a_routed_prefix() -> Result<()> {
    container("routed")
}

#[test]
fn a_container_with_an_on_link_prefix() -> Result<()> {
    container("on-link")
}

/// As in `reach`: what was sent before this has arrived when this has.
fn mark(world: &World, watch: &Capture) -> Result<()> {
    let stranger = udp(&world.host("stranger")?, at(STRANGER4, 0))?;
    send(&stranger, at(PUBLIC4, 9000), "mark")?;
    watch.wait_for(".9000: UDP")
}

fn forwards(world: &World, server: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let inside = server.ipv4;
    world.adit("forward add 9000/udp box --label mark")?;
    let web = listen(&server.host, at(inside, 8080))?;
    let from = udp(&internet, at(INTERNET4, 7000))?;

    let watch = Capture::start(&server.host, &server.interface, "ip and (tcp or udp)")?;
    let early = connect(&internet, None, at(PUBLIC4, 80), SHORT);
    ensure!(early.is_err(), "TCP connects without a forward");
    send(&from, at(PUBLIC4, 53), "without a forward")?;
    mark(world, &watch)?;
    ensure!(
        watch.text()?.lines().count() == 1,
        "without a forward these arrived: {}",
        watch.text()?
    );
    drop(watch);

    world.adit("forward add 80/tcp box:8080")?;
    let conversation = converse(&internet, None, at(PUBLIC4, 80), &web)?;
    ensure!(
        conversation.seen.ip() == IpAddr::V4(INTERNET4),
        "the server sees {}, not {INTERNET4}",
        conversation.seen
    );
    ensure!(
        conversation.seen == conversation.client.local_addr()?,
        "the source port is {}",
        conversation.seen
    );

    world.adit("forward add 53/udp box")?;
    let names = udp(&server.host, at(inside, 53))?;
    let seen = exchange(&from, at(PUBLIC4, 53), &names, "a question")?;
    ensure!(seen == at(INTERNET4, 7000), "the server sees {seen}");

    world.adit("forward add 5000-5003 box")?;
    let watch = Capture::start(&server.host, &server.interface, "ip and udp")?;
    for port in [4999, 5004] {
        send(&from, at(PUBLIC4, port), "outside the range")?;
    }
    for port in [5000, 5003] {
        let datagrams = udp(&server.host, at(inside, port))?;
        let seen = exchange(&from, at(PUBLIC4, port), &datagrams, "in the range")?;
        ensure!(seen == at(INTERNET4, 7000), "in the range: seen {seen}");
        let listener = listen(&server.host, at(inside, port))?;
        converse(&internet, None, at(PUBLIC4, port), &listener)?;
    }
    mark(world, &watch)?;
    for port in [4999, 5004] {
        ensure!(
            watch.count(&format!("> {inside}.{port}:"))? == 0,
            "{port} is outside the range and arrived"
        );
    }
    Ok(())
}

fn switched(world: &World, server: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let stranger = world.host("stranger")?;
    world.adit("forward add 8443 box")?;
    let id = world.id("forward", &json!({"port": 8443}))?;
    let web = listen(&server.host, at(server.ipv4, 8443))?;
    let datagrams = udp(&server.host, at(server.ipv4, 8443))?;
    let from = udp(&stranger, at(STRANGER4, 7001))?;
    let mut conversation = converse(&internet, None, at(PUBLIC4, 8443), &web)?;
    exchange(&from, at(PUBLIC4, 8443), &datagrams, "before")?;

    let watch = Capture::start(&server.host, &server.interface, "ip and udp")?;
    world.adit(&format!("forward set {id} --disable"))?;
    send(&from, at(PUBLIC4, 8443), "while it is off")?;
    ensure!(
        conversation.is_cut()?,
        "an established flow survives its forward"
    );
    let refused = connect(&internet, None, at(PUBLIC4, 8443), SHORT);
    ensure!(refused.is_err(), "a forward that is off still leads there");
    mark(world, &watch)?;
    ensure!(
        watch.count(".8443:")? == 0,
        "while the forward is off: {}",
        watch.text()?
    );

    world.adit(&format!("forward set {id} --enable"))?;
    converse(&internet, None, at(PUBLIC4, 8443), &web)?;
    exchange(&from, at(PUBLIC4, 8443), &datagrams, "on again")?;
    world.adit(&format!("forward remove {id}"))?;
    let refused = connect(&internet, None, at(PUBLIC4, 8443), SHORT);
    ensure!(refused.is_err(), "a removed forward still leads there");
    Ok(())
}

fn hairpin(world: &World, server: &Device, laptop: &Device) -> Result<()> {
    world.adit("forward add 2080 box:8088")?;
    let web = listen(&server.host, at(server.ipv4, 8088))?;
    let datagrams = udp(&server.host, at(server.ipv4, 8088))?;
    converse(&laptop.host, None, at(PUBLIC4, 2080), &web)
        .context("a device to another's forward")?;
    let near = udp(&laptop.host, at(laptop.ipv4, 6000))?;
    exchange(&near, at(PUBLIC4, 2080), &datagrams, "around the corner")?;

    // An inbound server uses the tunnel when it is told to, by its source address.
    let itself = Some(at(server.ipv4, 0));
    converse(&server.host, itself, at(PUBLIC4, 2080), &web)
        .context("a server to its own forward")?;
    world.adit("forward add 2081 laptop:8088")?;
    let own = listen(&laptop.host, at(laptop.ipv4, 8088))?;
    converse(&laptop.host, None, at(PUBLIC4, 2081), &own).context("a client to its own forward")?;
    converse(&world.host("internet")?, None, at(PUBLIC4, 2081), &own)
        .context("and the Internet to it")?;
    Ok(())
}

/// The box publishes two ports of a container, as container programs do: by translation on the box.
const CONTAINER: &str = "table inet published {
  chain prerouting {
    type nat hook prerouting priority dstnat
    meta nfproto ipv4 iifname != \"br0\" tcp dport 8080 dnat ip to 172.18.0.2:80
    meta nfproto ipv4 iifname != \"br0\" udp dport 8080 dnat ip to 172.18.0.2:80
    meta nfproto ipv6 iifname != \"br0\" tcp dport 8080 dnat ip6 to [fd00:18::2]:80
  }
}
";

pub(crate) fn container(topology: &str) -> Result<()> {
    let world = World::with_subnet(topology, "e2e-container")?;
    let server = world.join("box", "--kind server")?;
    let outside6 = world.outside6(&server);
    to_a_container(&world, &server.host, &server.interface, outside6)
}

/// Visitors of a container on the box are answered through the tunnel, and the box's own way stays beside it.
pub(crate) fn to_a_container(
    world: &World,
    server: &Host,
    interface: &str,
    outside6: Option<Ipv6Addr>,
) -> Result<()> {
    server.exec_with_input(["nft", "-f", "-"], CONTAINER)?;
    for scope in ["all", "eth0", interface] {
        let key = format!("net/ipv4/conf/{scope}/rp_filter");
        let value = server.exec(["sysctl", "-n", &key])?.stdout;
        ensure!(value.trim() == "1", "{key} is {value}");
    }
    world.adit("forward add 80 box:8080")?;
    let port6 = if world.provided().is_some() {
        world.adit("pinhole add box 8080/tcp")?;
        8080
    } else {
        80
    };
    let internet = world.host("internet")?;
    let container = world.host("container")?;
    let inside = Ipv4Addr::new(172, 18, 0, 2);
    let plain = Capture::start(
        server,
        "eth0",
        "(tcp or udp or icmp) and not (udp and host 203.0.113.2 and port 51820)",
    )?;

    let web = listen(&container, at(inside, 80))?;
    let conversation = converse(&internet, None, at(PUBLIC4, 80), &web)?;
    ensure!(
        conversation.seen == conversation.client.local_addr()?,
        "the container sees {}",
        conversation.seen
    );
    let datagrams = udp(&container, at(inside, 80))?;
    let from = udp(&internet, at(INTERNET4, 7000))?;
    let seen = exchange(&from, at(PUBLIC4, 80), &datagrams, "to a container")?;
    ensure!(seen == at(INTERNET4, 7000), "the container sees {seen}");

    if let Some(outside6) = outside6 {
        let web = listen(&container, "[fd00:18::2]:80".parse()?)?;
        let conversation = converse(&internet, None, at(outside6, port6), &web)
            .context("IPv6 to the container")?;
        ensure!(
            conversation.seen.ip() == IpAddr::V6(INTERNET6),
            "the container sees {}",
            conversation.seen
        );
    }

    ensure!(
        plain.text()?.is_empty(),
        "beside the tunnel, on the home network: {}",
        plain.text()?
    );
    // The same capture sees what does go beside the tunnel.
    let outside = udp(&world.host("internet")?, at(INTERNET4, 7300))?;
    let near = udp(server, "0.0.0.0:0".parse()?)?;
    let seen = exchange(&near, at(INTERNET4, 7300), &outside, "the host's own way")?;
    ensure!(
        seen.ip().to_string() == "192.0.2.2",
        "what the server sends by itself comes from {seen}"
    );
    plain.wait_for(&format!("> {INTERNET4}.7300"))
}
