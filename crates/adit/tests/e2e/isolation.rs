//! Who reaches whom: subnets are apart, devices of one are together unless told otherwise, and the host is closed.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::support::{
    Capture, Device, Findings, PUBLIC4, World, at, connect, converse, listen, send, udp,
};

const SHORT: Duration = Duration::from_millis(700);

#[test]
fn between_devices_with_a_routed_prefix() -> Result<()> {
    between_devices("routed")
}

#[test]
fn between_devices_with_an_on_link_prefix() -> Result<()> {
    between_devices("on-link")
}

/// `box` and `laptop` are of one subnet, `nas` is of another.
pub(crate) fn between_devices(topology: &str) -> Result<()> {
    let world = World::with_subnet(topology, "e2e-isolation")?;
    world.adit("subnet add other --ipv4 10.60.0.0/24")?;
    let server = world.join("box", "--kind server --subnet lan")?;
    let laptop = world.join("laptop", "--subnet lan")?;
    let nas = world.join("nas", "--subnet other")?;
    let mut findings = Findings::default();
    findings.check("inside a subnet", together(&server, &laptop));
    findings.check("between subnets", apart(&server, &laptop, &nas));
    findings.check(
        "forwards and pinholes for other subnets",
        published(&world, &server, &laptop, &nas),
    );
    findings.check(
        "flows when peers are switched off",
        flows_end(&world, &server, &laptop),
    );
    findings.check("peers off", alone(&server, &laptop));
    findings.check(
        "forwards and pinholes with peers off",
        still_published(&server, &laptop),
    );
    world.adit("subnet set lan --peers on")?;
    findings.check("peers on again", together(&server, &laptop));
    findings.check("host access", host_access(&world, &laptop, &nas));
    findings.conclude()
}

fn both(device: &Device, port: u16) -> Result<[SocketAddr; 2]> {
    Ok([at(device.ipv4, port), at(device.ipv6()?, port)])
}

fn together(server: &Device, laptop: &Device) -> Result<()> {
    for address in both(server, 7400)? {
        let listener = listen(&server.host, address)?;
        let conversation = converse(&laptop.host, None, address, &listener)?;
        ensure!(
            conversation.seen.ip() == laptop_side(laptop, address)?.ip(),
            "{address} sees {}",
            conversation.seen
        );
    }
    for address in both(laptop, 7400)? {
        let listener = listen(&laptop.host, address)?;
        let from = laptop_side(server, address)?;
        converse(&server.host, Some(from), address, &listener)?;
    }
    Ok(())
}

/// The address of a device in the family of another address.
fn laptop_side(device: &Device, like: SocketAddr) -> Result<SocketAddr> {
    if like.is_ipv4() {
        Ok(at(device.ipv4, 0))
    } else {
        Ok(at(device.ipv6()?, 0))
    }
}

/// Nothing from `from` arrives at `to`; what the gateway says to `to` is the control.
fn nothing_from(from: &Device, to: &Device) -> Result<()> {
    let watch = Capture::start(&to.host, &to.interface, "tcp or udp or icmp or icmp6")?;
    for address in both(to, 7500)? {
        let side = laptop_side(from, address)?;
        send(&udp(&from.host, side)?, address, "across")?;
        let refused = connect(&from.host, Some(side), address, SHORT);
        ensure!(refused.is_err(), "TCP connects to {address}");
    }
    let gateway = to.ipv4.to_string();
    let gateway = gateway
        .rsplit_once('.')
        .map(|(network, _)| format!("{network}.1"))
        .context("an IPv4 address")?;
    let source = to.ipv4.to_string();
    to.host
        .exec(["ping", "-c1", "-W3", "-I", &source, &gateway])?;
    watch.wait_for(&format!("{gateway} > {source}: ICMP echo reply"))?;
    ensure!(
        watch.count(".7500")? == 0,
        "from {} arrived at {}: {}",
        from.host.name(),
        to.host.name(),
        watch.text()?
    );
    Ok(())
}

fn apart(server: &Device, laptop: &Device, nas: &Device) -> Result<()> {
    nothing_from(nas, laptop)?;
    nothing_from(nas, server)?;
    nothing_from(laptop, nas)
}

