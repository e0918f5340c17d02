//! Subnets: added, changed, removed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Draft, device, forward};
use crate::address;
use crate::change::{AddSubnet, Ipv6Wish, Patch, SetSubnet};
use crate::edit::{Key, Object};
use crate::name;
use crate::refusal::Refusal;
use crate::state::{Delegation, Device, Egress, Subnet, SubnetId};
use crate::uplink;

pub(super) fn add(draft: &mut Draft<'_>, wish: AddSubnet) -> Result<(), Refusal> {
    check_place(draft, &wish.name, wish.ipv4)?;
    let ipv6 = resolve_ipv6(draft, wish.ipv6, None, wish.force)?;
    let subnet = Subnet {
        id: SubnetId(draft.next_id()),
        name: wish.name,
        ipv4: wish.ipv4,
        ipv6,
        delivery: wish.delivery,
        egress: wish.egress,
        peers: wish.peers,
        host_access: wish.host_access,
        gateway_address: wish.gateway_address,
    };
    finish(draft, subnet)
}

/// Puts a subnet in a place that has to be free; whether its prefix can be reached is not asked.
pub(super) fn put(draft: &mut Draft<'_>, subnet: Subnet) -> Result<(), Refusal> {
    check_place(draft, &subnet.name, subnet.ipv4)?;
    let wish = subnet.ipv6.map_or(Ipv6Wish::None, Ipv6Wish::Prefix);
    resolve_ipv6(draft, wish, None, true)?;
    finish(draft, subnet)
}

fn check_place(draft: &Draft<'_>, name: &str, ipv4: Ipv4Net) -> Result<(), Refusal> {
    name::check("subnet", name)?;
    check_name_free(draft, name)?;
    check_ipv4(draft, ipv4)
}

fn finish(draft: &mut Draft<'_>, subnet: Subnet) -> Result<(), Refusal> {
    if let Some(egress) = &subnet.egress {
        check_egress(draft, egress)?;
    }
    draft.check_collisions(&subnet)?;
    draft.set(Object::Subnet(subnet));
    Ok(())
}

pub(super) fn set(draft: &mut Draft<'_>, reference: &str, patch: SetSubnet) -> Result<(), Refusal> {
    let before = draft.state.subnet(reference)?;
    let mut subnet = before.clone();
    let SetSubnet {
        name,
        ipv6,
        delivery,
        egress,
        peers,
        host_access,
        gateway_address,
        force,
    } = patch;
    if name.is_none()
        && ipv6.is_none()
        && delivery.is_none()
        && egress.is_keep()
        && peers.is_none()
        && host_access.is_none()
        && gateway_address.is_none()
    {
        return Err(Refusal::NothingToChange {
            kind: "subnet",
            reference: reference.to_owned(),
        });
    }
    if let Some(name) = name.filter(|name| *name != subnet.name) {
        name::check("subnet", &name)?;
        check_name_free(draft, &name)?;
        subnet.name = name;
    }
    if let Some(wish) = ipv6 {
        // A private prefix that is there already stays: asking twice must not renumber the devices.
        let keep = match &wish {
            Ipv6Wish::Private => subnet.local_ipv6().is_some(),
            Ipv6Wish::Prefix(prefix) => subnet.ipv6 == Some(*prefix),
            Ipv6Wish::None => subnet.ipv6.is_none(),
        };
        if !keep {
            subnet.ipv6 = resolve_ipv6(draft, wish, Some(subnet.id), force)?;
            check_dependents(draft, &subnet, before.ipv6)?;
            draft.check_collisions(&subnet)?;
        }
    }
    if let Some(delivery) = delivery {
        subnet.delivery = delivery;
    }
    if let Patch::Set(egress) = &egress
        && subnet.egress.as_ref() != Some(egress)
    {
        check_egress(draft, egress)?;
    }
    egress.apply(&mut subnet.egress);
    subnet.peers = peers.unwrap_or(subnet.peers);
    subnet.host_access = host_access.unwrap_or(subnet.host_access);
    subnet.gateway_address = gateway_address.unwrap_or(subnet.gateway_address);
    if subnet.ipv6 != before.ipv6 || subnet.egress != before.egress {
        forward::check_moved(draft, forward::Moved::Subnet(&subnet))?;
    }
    draft.set(Object::Subnet(subnet));
    Ok(())
}

