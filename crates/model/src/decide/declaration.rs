//! A declaration applied: which of its objects are those that are there, which are new, and what goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use super::replacement::{Placement, Refused, Replacement};
use super::{Draft, Random};
use crate::address;
use crate::configuration::Routing;
use crate::declaration::{
    Declaration, DeclaredDevice, DeclaredForward, DeclaredPinhole, DeclaredSettings,
    DeclaredSubnet, DeclaredUplink, Ipv6,
};
use crate::edit::Key;
use crate::hostname;
use crate::key::{PresharedKey, PublicKey};
use crate::protocol::Protocol;
use crate::refusal::Refusal;
use crate::state::{
    Device, DeviceId, DeviceKind, Forward, ForwardId, GatewayId, Origin, Pinhole, PinholeId,
    PortPolicy, Settings, Subnet, SubnetId, Uplink, UplinkId,
};

pub(super) fn apply(draft: &mut Draft<'_>, declaration: Declaration) -> Result<(), Refusal> {
    let replacement = resolve(draft, declaration);
    let decided = replacement.and_then(|replacement| replacement.decide(draft));
    decided.map_err(|Refused { object, refusal }| Refusal::DeclarationRefused {
        object,
        reason: refusal.to_string(),
        hint: refusal.hint(),
    })
}

/// Names the objects of a declaration by the ids of those that they are.
fn resolve(draft: &mut Draft<'_>, declaration: Declaration) -> Result<Replacement, Refused> {
    let Declaration {
        settings,
        uplink,
        subnet,
        device,
        forward,
        pinhole,
    } = declaration;
    let mut removed = BTreeSet::new();
    let uplinks = uplinks(draft, uplink, &mut removed);
    let subnets = subnets(draft, subnet, &mut removed);
    let devices = devices(draft, device, &subnets, &mut removed)?;
    let names: BTreeMap<&str, DeviceId> = devices
        .iter()
        .map(|placement| (placement.device.name.as_str(), placement.device.id))
        .collect();
    let forwards = forwards(draft, forward, &names, &mut removed)?;
    let pinholes = pinholes(draft, pinhole, &names, &mut removed)?;
    Ok(Replacement {
        removed,
        settings: Some(settings_of(settings, &draft.state.settings)),
        uplinks,
        subnets,
        devices,
        forwards,
        pinholes,
    })
}

fn settings_of(declared: DeclaredSettings, before: &Settings) -> Settings {
    let DeclaredSettings {
        listen_port,
        dns_servers,
        snat_ports,
        mtu,
        clamp_mtu,
        connection_limit,
        lease_minimum,
        lease_maximum,
    } = declared;
    Settings {
        listen_port,
        dns_servers,
        snat_first: snat_ports.first,
        snat_last: snat_ports.last,
        mtu,
        clamp_mtu,
        connection_limit,
        lease_minimum,
        lease_maximum,
        gateway_key: before.gateway_key,
    }
}

/// An uplink is the one with the same name. One of which nothing is said is left as it is.
fn uplinks(
    draft: &mut Draft<'_>,
    declared: BTreeMap<String, DeclaredUplink>,
    removed: &mut BTreeSet<Key>,
) -> Vec<Uplink> {
    let state = draft.state;
    for uplink in state.uplinks.values() {
        let says = uplink.advertised.is_some() || uplink.endpoint.is_some();
        if says && !declared.contains_key(&uplink.name) {
            removed.insert(Key::Uplink(uplink.id));
        }
    }
    let mut uplinks = Vec::new();
    for (name, declared) in declared {
        let stored = state.uplink(&name).map(|uplink| uplink.id);
        if stored.is_none() && declared == DeclaredUplink::default() {
            continue;
        }
        let DeclaredUplink {
            advertised,
            endpoint,
        } = declared;
        uplinks.push(Uplink {
            id: stored.unwrap_or_else(|| UplinkId(draft.next_id())),
            gateway: GatewayId::default(),
            name,
            advertised,
            endpoint,
        });
    }
    uplinks
}

/// A subnet is the one with the same name, else one with the same IPv4 network, which then gets another name.
fn subnets(
    draft: &mut Draft<'_>,
    declared: BTreeMap<String, DeclaredSubnet>,
    removed: &mut BTreeSet<Key>,
) -> Vec<Subnet> {
    let state = draft.state;
    let mut free: BTreeMap<SubnetId, &Subnet> =
        state.subnets.iter().map(|it| (*it.0, it.1)).collect();
    free.retain(|_, subnet| !declared.contains_key(&subnet.name));
    let mut subnets = Vec::new();
    for (name, declared) in declared {
        let DeclaredSubnet {
            ipv4,
            ipv6,
            delivery,
            egress,
            peers,
            host_access,
            gateway_address,
        } = declared;
        let named = state.subnets.values().find(|subnet| subnet.name == name);
        let before = named.or_else(|| {
            let renamed = free.values().find(|subnet| subnet.ipv4 == ipv4)?.id;
            free.remove(&renamed)
        });
        let id = match before {
            Some(before) => before.id,
            None => SubnetId(draft.next_id()),
        };
        let ipv6 = match (ipv6, before) {
            (Some(Ipv6::None), _) => None,
            (Some(Ipv6::Prefix(prefix)), _) => Some(prefix),
            (None, Some(before)) => before.ipv6,
            (None, None) => {
                let [a, b, c, d, e, f, g, ..] = expand(draft.random, "prefix", id.0);
                Some(address::random_unique_local([a, b, c, d, e, f, g]))
            }
        };
        subnets.push(Subnet {
            id,
            name,
            ipv4,
            ipv6,
            delivery,
            egress,
            peers,
            host_access,
            gateway_address,
        });
    }
    removed.extend(free.into_keys().map(Key::Subnet));
    subnets
}

