//! Forwards: added and changed; the rules of which port may lead where.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Draft, check_ports, hostname, ports};
use crate::change::{AddForward, SetForward};
use crate::configuration::Routing;
use crate::edit::Object;
use crate::name;
use crate::protocol::{PortRange, Protocol};
use crate::refusal::Refusal;
use crate::state::{Device, Forward, ForwardId, GatewayId, Lease, Origin, Subnet};

pub(super) fn add(draft: &mut Draft<'_>, wish: AddForward) -> Result<(), Refusal> {
    let (hostname, protocols) = hostname::settle(&wish)?;
    let range = check_ports(wish.port, wish.port_end)?;
    let device = draft.state.device(&wish.device)?.id;
    let target_port = wish.target_port.unwrap_or(range.first());
    let forward = Forward {
        id: ForwardId(draft.next_id()),
        gateway: GatewayId::default(),
        address: wish.address,
        port: range.first(),
        port_end: range.last(),
        protocols,
        device,
        target_port,
        hostname,
        proxy_protocol: wish.proxy_protocol,
        label: wish.label,
        enabled: true,
        origin: Origin::Manual,
    };
    put(draft, forward)
}

/// Puts a forward in a place that has to be free.
pub(super) fn put(draft: &mut Draft<'_>, forward: Forward) -> Result<(), Refusal> {
    name::check_label(&forward.label)?;
    let device = draft.state.device(&forward.device.to_string())?;
    check(draft, &forward, device)?;
    draft.set(Object::Forward(forward));
    Ok(())
}

pub(super) fn set(
    draft: &mut Draft<'_>,
    reference: &str,
    patch: SetForward,
) -> Result<(), Refusal> {
    let before = draft.state.forward(reference)?;
    let mut forward = before.clone();
    if patch == SetForward::default() {
        return Err(Refusal::NothingToChange {
            kind: "forward",
            reference: reference.to_owned(),
        });
    }
    if let Some(label) = patch.label {
        name::check_label(&label)?;
        forward.label = label;
    }
    if let Some(device) = patch.device {
        forward.device = draft.state.device(&device)?.id;
    }
    forward.target_port = patch.target_port.unwrap_or(forward.target_port);
    forward.proxy_protocol = patch.proxy_protocol.unwrap_or(forward.proxy_protocol);
    forward.enabled = patch.enabled.unwrap_or(forward.enabled);
    let moves = (forward.device, forward.target_port) != (before.device, before.target_port)
        || (forward.proxy_protocol && !before.proxy_protocol);
    let opens = forward.enabled && !before.enabled;
    // What does not open anything is never refused: a forward whose port the host took in the meantime can be disabled.
    if moves || opens {
        let device = draft.state.device(&forward.device.to_string())?;
        check(draft, &forward, device)?;
    }
    draft.set(Object::Forward(forward));
    Ok(())
}

fn check(draft: &Draft<'_>, forward: &Forward, device: &Device) -> Result<(), Refusal> {
    let range = check_ports(forward.port, forward.port_end)?;
    if forward.target_port == 0 {
        check_ports(0, 0)?;
    }
    if !range.is_single() && forward.target_port != range.first() {
        return Err(Refusal::RangeShifted {
            range,
            target: forward.target_port,
        });
    }
    hostname::check_shape(forward, range)?;
    let subnet = draft
        .state
        .subnets
        .get(&device.subnet)
        .ok_or_else(|| Refusal::NotFound {
            kind: "subnet",
            reference: device.subnet.to_string(),
        })?;
    // By its name a device is reached from the gateway's address, to which it replies in any case.
    if device.routing == Routing::Split && forward.hostname.is_none() {
        return Err(Refusal::SplitTunnel {
            device: device.name.clone(),
        });
    }
    if let Some(address) = forward.address {
        if !draft.uplinks.iter().any(|uplink| uplink.has(address)) {
            return Err(Refusal::ForwardAddressUnknown { address });
        }
        if address.is_ipv6() && subnet.local_ipv6().is_none() {
            return Err(Refusal::ForwardIpv6Global {
                device: device.name.clone(),
                address,
            });
        }
    }
    let externals = forward.local_addresses(subnet, device, &draft.uplinks, draft.facts);
    if externals.is_empty() {
        return Err(Refusal::NoUplink {
            device: device.name.clone(),
        });
    }
    check_listeners(draft, forward, &externals)?;
    for protocol in &forward.protocols {
        hostname::check_names(draft, forward, &externals, range, *protocol)?;
        if forward.hostname.is_none() {
            check_forwards(draft, forward, &externals, range, *protocol)?;
        }
    }
    check_leases(draft, forward, &externals)?;
    let settings = &draft.state.settings;
    match PortRange::new(settings.snat_first, settings.snat_last) {
        Some(snat) if snat.overlaps(range) => Err(Refusal::PortInSnatRange { range, snat }),
        Some(_) | None => Ok(()),
    }
}

