//! What the kernel must hold, derived from what the command line lists and by nothing of the gateway's own code.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use adit_lab::Host;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::World;

/// What was decided, as the command line lists it, without what changes by itself.
pub(crate) fn state(world: &World) -> Result<Value> {
    let mut state = json!({ "settings": world.adit("settings show")? });
    for kind in ["subnet", "device", "forward", "pinhole"] {
        let mut items = world.list(kind)?;
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            for volatile in [
                "connected",
                "last_handshake",
                "endpoint",
                "received_bytes",
                "sent_bytes",
            ] {
                item.remove(volatile);
            }
        }
        state[kind] = Value::Array(items);
    }
    Ok(state)
}

/// What the state says is what WireGuard, routes, neighbours, addresses, nftables, settings and conntrack hold.
pub(crate) fn check(world: &World) -> Result<()> {
    let state = state(world)?;
    let vps = world.host("vps")?;
    let interface = world.gateway.interface();
    let subnets = items(&state, "subnet");
    let devices: Vec<&Value> = items(&state, "device")
        .into_iter()
        .filter(|device| device["enabled"] == true)
        .collect();
    if subnets.is_empty() {
        return Ok(());
    }

    let mut peers = BTreeSet::new();
    let mut prefixes = BTreeSet::new();
    for device in &devices {
        let mut own = BTreeSet::new();
        own.insert(format!("{}/32", text(device, "ipv4")?));
        if let Some(address) = device["ipv6"].as_str() {
            own.insert(format!("{address}/128"));
        }
        let delegations = device["delegations"].as_array().into_iter().flatten();
        own.extend(delegations.filter_map(|it| it.as_str().map(str::to_owned)));
        peers.insert((text(device, "public_key")?.to_owned(), own.clone()));
        prefixes.extend(own);
    }
    let shown = vps.exec(["wg", "show", interface, "allowed-ips"])?.stdout;
    let held = shown
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            (words.next().unwrap_or_default(), words.collect())
        })
        .collect();
    same("WireGuard's peers", &peers, &held)?;
    preshared_keys(world, &vps, &devices)?;

    let mut routes = BTreeSet::new();
    for family in ["-4", "-6"] {
        let shown = vps.exec([
            "ip", family, "route", "show", "dev", interface, "proto", "173",
        ])?;
        routes.extend(shown.stdout.lines().filter_map(|line| {
            let prefix = line.split_whitespace().next()?;
            let full = if family == "-4" { 32 } else { 128 };
            Some(match prefix.contains('/') {
                true => prefix.to_owned(),
                false => format!("{prefix}/{full}"),
            })
        }));
    }
    same("routes", &prefixes, &routes)?;

    let mut addresses = BTreeSet::new();
    let with_gateway = |it: &&&Value| it["gateway_address"] == true;
    for subnet in subnets.iter().filter(with_gateway) {
        for name in ["gateway_ipv4", "gateway_ipv6"] {
            addresses.extend(subnet[name].as_str().map(str::to_owned));
        }
    }
    // What the host has itself, as in a narrow prefix, is not the tunnel's.
    let own = own_addresses(&vps, interface)?;
    addresses.retain(|address| !own.contains(address));
    let shown = vps.exec(["ip", "-o", "address", "show", "dev", interface])?;
    let held = shown.stdout.lines().filter_map(|line| {
        let prefix = line.split_whitespace().nth(3)?;
        Some(prefix.split('/').next()?.to_owned())
    });
    same("addresses", &addresses, &held.collect())?;

    neighbors(&vps, &subnets, &devices, &own)?;
    firewall(&vps, &state, &devices)?;
    for setting in [
        "net.ipv4.conf.all.forwarding",
        "net.ipv6.conf.all.forwarding",
    ] {
        let value = vps.exec(["sysctl", "-n", setting])?.stdout;
        ensure!(value.trim() == "1", "{setting} is {value}");
    }
    connections(&vps, &state, &devices)
}

/// The addresses of the host's other interfaces.
fn own_addresses(vps: &Host, interface: &str) -> Result<BTreeSet<String>> {
    let shown = vps.exec(["ip", "-o", "address", "show"])?.stdout;
    let others = shown
        .lines()
        .filter(|line| line.split_whitespace().nth(1) != Some(interface));
    let address = |line: &str| {
        let prefix = line.split_whitespace().nth(3)?;
        Some(prefix.split('/').next()?.to_owned())
    };
    Ok(others.filter_map(address).collect())
}

