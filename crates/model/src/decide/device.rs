//! Devices: added, changed, given another key, removed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::occupancy::Occupancy;
use super::{Draft, check_ports, delegation, forward, subnet};
use crate::address;
use crate::change::{AddDevice, DelegationWish, Patch, SetDevice};
use crate::configuration::Routing;
use crate::edit::{Key, Object};
use crate::key::{PresharedKey, PublicKey};
use crate::name;
use crate::refusal::Refusal;
use crate::state::{Device, DeviceId, DeviceKind, Egress, PortPolicy, Subnet};

pub(super) fn add(draft: &mut Draft<'_>, wish: AddDevice) -> Result<(), Refusal> {
    let subnet = resolve_subnet(draft, wish.subnet.as_deref())?.id;
    check_expiry(draft, &wish.name, wish.expires)?;
    let mut psk = [0; 32];
    psk.copy_from_slice(&draft.random[32..]);
    let device = Device {
        id: DeviceId(draft.next_id()),
        subnet,
        name: wish.name,
        kind: wish.kind,
        routing: wish.routing.unwrap_or(match wish.kind {
            DeviceKind::Server => Routing::Inbound,
            DeviceKind::Client => Routing::Full,
        }),
        ipv4: wish.ipv4.unwrap_or(Ipv4Addr::UNSPECIFIED),
        public_key: wish.public_key,
        preshared_key: PresharedKey::from_bytes(psk),
        egress: wish.egress,
        enabled: true,
        expires: wish.expires,
        port_policy: wish.port_policy,
    };
    check_port_policy(&device.port_policy)?;
    put(draft, device, wish.ipv4.is_none(), &wish.delegate)
}

/// Puts a device in a place that has to be free; `choose` an address for it.
pub(super) fn put(
    draft: &mut Draft<'_>,
    mut device: Device,
    choose: bool,
    delegate: &[DelegationWish],
) -> Result<(), Refusal> {
    name::check("device", &device.name)?;
    check_name_free(draft, &device.name)?;
    let subnet = subnet_of(draft, &device)?;
    check_key(draft, &device.public_key, None)?;
    if let Some(egress) = &device.egress {
        subnet::check_egress(draft, egress)?;
    }
    let mut occupied = Occupancy::of(draft, &subnet, None);
    device.ipv4 = if choose {
        lowest_free(draft, &subnet, &occupied)?
    } else {
        check_ipv4(draft, &subnet, &occupied, device.ipv4, None)?
    };
    if let Some(ipv6) = subnet.ipv6_of(device.ipv4) {
        occupied.take_host(ipv6, format!("device `{}`", device.name));
    }
    draft.set(Object::Device(device.clone()));
    delegation::add(draft, &subnet, &device, &mut occupied, delegate)
}

pub(super) fn set(draft: &mut Draft<'_>, reference: &str, patch: SetDevice) -> Result<(), Refusal> {
    let mut device = draft.state.device(reference)?.clone();
    if patch == SetDevice::default() {
        return Err(Refusal::NothingToChange {
            kind: "device",
            reference: reference.to_owned(),
        });
    }
    let SetDevice {
        name,
        kind,
        routing,
        ipv4,
        egress,
        enabled,
        expires,
        delegate,
        revoke,
        auto_ports,
        lease_quota,
        request_rate,
        auto_port_ranges,
        third_party,
        all_ports,
    } = patch;
    let subnet = subnet_of(draft, &device)?;
    if let Some(name) = name.filter(|name| *name != device.name) {
        name::check("device", &name)?;
        check_name_free(draft, &name)?;
        device.name = name;
    }
    if let Some(kind) = kind {
        // What it may is as usual for the kind again, whether it had it already or not.
        device.kind = kind;
        device.port_policy = PortPolicy::default();
    }
    let policy = &mut device.port_policy;
    auto_ports.apply(&mut policy.auto_ports);
    lease_quota.apply(&mut policy.lease_quota);
    request_rate.apply(&mut policy.request_rate);
    match auto_port_ranges {
        Patch::Keep => {}
        Patch::Clear => policy.ranges.clear(),
        Patch::Set(ranges) => policy.ranges = ranges,
    }
    policy.third_party = third_party.unwrap_or(policy.third_party);
    policy.all_ports = all_ports.unwrap_or(policy.all_ports);
    check_port_policy(policy)?;
    if let Some(routing) = routing {
        let mut forwards = draft.state.forwards_of(device.id);
        let is_forwarded = forwards.any(|forward| forward.hostname.is_none());
        if routing == Routing::Split && is_forwarded {
            return Err(Refusal::SplitTunnel {
                device: device.name,
            });
        }
        device.routing = routing;
    }
    if !egress.is_keep() {
        set_egress(draft, &mut device, egress)?;
    }
    device.enabled = enabled.unwrap_or(device.enabled);
    if let Patch::Set(expires) = expires
        && device.expires != Some(expires)
    {
        check_expiry(draft, &device.name, Some(expires))?;
    }
    expires.apply(&mut device.expires);
    delegation::revoke(draft, &device, &revoke)?;
    let ipv4 = ipv4.filter(|ipv4| *ipv4 != device.ipv4);
    if ipv4.is_none() && delegate.is_empty() {
        draft.set(Object::Device(device));
        return Ok(());
    }
    let mut occupied = Occupancy::of(draft, &subnet, Some(device.id));
    if let Some(ipv4) = ipv4 {
        device.ipv4 = check_ipv4(draft, &subnet, &occupied, ipv4, Some(device.id))?;
    }
    if let Some(ipv6) = subnet.ipv6_of(device.ipv4) {
        occupied.take_host(ipv6, format!("device `{}`", device.name));
    }
    draft.set(Object::Device(device.clone()));
    delegation::add(draft, &subnet, &device, &mut occupied, &delegate)
}

