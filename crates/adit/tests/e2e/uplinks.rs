//! Two providers, each of which drops what does not come from its own addresses: everything leaves where it has to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use adit_lab::{Host, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::support::{
    Device, Findings, INTERNET4, INTERNET6, PUBLIC4, PUBLIC6, World, at, connect, converse,
    exchange, listen, oracle, udp,
};

const SECOND4: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 2);
const SECOND6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);
const ANY4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const ANY6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

#[test]
fn subnets_and_devices_leave_where_they_were_told() -> Result<()> {
    let world = World::with_subnet("two-uplinks", "e2e-uplinks")?;
    world.adit("subnet add second --ipv4 10.60.0.0/24 --ipv6 2001:db8:200:1::/64 --egress eth1")?;
    world.adit("subnet add private --ipv4 10.61.0.0/24")?;
    // Its tunnel comes up by the second uplink, which its configuration names.
    let server = world.join("box", "--subnet second --kind server --routing full")?;
    let text = server.answer["config"].as_str().context("config")?;
    ensure!(text.contains("Endpoint = 198.18.2.2:51820"), "{text}");
    let laptop = world.join("laptop", "--subnet lan")?;
    let nas = world.join("nas", "--subnet private --egress 198.18.2.2")?;
    let mut findings = Findings::default();
    findings.check("a subnet", subnet(&world, &server));
    findings.check("a device", device(&world, &laptop));
    findings.check("a private device", private(&world, &nas));
    findings.check("both ways in", both_ways_in(&world, &nas));
    findings.check("the host itself", host(&world));
    findings.check("rules of others", rules_of_others(&world, &server));
    findings.check("packet size", packet_size(&world));
    findings.check("refusals", refusals(&world));
    findings.check("an egress that is gone", gone(&world, &laptop));
    findings.check("all agrees", oracle::check(&world));
    for edge in ["edge", "edge2"] {
        findings.check(edge, nothing_was_dropped(&world.host(edge)?));
    }
    findings.conclude()
}

/// The provider's filter of sources has found nothing to drop.
fn nothing_was_dropped(edge: &Host) -> Result<()> {
    let listed = edge
        .exec(["nft", "list", "table", "inet", "lab_sources"])?
        .stdout;
    let counters = listed
        .lines()
        .filter(|line| line.contains("counter"))
        .count();
    ensure!(counters == 2, "{listed}");
    ensure!(
        listed.matches("packets 0 ").count() == 2,
        "the wrong provider was asked to carry: {listed}"
    );
    Ok(())
}

fn seen_from(world: &World, device: &Device, near: SocketAddr) -> Result<IpAddr> {
    let to: IpAddr = if near.is_ipv4() {
        INTERNET4.into()
    } else {
        INTERNET6.into()
    };
    let far = udp(&world.host("internet")?, at(to, 7000))?;
    let near = udp(&device.host, near)?;
    Ok(exchange(&near, at(to, 7000), &far, "where from")?.ip())
}