pub(super) fn remove(draft: &mut Draft<'_>, reference: &str, force: bool) -> Result<(), Refusal> {
    let subnet = draft.state.subnet(reference)?;
    let devices: BTreeSet<_> = draft
        .state
        .devices_of(subnet.id)
        .map(|device| device.id)
        .collect();
    if !devices.is_empty() && !force {
        return Err(Refusal::SubnetInUse {
            subnet: subnet.name.clone(),
            devices: devices.len(),
        });
    }
    device::remove_with_dependents(draft, &devices);
    draft.remove(Key::Subnet(subnet.id));
    Ok(())
}

fn check_name_free(draft: &Draft<'_>, name: &str) -> Result<(), Refusal> {
    if draft
        .state
        .subnets
        .values()
        .any(|subnet| subnet.name == name)
    {
        return Err(Refusal::NameTaken {
            kind: "subnet",
            name: name.to_owned(),
        });
    }
    Ok(())
}

fn check_ipv4(draft: &Draft<'_>, network: Ipv4Net) -> Result<(), Refusal> {
    let refuse = |reason| Err(Refusal::Ipv4SubnetInvalid { network, reason });
    let address = network.network();
    if network.prefix_len() < 8 || network.prefix_len() > 30 {
        return refuse("its length must lie between /8 and /30");
    }
    if let Some(reason) = special_ipv4(network) {
        return refuse(reason);
    }
    if network.addr() != address {
        return refuse("it has host bits set; write the network itself");
    }
    check_overlap(draft, IpNet::V4(network), None)?;
    check_uplinks(draft, IpNet::V4(network))
}

/// Why an IPv4 network can hold no hosts of ours.
pub(super) fn special_ipv4(network: Ipv4Net) -> Option<&'static str> {
    let inside = |text: &str| {
        text.parse::<Ipv4Net>()
            .is_ok_and(|special| special.contains(&network) || network.contains(&special))
    };
    if inside("0.0.0.0/8") {
        Some("it holds unspecified addresses")
    } else if inside("127.0.0.0/8") {
        Some("it holds loopback addresses")
    } else if inside("169.254.0.0/16") {
        Some("it holds link-local addresses")
    } else if inside("224.0.0.0/4") || inside("240.0.0.0/4") {
        Some("it holds multicast or reserved addresses")
    } else {
        None
    }
}

/// Why an IPv6 prefix can hold no hosts of ours.
pub(super) fn special_ipv6(prefix: Ipv6Net) -> Option<&'static str> {
    let inside = |text: &str| {
        text.parse::<Ipv6Net>()
            .is_ok_and(|special| special.contains(&prefix) || prefix.contains(&special))
    };
    if inside("::ffff:0:0/96") {
        Some("it holds IPv4-mapped addresses")
    } else if prefix.contains(&std::net::Ipv6Addr::LOCALHOST) {
        Some("it holds the loopback address")
    } else if prefix.contains(&std::net::Ipv6Addr::UNSPECIFIED) {
        Some("it holds the unspecified address")
    } else if inside("fe80::/10") {
        Some("it holds link-local addresses")
    } else if inside("ff00::/8") {
        Some("it holds multicast addresses")
    } else {
        None
    }
}

fn resolve_ipv6(
    draft: &Draft<'_>,
    wish: Ipv6Wish,
    of: Option<SubnetId>,
    force: bool,
) -> Result<Option<Ipv6Net>, Refusal> {
    let prefix = match wish {
        Ipv6Wish::None => return Ok(None),
        Ipv6Wish::Private => {
            let [_, _, _, a, b, c, d, e, f, g, ..] = *draft.random;
            address::random_unique_local([a, b, c, d, e, f, g])
        }
        Ipv6Wish::Prefix(prefix) => prefix,
    };
    let refuse = |reason| Err(Refusal::Ipv6PrefixInvalid { prefix, reason });
    if let Some(reason) = special_ipv6(prefix) {
        return refuse(reason);
    }
    if prefix.prefix_len() < 32 || prefix.prefix_len() > 127 {
        return refuse("its length must lie between /32 and /127");
    }
    if prefix.addr() != prefix.network() {
        return refuse("it has host bits set; write the prefix itself");
    }
    check_overlap(draft, IpNet::V6(prefix), of)?;
    let global = !address::is_unique_local(prefix.network());
    if global && !force && draft.facts.default_interface(true).is_none() {
        return Err(Refusal::NoIpv6DefaultRoute { prefix });
    }
    Ok(Some(prefix))
}