/// Refuses a policy that cannot be.
pub(super) fn check_port_policy(policy: &PortPolicy) -> Result<(), Refusal> {
    let refuse = |setting, reason| Err(Refusal::SettingInvalid { setting, reason });
    if policy.ranges.len() > PortPolicy::RANGES {
        let reason = format!("there are more than {} ranges", PortPolicy::RANGES);
        return refuse("auto-port-range", reason);
    }
    for (first, last) in &policy.ranges {
        check_ports(*first, *last)?;
    }
    if policy.lease_quota.is_some_and(|quota| quota > 65_536) {
        return refuse("lease-quota", "it is more than 65536".to_owned());
    }
    if let Some(rate) = policy.request_rate
        && !(1..=1_000_000).contains(&rate)
    {
        let reason = format!("{rate} does not lie between 1 and 1000000");
        return refuse("request-rate", reason);
    }
    Ok(())
}

fn set_egress(
    draft: &Draft<'_>,
    device: &mut Device,
    egress: Patch<Egress>,
) -> Result<(), Refusal> {
    let before = device.egress.clone();
    egress.apply(&mut device.egress);
    if device.egress == before {
        return Ok(());
    }
    if let Some(egress) = &device.egress {
        subnet::check_egress(draft, egress)?;
    }
    forward::check_moved(draft, forward::Moved::Device(device))
}

pub(super) fn rekey(
    draft: &mut Draft<'_>,
    reference: &str,
    public_key: PublicKey,
) -> Result<(), Refusal> {
    let mut device = draft.state.device(reference)?.clone();
    check_key(draft, &public_key, Some(device.id))?;
    let mut psk = [0; 32];
    psk.copy_from_slice(&draft.random[32..]);
    device.public_key = public_key;
    device.preshared_key = PresharedKey::from_bytes(psk);
    draft.set(Object::Device(device));
    Ok(())
}

pub(super) fn remove(draft: &mut Draft<'_>, reference: &str) -> Result<(), Refusal> {
    let id = draft.state.device(reference)?.id;
    remove_with_dependents(draft, &[id].into());
    Ok(())
}

/// Removes devices and what exists only for them.
pub(super) fn remove_with_dependents(draft: &mut Draft<'_>, ids: &BTreeSet<DeviceId>) {
    let state = draft.state;
    let forwards: BTreeSet<_> = ids
        .iter()
        .flat_map(|id| state.forwards_of(*id))
        .map(|forward| Key::Forward(forward.id))
        .collect();
    let pinholes: BTreeSet<_> = ids
        .iter()
        .flat_map(|id| state.pinholes_of(*id))
        .map(|pinhole| Key::Pinhole(pinhole.id))
        .collect();
    let delegations: BTreeSet<_> = ids
        .iter()
        .flat_map(|id| state.delegations_of(*id))
        .map(|delegation| Key::Delegation(delegation.id))
        .collect();
    let tokens = state
        .tokens
        .values()
        .filter(|token| token.device.is_some_and(|device| ids.contains(&device)))
        .map(|token| Key::Token(token.id));
    let devices = ids.iter().map(|id| Key::Device(*id));
    let dependents = (forwards.into_iter().chain(pinholes).chain(delegations)).chain(tokens);
    for key in dependents.chain(devices) {
        draft.remove(key);
    }
}

