//! What a device sends through the tunnel: everything, what is meant for the tunnel, or replies alone.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};

use crate::support::{INTERNET4, INTERNET6, World, at, exchange, udp};

/// The home's public address, behind carrier-grade NAT.
const HOME4: &str = "192.0.2.2";

fn seen_by_the_internet(world: &World, host: &str, from: IpAddr, to: IpAddr) -> Result<IpAddr> {
    let far = udp(&world.host("internet")?, at(to, 7400))?;
    let near = udp(&world.host(host)?, at(from, 0))?;
    let seen = exchange(&near, at(to, 7400), &far, "where from")?;
    Ok(seen.ip())
}

#[test]
fn each_routing_takes_its_own_through_the_tunnel() -> Result<()> {
    each_routing("routed")
}

pub(crate) fn each_routing(topology: &str) -> Result<()> {
    let world = World::with_subnet(topology, "e2e-routing")?;
    let split = world.join("laptop", "--routing split")?;
    let full = world.join("nas", "")?;
    let inbound = world.join("box", "--kind server")?;
    let any4 = IpAddr::from([0, 0, 0, 0]);
    let any6 = IpAddr::from([0_u16; 8]);
    let home: IpAddr = HOME4.parse()?;
    let vps: IpAddr = "203.0.113.2".parse()?;

    for (device, routing, expected) in [
        (&split, "split", home),
        (&full, "full", vps),
        (&inbound, "inbound", home),
    ] {
        let seen = seen_by_the_internet(&world, device.host.name(), any4, INTERNET4.into())
            .with_context(|| format!("{routing}, IPv4"))?;
        ensure!(seen == expected, "{routing}: the Internet sees {seen}");
        let routing_shown = device.answer["device"]["routing"].as_str();
        ensure!(routing_shown == Some(routing), "{routing_shown:?}");
    }
    let by_ipv6 = [(&split, "split"), (&full, "full")]
        .into_iter()
        .filter(|(_, routing)| {
            // Private addresses are no reason to send the Internet's through the tunnel.
            world.provided().is_some() || (*routing == "full" && world.public6().is_some())
        });
    for (device, routing) in by_ipv6 {
        let seen = seen_by_the_internet(&world, device.host.name(), any6, INTERNET6.into())
            .with_context(|| format!("{routing}, IPv6"))?;
        ensure!(
            Some(seen) == world.outside6(device).map(IpAddr::V6),
            "{routing}: the Internet sees {seen}"
        );
    }
    for (from, to) in [(&split, &inbound), (&inbound, &full), (&full, &split)] {
        let listener = udp(&to.host, at(to.ipv4, 7401))?;
        let sender = udp(&from.host, at(any4, 0))?;
        let seen = exchange(&sender, at(to.ipv4, 7401), &listener, "inside")?;
        ensure!(seen.ip() == from.ipv4, "{seen} instead of {}", from.ipv4);
    }

    let refused = world.refused("forward add 8080 laptop")?;
    ensure!(refused.code == "split-tunnel", "{refused:?}");
    ensure!(refused.message.contains("laptop") && refused.hint.contains("--routing inbound"));
    world.adit("forward add 8080 nas")?;
    let refused = world.refused("device set nas --routing split")?;
    ensure!(refused.code == "split-tunnel", "{refused:?}");
    Ok(())
}