fn items<'a>(state: &'a Value, kind: &str) -> Vec<&'a Value> {
    state[kind].as_array().into_iter().flatten().collect()
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str> {
    value[name]
        .as_str()
        .with_context(|| format!("{name} in {value}"))
}

fn same<T: Ord + std::fmt::Debug>(
    what: &str,
    wanted: &BTreeSet<T>,
    held: &BTreeSet<T>,
) -> Result<()> {
    let missing: Vec<_> = wanted.difference(held).collect();
    let left: Vec<_> = held.difference(wanted).collect();
    ensure!(
        missing.is_empty() && left.is_empty(),
        "{what}: missing {missing:?}, left over {left:?}"
    );
    Ok(())
}

/// Each is the one in the device's configuration.
fn preshared_keys(world: &World, vps: &Host, devices: &[&Value]) -> Result<()> {
    let interface = world.gateway.interface();
    let mut wanted = BTreeSet::new();
    for device in devices {
        let name = text(device, "name")?;
        let configuration = world.gateway.adit(["device", "config", name])?.stdout;
        let key = configuration
            .lines()
            .find_map(|line| line.strip_prefix("PresharedKey = "))
            .with_context(|| format!("PresharedKey in {configuration}"))?;
        wanted.insert(format!("{}\t{key}", text(device, "public_key")?));
    }
    let shown = vps.exec(["wg", "show", interface, "preshared-keys"])?;
    let held = shown.stdout.lines().map(str::to_owned).collect();
    same("preshared keys", &wanted, &held)
}

/// On a link where the provider asks for every address: those of the devices, of their delegations, and the gateway's own.
fn neighbors(
    vps: &Host,
    subnets: &[&Value],
    devices: &[&Value],
    own: &BTreeSet<String>,
) -> Result<()> {
    let mut wanted = BTreeSet::new();
    let on_link = subnets
        .iter()
        .filter(|subnet| subnet["effective_delivery"] == "on-link");
    for subnet in on_link {
        let gateway = subnet["gateway_ipv6"].as_str().map(str::to_owned);
        wanted.extend(gateway.filter(|_| subnet["gateway_address"] == true));
        for device in devices.iter().filter(|it| it["subnet"] == subnet["name"]) {
            wanted.extend(device["ipv6"].as_str().map(str::to_owned));
            for prefix in device["delegations"].as_array().into_iter().flatten() {
                let prefix = prefix.as_str().unwrap_or_default();
                if let Some((first, "124")) = prefix.split_once('/') {
                    let first: std::net::Ipv6Addr = first.parse()?;
                    let all = (0..16).map(|offset| {
                        std::net::Ipv6Addr::from(u128::from(first) + offset).to_string()
                    });
                    wanted.extend(all);
                }
            }
        }
    }
    wanted.retain(|address| !own.contains(address));
    let shown = vps.exec(["ip", "-6", "neigh", "show", "proxy"])?.stdout;
    let held = shown
        .lines()
        .filter(|line| line.contains("proto 173"))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned));
    same("proxy neighbours", &wanted, &held.collect())
}

/// A public side of a forward, and the device's.
type Translation = (String, String, u64, String, u64);

fn translations(state: &Value, devices: &[&Value]) -> BTreeSet<Translation> {
    let mut wanted = BTreeSet::new();
    for forward in items(state, "forward") {
        let device = devices.iter().find(|it| it["name"] == forward["device"]);
        let (Some(device), true) = (device, forward["enabled"] == true) else {
            continue;
        };
        let number = |name: &str| forward[name].as_u64().unwrap_or_default();
        for address in forward["addresses"].as_array().into_iter().flatten() {
            let address = address.as_str().unwrap_or_default();
            let family = if address.contains(':') {
                "ipv6"
            } else {
                "ipv4"
            };
            let target = device[family].as_str().unwrap_or_default();
            for protocol in forward["protocols"].as_array().into_iter().flatten() {
                for port in number("port")..=number("port_end") {
                    wanted.insert((
                        protocol.as_str().unwrap_or_default().to_owned(),
                        address.to_owned(),
                        port,
                        target.to_owned(),
                        number("target_port") + port - number("port"),
                    ));
                }
            }
        }
    }
    wanted
}