/// A device is the one with the same key, which may get another name; else the one with the same name, which gets another key.
fn devices(
    draft: &mut Draft<'_>,
    declared: BTreeMap<String, DeclaredDevice>,
    subnets: &[Subnet],
    removed: &mut BTreeSet<Key>,
) -> Result<Vec<Placement>, Refused> {
    let state = draft.state;
    let mut claimed: BTreeMap<DeviceId, String> = BTreeMap::new();
    let mut keys: BTreeMap<PublicKey, &str> = BTreeMap::new();
    for (name, declared) in &declared {
        let Some(key) = declared.public_key else {
            continue;
        };
        if let Some(other) = keys.insert(key, name) {
            let device = other.to_owned();
            return Err(refused("device", name, Refusal::KeyTaken { device }));
        }
        if let Some(device) = state.device_with_key(key) {
            claimed.insert(device.id, name.clone());
        }
    }
    let by_key: BTreeMap<&str, DeviceId> = claimed
        .iter()
        .map(|(id, name)| (name.as_str(), *id))
        .collect();
    let mut found: BTreeMap<&str, DeviceId> = by_key.clone();
    for name in declared.keys() {
        let named = state.device(name).ok().map(|device| device.id);
        if let Some(id) = named.filter(|id| !claimed.contains_key(id)) {
            found.entry(name).or_insert(id);
        }
    }
    let kept: BTreeSet<DeviceId> = found.values().copied().collect();
    let gone = state.devices.keys().filter(|id| !kept.contains(id));
    removed.extend(gone.map(|id| Key::Device(*id)));
    let mut placements = Vec::new();
    for (name, declared) in &declared {
        let before = found
            .get(name.as_str())
            .and_then(|id| state.devices.get(id));
        let placement = device(draft, name, declared, before, subnets);
        placements.push(placement.map_err(|refusal| refused("device", name, refusal))?);
    }
    Ok(placements)
}

fn device(
    draft: &mut Draft<'_>,
    name: &str,
    declared: &DeclaredDevice,
    before: Option<&Device>,
    subnets: &[Subnet],
) -> Result<Placement, Refusal> {
    let DeclaredDevice {
        subnet,
        kind,
        routing,
        ipv4,
        public_key,
        egress,
        enabled,
        expires,
        delegations,
        auto_ports,
        lease_quota,
        request_rate,
        auto_port_ranges,
        third_party,
        all_ports,
    } = declared.clone();
    let subnet = match (subnet, subnets) {
        (Some(reference), subnets) => {
            let named = subnets.iter().find(|subnet| subnet.name == reference);
            let kind = "subnet";
            named.ok_or(Refusal::NotFound { kind, reference })?
        }
        (None, [only]) => only,
        (None, several) => {
            let count = several.len();
            return Err(Refusal::SubnetUnclear { count });
        }
    };
    let known =
        before.filter(|before| before.subnet == subnet.id && subnet.ipv4.contains(&before.ipv4));
    let ipv4 = ipv4.or(known.map(|before| before.ipv4));
    let id = match before {
        Some(before) => before.id,
        None => DeviceId(draft.next_id()),
    };
    let public_key = public_key.or(before.map(|before| before.public_key));
    let public_key = public_key.ok_or_else(|| Refusal::KeyInvalid {
        reason: "none is given, and the device is new".to_owned(),
    })?;
    // As with `rekey`: who had the old key had this one, too.
    let preshared_key = before
        .filter(|before| before.public_key == public_key)
        .map_or_else(
            || PresharedKey::from_bytes(expand(draft.random, "preshared key", id.0)),
            |before| before.preshared_key,
        );
    let device = Device {
        id,
        subnet: subnet.id,
        name: name.to_owned(),
        kind,
        routing: routing.unwrap_or(match kind {
            DeviceKind::Server => Routing::Inbound,
            DeviceKind::Client => Routing::Full,
        }),
        ipv4: ipv4.unwrap_or(Ipv4Addr::UNSPECIFIED),
        public_key,
        preshared_key,
        egress,
        enabled,
        expires: expires.map(|time| time.0),
        port_policy: PortPolicy {
            auto_ports,
            lease_quota,
            request_rate,
            ranges: (auto_port_ranges.iter())
                .map(|span| (span.first, span.last))
                .collect(),
            third_party,
            all_ports,
        },
    };
    super::device::check_port_policy(&device.port_policy)?;
    Ok(Placement {
        device,
        choose: ipv4.is_none(),
        delegations: delegations.into_iter().collect::<BTreeSet<IpNet>>(),
    })
}