/// Refuses a network that overlaps another of ours; a subnet's own delegations may lie inside its prefix.
pub(super) fn check_overlap(
    draft: &Draft<'_>,
    network: IpNet,
    of: Option<SubnetId>,
) -> Result<(), Refusal> {
    let meets = |other: &IpNet| network.contains(other) || other.contains(&network);
    for subnet in draft.state.subnets.values() {
        if Some(subnet.id) == of {
            continue;
        }
        let ipv6 = subnet.ipv6.map(IpNet::V6);
        let networks = [IpNet::V4(subnet.ipv4)].into_iter().chain(ipv6);
        if let Some(other) = networks.into_iter().find(meets) {
            return Err(Refusal::Overlap {
                network,
                other,
                owner: format!("subnet `{}`", subnet.name),
            });
        }
    }
    let is_met = |delegation: &&Delegation| {
        let device = draft.state.devices.get(&delegation.device);
        let own = of.is_some() && device.map(|device| device.subnet) == of;
        meets(&delegation.prefix)
            && !draft.revoked.contains(&delegation.id)
            && !(own && network.contains(&delegation.prefix))
    };
    let delegations = draft
        .state
        .delegations_between(network.network(), network.broadcast());
    let Some(delegation) = delegations.filter(is_met).min_by_key(|it| it.id) else {
        return Ok(());
    };
    let device = draft.state.devices.get(&delegation.device);
    let name = device.map_or("?", |device| device.name.as_str());
    Err(Refusal::Overlap {
        network,
        other: delegation.prefix,
        owner: format!("device `{name}` (delegation)"),
    })
}

/// Refuses a network that would take addresses from an uplink's own link, or from the host itself.
pub(super) fn check_uplinks(draft: &Draft<'_>, network: IpNet) -> Result<(), Refusal> {
    for uplink in &draft.uplinks {
        for other in &uplink.on_link {
            if network.contains(other) || other.contains(&network) {
                let owner = format!("uplink {}", uplink.name);
                return Err(Refusal::Overlap {
                    network,
                    other: *other,
                    owner,
                });
            }
        }
    }
    match draft.reserved_in(network) {
        Some((address, owner)) => Err(Refusal::Overlap {
            network,
            other: address.into(),
            owner: owner.to_owned(),
        }),
        None => Ok(()),
    }
}

pub(super) fn check_egress(draft: &Draft<'_>, egress: &Egress) -> Result<(), Refusal> {
    let local = match egress {
        Egress::Address(address) => draft.uplinks.iter().any(|uplink| uplink.has(*address)),
        Egress::Interface(_) => uplink::of_egress(&draft.uplinks, egress).is_some(),
    };
    if local {
        Ok(())
    } else {
        Err(Refusal::EgressUnknown {
            egress: egress.to_string(),
        })
    }
}

/// What hangs on the prefix of a subnet must fit the new one.
fn check_dependents(
    draft: &Draft<'_>,
    subnet: &Subnet,
    before: Option<Ipv6Net>,
) -> Result<(), Refusal> {
    let state = draft.state;
    let of_subnet = |id| {
        state
            .devices
            .get(&id)
            .filter(|device: &&Device| device.subnet == subnet.id)
    };
    for delegation in state.delegations.values() {
        let (IpNet::V6(net), Some(device)) = (delegation.prefix, of_subnet(delegation.device))
        else {
            continue;
        };
        let was_inside = before.is_some_and(|before| before.contains(&net));
        if was_inside && !subnet.ipv6.is_some_and(|prefix| prefix.contains(&net)) {
            return Err(Refusal::DelegationInvalid {
                prefix: net.to_string(),
                reason: format!(
                    "it belongs to device `{}` and does not lie in the new prefix; revoke it first (`adit device set {} --revoke {net}`)",
                    device.name, device.name
                ),
            });
        }
    }
    if subnet.ipv6.is_none() {
        let mut holders = state
            .pinholes
            .values()
            .filter_map(|pinhole| of_subnet(pinhole.device));
        if let Some(device) = holders.next() {
            return Err(Refusal::PinholeWithoutIpv6 {
                device: device.name.clone(),
            });
        }
    }
    if subnet.local_ipv6().is_none() {
        for forward in state.forwards.values() {
            if let Some(address @ IpAddr::V6(_)) = forward.address
                && let Some(device) = of_subnet(forward.device)
            {
                return Err(Refusal::ForwardIpv6Global {
                    device: device.name.clone(),
                    address,
                });
            }
        }
    }
    Ok(())
}
