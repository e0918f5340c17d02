//! What leases do: as forwards of one address, as pinholes, or only outwards.

use std::net::IpAddr;

use super::super::names;
use super::{
    Context, Part, Place, Target, Way, advertised, forward_public, holder, keep, target4, target6,
};
use crate::address;
use crate::desired::firewall::Endpoint;
use crate::protocol::{PortRange, Protocol};
use crate::state::{Forward, Lease, Opening};

/// What a lease does. Leases are added after all forwards and in the order of their ids: where the host's addresses changed
/// and two meet, the older stays.
pub(in crate::desired::derive) fn lease(context: &Context<'_>, lease: &Lease, part: &mut Part) {
    match lease.opening {
        Opening::Forward | Opening::Outbound => translated(context, lease, part),
        Opening::Pinhole => own_port(context, lease, part),
    }
}

fn translated(context: &Context<'_>, lease: &Lease, part: &mut Part) {
    let Some(Way {
        ports: _,
        uplink,
        place,
    }) = way_of(context, lease)
    else {
        return;
    };
    if lease.is_named() {
        names::lease(context, lease, &place, part);
        return;
    }
    let is_inbound = lease.opening == Opening::Forward;
    for forward in pieces(lease) {
        let Some(ports) = forward.ports() else {
            continue;
        };
        match &place {
            Place::V4 { local, target } => {
                let translations = &mut part.translations4;
                keep(translations, &forward, ports, *local, target, uplink);
                let known = advertised(uplink, *local);
                for address in [*local].into_iter().chain(known).filter(|_| is_inbound) {
                    forward_public(translations, &forward, ports, address, target);
                }
            }
            Place::V6 { local, target } => {
                let translations = &mut part.translations6;
                keep(translations, &forward, ports, *local, target, uplink);
                if is_inbound {
                    forward_public(translations, &forward, ports, *local, target);
                }
            }
        }
    }
    if is_inbound {
        match place {
            Place::V4 { local, .. } => {
                let known = advertised(uplink, local);
                for address in [local].into_iter().chain(known) {
                    filter(lease, address.into(), part);
                }
            }
            Place::V6 { local, .. } => filter(lease, local.into(), part),
        }
    }
}

/// A port of the device's own address: let in, and translated where the device listens on another.
fn own_port(context: &Context<'_>, lease: &Lease, part: &mut Part) {
    let Some(ports) = lease
        .external_ports()
        .filter(|_| lease.is_valid(context.inputs.now))
    else {
        return;
    };
    let member = context.member_of(lease.device);
    let address = member.and_then(|member| {
        let address = member.subnet.ipv6_of(member.device.ipv4)?;
        let is_free = member.addresses.contains(&IpAddr::V6(address));
        let is_local = address::is_unique_local(address);
        (is_free && !is_local).then_some(address)
    });
    let Some(address) = address else {
        return;
    };
    let Some(protocol) = lease.protocol else {
        part.open_addresses.insert(address);
        return;
    };
    if lease.keeps_numbers() {
        part.pinholes.insert(Endpoint {
            address,
            protocol,
            ports,
        });
    } else {
        let target = Target {
            address,
            gateway: address,
        };
        for forward in pieces(lease) {
            if let Some(ports) = forward.ports() {
                forward_public(&mut part.translations6, &forward, ports, address, &target);
            }
        }
    }
    filter(lease, address.into(), part);
}

/// A lease as forwards: one, or, where a set of ports changes its numbers, one for each port.
fn pieces(lease: &Lease) -> Vec<Forward> {
    let Some(whole) = lease.as_forward(None) else {
        return Vec::new();
    };
    if lease.count == 1 || lease.keeps_numbers() {
        return vec![whole];
    }
    let pairs = (lease.external..=whole.port_end).zip(lease.internal..=u16::MAX);
    let piece = |(port, target_port)| Forward {
        port,
        port_end: port,
        target_port,
        ..whole.clone()
    };
    pairs.map(piece).collect()
}

/// Lets in none but the peers that a lease is for.
fn filter(lease: &Lease, address: IpAddr, part: &mut Part) {
    let (Some(protocol), Some(ports)) = (lease.protocol, lease.external_ports()) else {
        return;
    };
    if !lease.filters.is_empty() {
        let endpoint = Endpoint {
            address,
            protocol,
            ports,
        };
        // Overlapping ranges would make the whole table fail to load.
        let highest = Endpoint {
            ports: PortRange::new(ports.last(), u16::MAX).unwrap_or(ports),
            ..endpoint
        };
        let before = part.filters.range(..=highest).next_back();
        let overlaps = before.is_some_and(|(other, _)| {
            other.address == address && other.protocol == protocol && other.ports.overlaps(ports)
        });
        if !overlaps {
            part.filters.insert(endpoint, lease.filters.clone());
        }
    }
}

/// Where a lease is in force; nowhere while it is suspended.
pub(in crate::desired::derive) fn way_of<'a>(
    context: &Context<'a>,
    lease: &Lease,
) -> Option<Way<'a>> {
    let inputs = context.inputs;
    let ports = lease
        .external_ports()
        .filter(|_| lease.is_valid(inputs.now))?;
    let member = context.member_of(lease.device)?;
    let uplinks = &context.frame.uplinks;
    let (subnet, device) = (member.subnet, member.device);
    let local = lease.local_address(subnet, device, uplinks, inputs.facts)?;
    let is_hidden = lease.protocol == Some(Protocol::Udp)
        && ports.contains(inputs.state.settings.listen_port)
        || lease.conflict(local, inputs.facts).is_some();
    let uplink = holder(uplinks, local).filter(|_| !is_hidden)?;
    let place = match local {
        IpAddr::V4(local) => Place::V4 {
            local,
            target: target4(&member)?,
        },
        IpAddr::V6(local) => Place::V6 {
            local,
            target: target6(&member)?,
        },
    };
    Some(Way {
        ports,
        uplink,
        place,
    })
}
