//! Forwards: added and changed; the rules of which port may lead where.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Draft, check_ports, or_all};
use crate::change::{AddForward, SetForward};
use crate::configuration::Routing;
use crate::edit::Object;
use crate::name;
use crate::protocol::{PortRange, Protocol};
use crate::refusal::Refusal;
use crate::state::{Device, Forward, ForwardId, GatewayId, Origin};

pub(super) fn add(draft: &mut Draft<'_>, wish: AddForward) -> Result<(), Refusal> {
    name::check_label(&wish.label)?;
    if let Some(hostname) = wish.hostname {
        return Err(Refusal::HostnameUnsupported { hostname });
    }
    let range = check_ports(wish.port, wish.port_end)?;
    let device = draft.state.device(&wish.device)?.clone();
    let target_port = wish.target_port.unwrap_or(range.first());
    let forward = Forward {
        id: ForwardId(draft.next_id()),
        gateway: GatewayId::default(),
        address: wish.address,
        port: range.first(),
        port_end: range.last(),
        protocols: or_all(wish.protocols),
        device: device.id,
        target_port,
        label: wish.label,
        enabled: true,
        origin: Origin::Manual,
    };
    check(draft, &forward, &device)?;
    draft.set(Object::Forward(forward));
    Ok(())
}

pub(super) fn set(
    draft: &mut Draft<'_>,
    reference: &str,
    patch: SetForward,
) -> Result<(), Refusal> {
    let mut forward = draft.state.forward(reference)?.clone();
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
    forward.enabled = patch.enabled.unwrap_or(forward.enabled);
    let device = draft.state.device(&forward.device.to_string())?;
    check(draft, &forward, device)?;
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
    let subnet = draft
        .state
        .subnets
        .get(&device.subnet)
        .ok_or_else(|| Refusal::NotFound {
            kind: "subnet",
            reference: device.subnet.to_string(),
        })?;
    if device.routing == Routing::Split {
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
    let externals = forward.local_addresses(subnet, &draft.uplinks, draft.facts);
    if externals.is_empty() {
        return Err(Refusal::NoUplink {
            device: device.name.clone(),
        });
    }
    let settings = &draft.state.settings;
    if let Some(snat) =
        PortRange::new(settings.snat_first, settings.snat_last).filter(|snat| snat.overlaps(range))
    {
        return Err(Refusal::PortInSnatRange { range, snat });
    }
    for protocol in &forward.protocols {
        check_listeners(draft, &externals, range, *protocol)?;
        check_forwards(draft, forward, &externals, range, *protocol)?;
    }
    Ok(())
}

fn check_listeners(
    draft: &Draft<'_>,
    externals: &BTreeSet<IpAddr>,
    range: PortRange,
    protocol: Protocol,
) -> Result<(), Refusal> {
    let listen_port = draft.state.settings.listen_port;
    if protocol == Protocol::Udp && range.contains(listen_port) {
        return Err(Refusal::PortReserved {
            port: listen_port,
            protocol,
            listener: "WireGuard".to_owned(),
        });
    }
    let listener = draft.facts.listeners.iter().find(|listener| {
        let address = match listener.address {
            // A socket bound to :: takes IPv4 as well, unless it says otherwise.
            address if address.is_unspecified() => {
                address.is_ipv6() || externals.iter().any(IpAddr::is_ipv4)
            }
            address => externals.contains(&address),
        };
        listener.protocol == protocol && range.contains(listener.port) && address
    });
    match listener {
        Some(listener) => Err(Refusal::PortReserved {
            port: listener.port,
            protocol,
            listener: listener
                .process
                .clone()
                .unwrap_or_else(|| "a service of this host".to_owned()),
        }),
        None => Ok(()),
    }
}

fn check_forwards(
    draft: &Draft<'_>,
    forward: &Forward,
    externals: &BTreeSet<IpAddr>,
    range: PortRange,
    protocol: Protocol,
) -> Result<(), Refusal> {
    for other in draft
        .state
        .forwards
        .values()
        .filter(|other| other.id != forward.id)
    {
        let overlaps = other.protocols.contains(&protocol)
            && other.ports().is_some_and(|ports| ports.overlaps(range));
        if !overlaps {
            continue;
        }
        let Some(device) = draft.state.devices.get(&other.device) else {
            continue;
        };
        let Some(subnet) = draft.state.subnets.get(&device.subnet) else {
            continue;
        };
        let theirs = other.local_addresses(subnet, &draft.uplinks, draft.facts);
        if !theirs.is_disjoint(externals) {
            let ports = other
                .ports()
                .map(|ports| ports.to_string())
                .unwrap_or_default();
            let other = format!(
                "forward {} ({ports}/{protocol} to device `{}`)",
                other.id, device.name
            );
            return Err(Refusal::PortTaken {
                range,
                protocol,
                other,
            });
        }
    }
    Ok(())
}