fn leaves_as(world: &World, device: &Device, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Result<()> {
    let seen = seen_from(world, device, ANY4)?;
    ensure!(seen == ipv4, "the Internet sees {seen}, not {ipv4}");
    let seen = seen_from(world, device, ANY6)?;
    ensure!(seen == ipv6, "the Internet sees {seen}, not {ipv6}");
    device
        .host
        .exec(["ping", "-c1", "-W3", &INTERNET4.to_string()])?;
    device
        .host
        .exec(["ping", "-c1", "-W3", &INTERNET6.to_string()])?;
    Ok(())
}

fn reached(
    world: &World,
    device: &Device,
    public: IpAddr,
    port: u16,
    inside: IpAddr,
) -> Result<()> {
    let web = listen(&device.host, at(inside, port))?;
    let mut conversation = converse(&world.host("internet")?, None, at(public, port), &web)
        .with_context(|| format!("{public} port {port}"))?;
    // The device speaks first after its connection was forgotten by nobody: the way back is the way in.
    conversation.talk_backwards()
}

fn subnet(world: &World, server: &Device) -> Result<()> {
    leaves_as(world, server, SECOND4, server.ipv6()?)?;
    // Where the main table leads elsewhere it has the address of that uplink.
    server.host.exec(["ping", "-c1", "-W3", "203.0.113.1"])?;
    world.adit("forward add 80 box")?;
    world.adit("pinhole add box 80")?;
    let forward = world.find("forward", &json!({"port": 80}))?;
    ensure!(forward["addresses"] == json!(["198.18.2.2"]), "{forward}");
    reached(world, server, SECOND4.into(), 80, server.ipv4.into())?;
    let inside = server.ipv6()?.into();
    reached(world, server, inside, 80, inside)
}

fn device(world: &World, laptop: &Device) -> Result<()> {
    leaves_as(world, laptop, PUBLIC4, laptop.ipv6()?)?;
    let far = listen(&world.host("internet")?, at(INTERNET4, 7100))?;
    let mut before = converse(&laptop.host, None, at(INTERNET4, 7100), &far)?;
    world.adit("device set laptop --egress eth1")?;
    let shown = world.find("device", &json!({"name": "laptop"}))?;
    ensure!(shown["egress"] == "eth1", "{shown}");
    // What is not translated stays with the provider of its prefix.
    leaves_as(world, laptop, SECOND4, laptop.ipv6()?)?;
    before
        .talk_backwards()
        .context("a connection that was there before")?;

    let vps = world.host("vps")?;
    vps.exec(["ip", "address", "add", "198.18.2.3/24", "dev", "eth1"])?;
    wait_until(
        "another address of the uplink",
        Duration::from_secs(5),
        || {
            world.adit("device set laptop --egress 198.18.2.3")?;
            Ok(true)
        },
    )?;
    leaves_as(world, laptop, Ipv4Addr::new(198, 18, 2, 3), laptop.ipv6()?)?;
    world.adit("forward add 82 laptop")?;
    let forward = world.find("forward", &json!({"port": 82}))?;
    ensure!(forward["addresses"] == json!(["198.18.2.3"]), "{forward}");
    reached(world, laptop, "198.18.2.3".parse()?, 82, laptop.ipv4.into())?;
    world.adit("device set laptop --egress none")?;
    leaves_as(world, laptop, PUBLIC4, laptop.ipv6()?)?;
    reached(world, laptop, PUBLIC4.into(), 82, laptop.ipv4.into())
}

fn private(world: &World, nas: &Device) -> Result<()> {
    leaves_as(world, nas, SECOND4, SECOND6)?;
    world.adit("forward add 83 nas")?;
    reached(world, nas, SECOND4.into(), 83, nas.ipv4.into())?;
    reached(world, nas, SECOND6.into(), 83, nas.ipv6()?.into())?;
    world.adit("device set nas --egress eth0")?;
    leaves_as(world, nas, PUBLIC4, PUBLIC6)?;
    reached(world, nas, PUBLIC4.into(), 83, nas.ipv4.into())?;
    reached(world, nas, PUBLIC6.into(), 83, nas.ipv6()?.into())?;
    world.adit("device set nas --egress 198.18.2.2")?;
    leaves_as(world, nas, SECOND4, SECOND6)
}

/// One device by the addresses of both providers: each answer leaves where its question came in.
fn both_ways_in(world: &World, nas: &Device) -> Result<()> {
    for (public, port, inside) in [
        (IpAddr::from(PUBLIC4), 84, IpAddr::from(nas.ipv4)),
        (SECOND4.into(), 85, nas.ipv4.into()),
        (PUBLIC6.into(), 86, nas.ipv6()?.into()),
        (SECOND6.into(), 87, nas.ipv6()?.into()),
    ] {
        world.adit(&format!("forward add {} nas", at(public, port)))?;
        reached(world, nas, public, port, inside)?;
    }
    Ok(())
}

fn host(world: &World) -> Result<()> {
    let service = listen(&world.host("vps")?, "[::]:2222".parse()?)?;
    for address in [
        IpAddr::from(PUBLIC4),
        SECOND4.into(),
        PUBLIC6.into(),
        SECOND6.into(),
    ] {
        converse(&world.host("internet")?, None, at(address, 2222), &service)
            .with_context(|| format!("the host by {address}"))?;
    }
    Ok(())
}

/// A host that has rules of its own for what comes in by its second uplink, as administrators write them.
fn rules_of_others(world: &World, server: &Device) -> Result<()> {
    let vps = world.host("vps")?;
    let commands =
        "route add default via 198.18.2.1 table 100\nrule add iif eth1 lookup 100 pref 5000\n";
    vps.exec_with_input(["ip", "-batch", "-"], commands)?;
    reached(world, server, SECOND4.into(), 80, server.ipv4.into())?;
    vps.exec(["ip", "rule", "del", "pref", "5000"])?;
    vps.exec(["ip", "route", "flush", "table", "100"])?;
    Ok(())
}

fn packet_size(world: &World) -> Result<()> {
    packet_size_of(world, "laptop")
}

fn packet_size_of(world: &World, device: &str) -> Result<()> {
    let status = world.adit("status")?;
    ensure!(
        status["mtu"]["value"] == 1400 && status["mtu"]["reason"].to_string().contains("eth1"),
        "{}",
        status["mtu"]
    );
    let shown = world.gateway.adit(["device", "config", device])?.stdout;
    ensure!(shown.contains("MTU = 1400"), "{shown}");
    Ok(())
}

fn refusals(world: &World) -> Result<()> {
    for (command, code) in [
        ("device set laptop --egress wlan0", "egress-unknown"),
        (
            "device add other --subnet lan --egress 192.0.2.99",
            "egress-unknown",
        ),
        // Port 83 of the second uplink is that of the private device.
        ("forward add 198.18.2.2:83 laptop", "port-taken"),
    ] {
        let refused = world.refused(command)?;
        ensure!(refused.code == code, "{command}: {refused:?}");
    }
    world.adit("forward add 203.0.113.2:88 nas")?;
    world.adit("device add mover --subnet lan --kind server --egress eth1")?;
    world.adit("forward add 88 mover")?;
    let refused = world.refused("device set mover --egress none")?;
    ensure!(refused.code == "port-taken", "{refused:?}");
    world.adit("device remove mover")?;
    Ok(())
}

fn gone(world: &World, laptop: &Device) -> Result<()> {
    world.adit("device set laptop --egress 198.18.2.3")?;
    let vps = world.host("vps")?;
    vps.exec(["ip", "address", "del", "198.18.2.3/24", "dev", "eth1"])?;
    wait_until("the problem in adit status", Duration::from_secs(5), || {
        let status = world.adit("status")?;
        let problems = status["problems"].as_array().context("problems")?;
        let told = problems
            .iter()
            .any(|it| it["code"] == "egress-gone" && it["object"] == "device laptop");
        ensure!(told, "{problems:?}");
        Ok(true)
    })?;
    leaves_as(world, laptop, PUBLIC4, laptop.ipv6()?)?;
    world.adit("device set laptop --egress none")?;
    let status = world.adit("status")?;
    ensure!(status["problems"] == json!([]), "{}", status["problems"]);
    let refused = connect(
        &laptop.host,
        None,
        at(SECOND4, 99),
        Duration::from_millis(300),
    );
    ensure!(refused.is_err());
    Ok(())
}

/// A tunnel of IPv6 in IPv4 brings IPv6 alone: each family of one subnet leaves by an uplink of its own.
#[test]
fn a_second_uplink_with_ipv6_alone() -> Result<()> {
    let world = World::start("two-uplinks", "e2e-6in4")?;
    let vps = world.host("vps")?;
    vps.exec(["ip", "-4", "address", "flush", "dev", "eth1"])?;
    wait_until("the gateway has seen it", Duration::from_secs(5), || {
        Ok(world.find("uplink", &json!({"name": "eth1"}))?["local"].is_null())
    })?;
    world.adit("subnet add six --ipv4 10.59.0.0/24 --ipv6 2001:db8:200:1::/64 --egress eth1")?;
    let server = world.join("box", "--kind server --routing full")?;
    let text = server.answer["config"].as_str().context("config")?;
    ensure!(text.contains("Endpoint = 203.0.113.2:51820"), "{text}");
    leaves_as(&world, &server, PUBLIC4, server.ipv6()?)?;
    world.adit("forward add 80 box")?;
    world.adit("pinhole add box 80")?;
    reached(&world, &server, PUBLIC4.into(), 80, server.ipv4.into())?;
    let inside = server.ipv6()?.into();
    reached(&world, &server, inside, 80, inside)?;
    packet_size_of(&world, "box")?;
    ensure!(world.adit("status")?["problems"] == json!([]));
    for edge in ["edge", "edge2"] {
        nothing_was_dropped(&world.host(edge)?)?;
    }
    Ok(())
}