/// A forward is one that is the same in all, else one of the same address, ports and protocols.
fn forwards(
    draft: &mut Draft<'_>,
    declared: Vec<DeclaredForward>,
    names: &BTreeMap<&str, DeviceId>,
    removed: &mut BTreeSet<Key>,
) -> Result<Vec<Forward>, Refused> {
    type Place = (Option<IpAddr>, u16, u16, BTreeSet<Protocol>, Option<String>);
    let state = draft.state;
    let place = |forward: &Forward| -> Place {
        let protocols = forward.protocols.clone();
        let hostname = forward.hostname.clone();
        let Forward {
            address,
            port,
            port_end,
            ..
        } = *forward;
        (address, port, port_end, protocols, hostname)
    };
    let mut there: BTreeMap<Place, Vec<ForwardId>> = BTreeMap::new();
    let manual = |forward: &&Forward| forward.origin == Origin::Manual;
    for forward in state.forwards.values().filter(manual) {
        there.entry(place(forward)).or_default().push(forward.id);
    }
    let mut forwards = Vec::new();
    for declared in declared {
        let DeclaredForward {
            address,
            port,
            port_end,
            protocols,
            device,
            target_port,
            hostname,
            proxy_protocol,
            label,
            enabled,
        } = declared;
        let id = names.get(device.as_str());
        let id = id.ok_or_else(|| no_device("forward", port, &device))?;
        let hostname = hostname.as_deref().map(hostname::parse).transpose();
        let hostname = hostname.map_err(|refusal| Refused {
            object: format!("forward {port}"),
            refusal,
        })?;
        let mut forward = Forward {
            id: ForwardId(0),
            gateway: GatewayId::default(),
            address,
            port,
            port_end: port_end.unwrap_or(port),
            protocols: super::or_all(protocols),
            device: *id,
            target_port: target_port.unwrap_or(port),
            hostname,
            proxy_protocol,
            label,
            enabled,
            origin: Origin::Manual,
        };
        // Of two in one place, which no decision makes, the one that is the same is meant.
        let here = there.entry(place(&forward)).or_default();
        let same = here.iter().position(|id| {
            let before = state.forwards.get(id);
            before.is_some_and(|before| before.device == forward.device)
        });
        forward.id = if here.is_empty() {
            ForwardId(draft.next_id())
        } else {
            here.remove(same.unwrap_or(0))
        };
        forwards.push(forward);
    }
    removed.extend(there.into_values().flatten().map(Key::Forward));
    Ok(forwards)
}

/// A pinhole is one of the same device, ports and protocols.
fn pinholes(
    draft: &mut Draft<'_>,
    declared: Vec<DeclaredPinhole>,
    names: &BTreeMap<&str, DeviceId>,
    removed: &mut BTreeSet<Key>,
) -> Result<Vec<Pinhole>, Refused> {
    type Place = (DeviceId, u16, u16, BTreeSet<Protocol>);
    let state = draft.state;
    let place = |pinhole: &Pinhole| -> Place {
        let protocols = pinhole.protocols.clone();
        (pinhole.device, pinhole.port, pinhole.port_end, protocols)
    };
    let mut there: BTreeMap<Place, Vec<PinholeId>> = BTreeMap::new();
    let manual = |pinhole: &&Pinhole| pinhole.origin == Origin::Manual;
    for pinhole in state.pinholes.values().filter(manual) {
        there.entry(place(pinhole)).or_default().push(pinhole.id);
    }
    let mut pinholes = Vec::new();
    for declared in declared {
        let DeclaredPinhole {
            device,
            port,
            port_end,
            protocols,
            label,
            enabled,
        } = declared;
        let id = names.get(device.as_str());
        let id = id.ok_or_else(|| no_device("pinhole", port, &device))?;
        let mut pinhole = Pinhole {
            id: PinholeId(0),
            gateway: GatewayId::default(),
            device: *id,
            port,
            port_end: port_end.unwrap_or(port),
            protocols: super::or_all(protocols),
            label,
            enabled,
            origin: Origin::Manual,
        };
        let here = there.entry(place(&pinhole)).or_default();
        pinhole.id = match here.pop() {
            Some(id) => id,
            None => PinholeId(draft.next_id()),
        };
        pinholes.push(pinhole);
    }
    removed.extend(there.into_values().flatten().map(Key::Pinhole));
    Ok(pinholes)
}

fn no_device(kind: &str, port: u16, device: &str) -> Refused {
    Refused {
        object: format!("{kind} {port}"),
        refusal: Refusal::NotFound {
            kind: "device",
            reference: device.chars().take(100).collect(),
        },
    }
}

fn refused(kind: &str, name: &str, refusal: Refusal) -> Refused {
    Refused {
        object: format!("{kind} `{name}`"),
        refusal,
    }
}

/// Random bytes for one of many objects, none of which tells anything of another's.
fn expand(random: &Random, purpose: &str, id: u64) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(random);
    hash.update(id.to_be_bytes());
    hash.update(purpose.as_bytes());
    hash.finalize().into()
}