/// What forwards go along with, as it will be.
#[derive(Clone, Copy)]
pub(super) enum Moved<'a> {
    Subnet(&'a Subnet),
    Device(&'a Device),
}

/// When the prefix or the egress of a subnet or of a device changes, forwards without an address move to others, which
/// have to be free.
pub(super) fn check_moved(draft: &Draft<'_>, after: Moved<'_>) -> Result<(), Refusal> {
    let places = |forward: &Forward, subnet: &Subnet, device: &Device| {
        forward.local_addresses(subnet, device, &draft.uplinks, draft.facts)
    };
    let mut held = hostname::Held::default();
    let mut moved = Vec::new();
    for forward in draft.state.forwards.values() {
        let Some(device) = draft.state.devices.get(&forward.device) else {
            continue;
        };
        let (Some(subnet), Some(ports)) =
            (draft.state.subnets.get(&device.subnet), forward.ports())
        else {
            continue;
        };
        let theirs = places(forward, subnet, device);
        let moved_to = match after {
            Moved::Subnet(after) => (after.id == subnet.id).then_some((after, device)),
            Moved::Device(after) => (after.id == device.id).then_some((subnet, after)),
        };
        if let Some((subnet, device)) = moved_to {
            let new = places(forward, subnet, device);
            if new != theirs {
                moved.push((forward, device, ports, theirs, new));
                continue;
            }
        }
        for key in sockets(forward, &theirs) {
            held.insert(key, ports, forward, device);
        }
    }
    for (forward, device, ports, old, new) in moved {
        if new.is_empty() {
            return Err(Refusal::NoUplink {
                device: device.name.clone(),
            });
        }
        let added: BTreeSet<IpAddr> = new.difference(&old).copied().collect();
        check_listeners(draft, forward, &added)?;
        for key in sockets(forward, &new) {
            held.check(key, ports, forward)?;
            held.insert(key, ports, forward, device);
        }
    }
    Ok(())
}

fn sockets(
    forward: &Forward,
    addresses: &BTreeSet<IpAddr>,
) -> impl Iterator<Item = (IpAddr, Protocol, u16)> {
    addresses.iter().flat_map(|address| {
        forward
            .protocols
            .iter()
            .map(|protocol| (*address, *protocol, forward.port))
    })
}

pub(super) fn describe(
    forward: &Forward,
    ports: PortRange,
    protocol: Protocol,
    device: &Device,
) -> String {
    format!(
        "forward {} ({ports}/{protocol} to device `{}`)",
        forward.id, device.name
    )
}

fn check_listeners(
    draft: &Draft<'_>,
    forward: &Forward,
    externals: &BTreeSet<IpAddr>,
) -> Result<(), Refusal> {
    let listen_port = draft.state.settings.listen_port;
    let ports = forward.ports();
    if forward.protocols.contains(&Protocol::Udp)
        && ports.is_some_and(|ports| ports.contains(listen_port))
    {
        return Err(Refusal::PortReserved {
            port: listen_port,
            protocol: Protocol::Udp,
            listener: "WireGuard".to_owned(),
        });
    }
    match forward.listener(externals, draft.facts) {
        Some(listener) => Err(Refusal::PortReserved {
            port: listener.port,
            protocol: listener.protocol,
            listener: listener
                .process
                .clone()
                .unwrap_or_else(|| "a service of this host".to_owned()),
        }),
        None => Ok(()),
    }
}

fn check_leases(
    draft: &Draft<'_>,
    forward: &Forward,
    externals: &BTreeSet<IpAddr>,
) -> Result<(), Refusal> {
    if draft.overrides_leases {
        return Ok(());
    }
    let lease = ports::lease_on(draft, forward, |address| externals.contains(&address));
    let of = |lease: &Lease| Some((lease.external_ports()?, lease.protocol?));
    let Some((lease, (range, protocol))) = lease.and_then(|lease| Some((lease, of(lease)?))) else {
        return Ok(());
    };
    let device = draft.state.devices.get(&lease.device);
    Err(Refusal::PortLeased {
        range,
        protocol,
        lease: lease.id.0,
        device: device.map_or_else(String::new, |device| device.name.clone()),
    })
}

fn check_forwards(
    draft: &Draft<'_>,
    forward: &Forward,
    externals: &BTreeSet<IpAddr>,
    range: PortRange,
    protocol: Protocol,
) -> Result<(), Refusal> {
    for other in draft.state.plain_forwards_on(range) {
        if other.id == forward.id || !other.protocols.contains(&protocol) {
            continue;
        }
        let Some(ports) = other.ports().filter(|ports| ports.overlaps(range)) else {
            continue;
        };
        let Some(device) = draft.state.devices.get(&other.device) else {
            continue;
        };
        let Some(subnet) = draft.state.subnets.get(&device.subnet) else {
            continue;
        };
        let theirs = other.local_addresses(subnet, device, &draft.uplinks, draft.facts);
        if !theirs.is_disjoint(externals) {
            return Err(Refusal::PortTaken {
                range,
                protocol,
                other: describe(other, ports, protocol, device),
            });
        }
    }
    Ok(())
}