fn elements(vps: &Host, kind: &str, name: &str) -> Result<Vec<Value>> {
    let shown = vps.exec(["nft", "-j", "list", kind, "inet", "adit", name])?;
    let listing: Value = serde_json::from_str(&shown.stdout)?;
    let objects = listing["nftables"].as_array().into_iter().flatten();
    let elements = objects.filter_map(|object| object[kind]["elem"].as_array());
    Ok(elements.flatten().cloned().collect())
}

/// One number, or all of a range.
fn numbers(value: &Value) -> Result<RangeInclusive<u64>> {
    let end = |place: usize| value["range"][place].as_u64();
    match (value.as_u64(), end(0), end(1)) {
        (Some(number), ..) => Ok(number..=number),
        (None, Some(first), Some(last)) => Ok(first..=last),
        _ => bail!("{value} is no port"),
    }
}

fn firewall(vps: &Host, state: &Value, devices: &[&Value]) -> Result<()> {
    let word = |value: &Value| value.as_str().map(str::to_owned);
    let mut held = BTreeSet::new();
    for name in [
        "forwards4",
        "forwards6",
        "forward_ranges4",
        "forward_ranges6",
    ] {
        for element in elements(vps, "map", name)? {
            let (key, target) = (&element[0]["concat"], &element[1]);
            for port in numbers(&key[2])? {
                let (device, device_port) = match target["concat"].as_array() {
                    Some(parts) => (word(&parts[0]), parts[1].as_u64()),
                    None => (word(target), Some(port)),
                };
                held.insert((
                    word(&key[1]).with_context(|| format!("a protocol in {element}"))?,
                    word(&key[0]).with_context(|| format!("an address in {element}"))?,
                    port,
                    device.with_context(|| format!("a device in {element}"))?,
                    device_port.with_context(|| format!("a port in {element}"))?,
                ));
            }
        }
    }
    same("translations", &translations(state, devices), &held)?;

    let mut wanted = BTreeSet::new();
    for pinhole in items(state, "pinhole") {
        let device = devices.iter().find(|it| it["name"] == pinhole["device"]);
        let (Some(device), true) = (device, pinhole["enabled"] == true) else {
            continue;
        };
        let number = |name: &str| pinhole[name].as_u64().unwrap_or_default();
        for protocol in pinhole["protocols"].as_array().into_iter().flatten() {
            for port in number("port")..=number("port_end") {
                wanted.insert((word(&device["ipv6"]), word(protocol), port));
            }
        }
    }
    let mut held = BTreeSet::new();
    for name in ["pinholes", "pinhole_ranges"] {
        for element in elements(vps, "set", name)? {
            let key = &element["concat"];
            held.extend(numbers(&key[2])?.map(|port| (word(&key[0]), word(&key[1]), port)));
        }
    }
    same("pinholes", &wanted, &held)
}

/// What is tracked with its destination translated was translated by a forward that there is.
fn connections(vps: &Host, state: &Value, devices: &[&Value]) -> Result<()> {
    let wanted = translations(state, devices);
    for family in ["ipv4", "ipv6"] {
        let shown = vps.exec(["conntrack", "-L", "-f", family])?.stdout;
        for line in shown.lines() {
            let protocol = line.split_whitespace().next().unwrap_or_default();
            let values = |name: &str| -> Vec<&str> {
                let words = line.split_whitespace();
                words.filter_map(|word| word.strip_prefix(name)).collect()
            };
            let (destinations, sources) = (values("dst="), values("src="));
            let (to, from) = (values("dport="), values("sport="));
            let ([public, _], [_, device], [port, _], [_, device_port]) = (
                destinations.as_slice(),
                sources.as_slice(),
                to.as_slice(),
                from.as_slice(),
            ) else {
                continue;
            };
            if public == device {
                continue;
            }
            let translation = (
                protocol.to_owned(),
                (*public).to_owned(),
                port.parse()?,
                (*device).to_owned(),
                device_port.parse()?,
            );
            ensure!(
                wanted.contains(&translation),
                "tracked, and no forward says so: {line}"
            );
        }
    }
    Ok(())
}