fn resolve_subnet(draft: &Draft<'_>, reference: Option<&str>) -> Result<Subnet, Refusal> {
    if let Some(reference) = reference {
        return draft.state.subnet(reference).cloned();
    }
    let mut subnets = draft.state.subnets.values();
    match (subnets.next(), subnets.next()) {
        (Some(subnet), None) => Ok(subnet.clone()),
        (None, _) | (Some(_), Some(_)) => Err(Refusal::SubnetUnclear {
            count: draft.state.subnets.len(),
        }),
    }
}

fn subnet_of(draft: &Draft<'_>, device: &Device) -> Result<Subnet, Refusal> {
    draft
        .state
        .subnets
        .get(&device.subnet)
        .cloned()
        .ok_or_else(|| Refusal::NotFound {
            kind: "subnet",
            reference: device.subnet.to_string(),
        })
}

fn check_name_free(draft: &Draft<'_>, name: &str) -> Result<(), Refusal> {
    if draft.state.has_device_named(name) {
        return Err(Refusal::NameTaken {
            kind: "device",
            name: name.to_owned(),
        });
    }
    Ok(())
}

fn check_key(draft: &Draft<'_>, key: &PublicKey, own: Option<DeviceId>) -> Result<(), Refusal> {
    if key.as_bytes() == &[0; 32] {
        return Err(Refusal::KeyInvalid {
            reason: "it is all zeros".to_owned(),
        });
    }
    if draft.facts.gateway_key == Some(*key) {
        return Err(Refusal::KeyInvalid {
            reason: "it is the gateway's own".to_owned(),
        });
    }
    let other = draft
        .state
        .devices_with_key(*key)
        .find(|device| Some(device.id) != own);
    match other {
        Some(device) => Err(Refusal::KeyTaken {
            device: device.name.clone(),
        }),
        None => Ok(()),
    }
}

fn check_expiry(draft: &Draft<'_>, name: &str, expires: Option<u64>) -> Result<(), Refusal> {
    if expires.is_some_and(|expires| expires <= draft.now) {
        return Err(Refusal::ExpiryPassed {
            name: name.to_owned(),
        });
    }
    Ok(())
}

/// An address that was asked for: a host of the subnet, nobody else's, and neither is its IPv6 counterpart. `occupied`
/// is without the device itself.
fn check_ipv4(
    draft: &Draft<'_>,
    subnet: &Subnet,
    occupied: &Occupancy<'_>,
    address: Ipv4Addr,
    own: Option<DeviceId>,
) -> Result<Ipv4Addr, Refusal> {
    if !address::is_host(subnet.ipv4, address) {
        return Err(Refusal::AddressOutside {
            address,
            network: subnet.ipv4,
        });
    }
    let other = if address == subnet.gateway_ipv4() {
        Some("the gateway".to_owned())
    } else if let Some(owner) = draft.reserved.get(&IpAddr::V4(address)) {
        Some(owner.clone())
    } else {
        draft
            .state
            .devices_in(subnet.id, address..=address)
            .find(|device| Some(device.id) != own)
            .map(|device| format!("device `{}`", device.name))
    };
    if let Some(other) = other {
        return Err(Refusal::AddressTaken { address, other });
    }
    let ipv6 = subnet.ipv6_of(address);
    match ipv6.and_then(|ipv6| Some((ipv6, occupied.owner(ipv6)?))) {
        Some((ipv6, owner)) => Err(Refusal::AddressCollision {
            address,
            ipv6,
            other: owner,
        }),
        None => Ok(address),
    }
}

fn lowest_free(
    draft: &Draft<'_>,
    subnet: &Subnet,
    occupied: &Occupancy<'_>,
) -> Result<Ipv4Addr, Refusal> {
    // What a change that awaits its confirmation left must be free when it is taken back.
    let awaiting = draft.state.confirmation.as_ref();
    let undo = awaiting.map_or(&[][..], |awaiting| &awaiting.undo);
    let left: BTreeSet<Ipv4Addr> = undo
        .iter()
        .filter_map(|undo| match &undo.before {
            Some(Object::Device(device)) => Some(device.ipv4),
            Some(_) | None => None,
        })
        .collect();
    let free = occupied.lowest_free_host(draft.state, subnet, |address| {
        draft.reserved.contains_key(&IpAddr::V4(address)) || left.contains(&address)
    });
    free.ok_or_else(|| {
        // All host addresses but the gateway's.
        let room = (1_usize << (32 - subnet.ipv4.prefix_len())).saturating_sub(3);
        let is_full = draft.state.devices_of(subnet.id).count() >= room;
        let network = match subnet.ipv6 {
            Some(prefix) if !is_full => prefix.into(),
            Some(_) | None => subnet.ipv4.into(),
        };
        Refusal::AddressesExhausted {
            subnet: subnet.name.clone(),
            network,
        }
    })
}