/// Switches the peers off.
fn flows_end(world: &World, server: &Device, laptop: &Device) -> Result<()> {
    let mut conversations = Vec::new();
    for address in both(server, 7401)? {
        let listener = listen(&server.host, address)?;
        conversations.push(converse(&laptop.host, None, address, &listener)?);
    }
    world.adit("subnet set lan --peers off")?;
    for conversation in &mut conversations {
        ensure!(
            conversation.is_cut()?,
            "with {} goes on",
            conversation.client.peer_addr()?
        );
    }
    Ok(())
}

fn alone(server: &Device, laptop: &Device) -> Result<()> {
    nothing_from(laptop, server)?;
    nothing_from(server, laptop)
}

fn published(world: &World, server: &Device, laptop: &Device, nas: &Device) -> Result<()> {
    world.adit("forward add 2080/tcp box:8080")?;
    world.adit("pinhole add box 8080/tcp")?;
    for device in [nas, laptop] {
        reaches_published(server, device).with_context(|| device.host.name().to_owned())?;
    }
    Ok(())
}

fn reaches_published(server: &Device, device: &Device) -> Result<()> {
    let listener = listen(&server.host, at(server.ipv4, 8080))?;
    converse(&device.host, None, at(PUBLIC4, 2080), &listener).context("by the forward")?;
    let address = at(server.ipv6()?, 8080);
    let listener = listen(&server.host, address)?;
    converse(&device.host, None, address, &listener).context("by the pinhole")?;
    Ok(())
}

fn still_published(server: &Device, laptop: &Device) -> Result<()> {
    reaches_published(server, laptop)
}

fn host_access(world: &World, laptop: &Device, nas: &Device) -> Result<()> {
    let vps = world.host("vps")?;
    let service = listen(&vps, "[::]:2222".parse()?)?;
    let internet = world.host("internet")?;
    converse(&internet, None, at(PUBLIC4, 2222), &service).context("the Internet to the host")?;

    let subnet = world.find("subnet", &serde_json::json!({"name": "lan"}))?;
    let gateway = |field: &str| subnet[field].as_str().unwrap_or_default().to_owned();
    let mut addresses = vec![
        format!("{}:2222", gateway("gateway_ipv4")),
        format!("[{}]:2222", gateway("gateway_ipv6")),
        at(world.local4()?, 2222).to_string(),
    ];
    addresses.extend(world.public6().map(|address| at(address, 2222).to_string()));
    let reached = |device: &Device| -> Result<Vec<String>> {
        let mut reached = Vec::new();
        for address in &addresses {
            let to: SocketAddr = address.parse().with_context(|| address.clone())?;
            if connect(&device.host, None, to, SHORT).is_ok() {
                reached.push(address.clone());
            }
        }
        Ok(reached)
    };
    for field in ["gateway_ipv4", "gateway_ipv6"] {
        laptop
            .host
            .exec(["ping", "-c1", "-W3", &gateway(field)])
            .context("ping of the gateway")?;
    }
    ensure!(
        reached(laptop)?.is_empty(),
        "a device reaches the host on {:?}",
        reached(laptop)?
    );
    world.adit("subnet set lan --host-access on")?;
    ensure!(
        reached(laptop)? == addresses,
        "with host access a device reaches {:?} only",
        reached(laptop)?
    );
    ensure!(
        reached(nas)?.is_empty(),
        "a device of another subnet reaches {:?}",
        reached(nas)?
    );
    while service.accept().is_ok() {}
    let mut conversations = Vec::new();
    for address in &addresses {
        conversations.push(converse(&laptop.host, None, address.parse()?, &service)?);
    }
    world.adit("subnet set lan --host-access off")?;
    ensure!(
        reached(laptop)?.is_empty(),
        "after host access was withdrawn: {:?}",
        reached(laptop)?
    );
    let mut going_on = Vec::new();
    for (address, conversation) in addresses.iter().zip(&mut conversations) {
        if !conversation.is_cut()? {
            going_on.push(address);
        }
    }
    ensure!(
        going_on.is_empty(),
        "after host access was withdrawn these go on: {going_on:?}"
    );
    Ok(())
}
