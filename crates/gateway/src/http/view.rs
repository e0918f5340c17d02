//! What is shown of a snapshot's objects.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use adit_api::timestamp::Timestamp;
use adit_api::types::device::{Device, DeviceDetail};
use adit_api::types::forward::Forward;
use adit_api::types::lease::Lease;
use adit_api::types::pinhole::Pinhole;
use adit_api::types::settings::{Settings, SettingsMtu};
use adit_api::types::subnet::{EffectiveDelivery, Subnet};
use adit_api::types::token::Token;
use adit_api::types::uplink::Uplink;
use adit_model::edit::Key;
use adit_model::protocol::{PortRange, Protocol};
use adit_model::state::{Opening, Origin};
use adit_model::{state, uplink};
use ipnet::IpNet;

use crate::control::Snapshot;

pub(super) fn device(snapshot: &Snapshot, device: &state::Device) -> Device {
    let delegations = snapshot.state.delegations_of(device.id);
    let prefixes = delegations.map(|delegation| delegation.prefix).collect();
    device_with(snapshot, device, prefixes)
}

fn device_with(snapshot: &Snapshot, device: &state::Device, delegations: Vec<IpNet>) -> Device {
    let peer = snapshot.peers.get(&device.public_key);
    let last_handshake = peer.and_then(|peer| peer.last_handshake);
    let subnet = snapshot.state.subnets.get(&device.subnet);
    Device {
        id: device.id.0,
        version: version(snapshot, Key::Device(device.id)),
        name: device.name.clone(),
        subnet: subnet.map_or_else(|| device.subnet.to_string(), |subnet| subnet.name.clone()),
        kind: device.kind,
        routing: device.routing,
        ipv4: device.ipv4,
        ipv6: subnet.and_then(|subnet| subnet.ipv6_of(device.ipv4)),
        public_key: device.public_key,
        delegations,
        egress: device.egress.as_ref().map(ToString::to_string),
        enabled: device.enabled,
        expires: device.expires.map(Timestamp),
        auto_ports: device.has_auto_ports(),
        lease_quota: device.lease_quota(),
        request_rate: device.request_rate(),
        auto_port_ranges: (device.auto_port_ranges().iter())
            .map(|range| format!("{}-{}", range.first(), range.last()))
            .collect(),
        third_party: device.port_policy.third_party,
        all_ports: device.port_policy.all_ports,
        connected: peer.is_some_and(|peer| peer.is_connected(snapshot.now)),
        last_handshake: last_handshake.map(Timestamp::from),
        endpoint: peer.and_then(|peer| peer.endpoint),
        received_bytes: peer.map_or(0, |peer| peer.received),
        sent_bytes: peer.map_or(0, |peer| peer.sent),
    }
}

/// Several devices; delegations are looked up once, not once for each device.
pub(super) fn devices(snapshot: &Snapshot, shown: &[&state::Device]) -> Vec<Device> {
    let mut delegations: BTreeMap<state::DeviceId, Vec<IpNet>> = BTreeMap::new();
    for delegation in snapshot.state.delegations.values() {
        let prefixes = delegations.entry(delegation.device).or_default();
        prefixes.push(delegation.prefix);
    }
    let view = |device: &&state::Device| {
        let prefixes = delegations.remove(&device.id).unwrap_or_default();
        device_with(snapshot, device, prefixes)
    };
    shown.iter().map(view).collect()
}

/// What a view of something that belongs to a device tells of besides.
pub(super) fn keys_of_device(state: &state::State, device: state::DeviceId) -> Vec<Key> {
    let subnet = state.devices.get(&device).map(|device| device.subnet);
    let subnet = subnet.map(Key::Subnet);
    [Key::Device(device)].into_iter().chain(subnet).collect()
}

pub(super) fn device_detail(snapshot: &Snapshot, shown: &state::Device) -> DeviceDetail {
    let state = &snapshot.state;
    DeviceDetail {
        device: device(snapshot, shown),
        forwards: state
            .forwards
            .values()
            .filter(|forward| forward.device == shown.id)
            .map(|forward| forward.id.0)
            .collect(),
        pinholes: state
            .pinholes
            .values()
            .filter(|pinhole| pinhole.device == shown.id)
            .map(|pinhole| pinhole.id.0)
            .collect(),
        leases: (state.leases_of(shown.id))
            .filter(|lease| lease.is_open())
            .map(|lease| lease.id.0)
            .collect(),
    }
}

pub(super) fn subnet(snapshot: &Snapshot, subnet: &state::Subnet) -> Subnet {
    let uplinks = &snapshot.uplinks;
    let effective_delivery = subnet.global_ipv6().map(|_| {
        if uplink::on_link_for(uplinks, subnet).is_some() {
            EffectiveDelivery::OnLink
        } else {
            EffectiveDelivery::Routed
        }
    });
    Subnet {
        id: subnet.id.0,
        version: version(snapshot, Key::Subnet(subnet.id)),
        name: subnet.name.clone(),
        ipv4: subnet.ipv4,
        ipv6: subnet.ipv6,
        delivery: subnet.delivery,
        effective_delivery,
        proven_delivery: uplink::proven(uplinks, &snapshot.facts, subnet),
        uplink: uplink::endpoint_of(uplinks, &snapshot.facts, subnet)
            .map(|uplink| uplink.name.clone()),
        egress: subnet.egress.as_ref().map(ToString::to_string),
        gateway_ipv4: subnet.gateway_ipv4(),
        gateway_ipv6: subnet.gateway_ipv6(),
        peers: subnet.peers,
        host_access: subnet.host_access,
        gateway_address: subnet.gateway_address,
        devices: snapshot.state.devices_of(subnet.id).count(),
    }
}

pub(super) fn uplink(snapshot: &Snapshot, shown: &uplink::Uplink) -> Uplink {
    let facts = &snapshot.facts;
    let best = facts
        .default_interface(false)
        .or_else(|| facts.default_interface(true));
    Uplink {
        id: shown.id,
        version: version(snapshot, Key::Uplink(state::UplinkId(shown.id))),
        name: shown.name.clone(),
        local: shown.local_ipv4(),
        local_ipv6: shown.local_ipv6(),
        advertised: shown.advertised,
        endpoint: shown.endpoint.clone(),
        effective_endpoint: shown.endpoint_host(),
        mtu: shown.mtu,
        default: best.is_some_and(|route| route.interface == shown.name),
    }
}

pub(super) fn forward(snapshot: &Snapshot, forward: &state::Forward) -> Forward {
    let state = &snapshot.state;
    let device = state.devices.get(&forward.device);
    let subnet = device.and_then(|device| state.subnets.get(&device.subnet));
    let local = subnet
        .zip(device)
        .map(|(subnet, device)| {
            forward.local_addresses(subnet, device, &snapshot.uplinks, &snapshot.facts)
        })
        .unwrap_or_default();
    let addresses: Vec<IpAddr> = local
        .into_iter()
        .map(|address| advertised(snapshot, address))
        .collect();
    Forward {
        id: forward.id.0,
        version: version(snapshot, Key::Forward(forward.id)),
        address: forward
            .address
            .map(|address| advertised(snapshot, address))
            .or_else(|| addresses.first().copied()),
        addresses,
        port: forward.port,
        port_end: forward.port_end,
        protocols: forward.protocols.clone(),
        device: name_of(snapshot, forward.device),
        target_port: forward.target_port,
        hostname: forward.hostname.clone(),
        proxy_protocol: forward.proxy_protocol,
        label: forward.label.clone(),
        enabled: forward.enabled,
        origin: forward.origin,
    }
}

pub(super) fn pinhole(snapshot: &Snapshot, pinhole: &state::Pinhole) -> Pinhole {
    let state = &snapshot.state;
    let device = state.devices.get(&pinhole.device);
    let address = device.and_then(|device| {
        let subnet = state.subnets.get(&device.subnet)?;
        subnet.ipv6_of(device.ipv4)
    });
    Pinhole {
        id: pinhole.id.0,
        version: version(snapshot, Key::Pinhole(pinhole.id)),
        device: name_of(snapshot, pinhole.device),
        address,
        port: pinhole.port,
        port_end: pinhole.port_end,
        protocols: pinhole.protocols.clone(),
        label: pinhole.label.clone(),
        enabled: pinhole.enabled,
        origin: pinhole.origin,
    }
}

pub(super) fn lease(snapshot: &Snapshot, lease: &state::Lease) -> Lease {
    let state = &snapshot.state;
    let place = state.lease_place(lease, &snapshot.uplinks, &snapshot.facts);
    let own = state.lease_target(lease);
    let expires = snapshot.promises.expiry(lease);
    let now = Timestamp::from(snapshot.now).0;
    let filters = lease.filters.iter().map(|filter| match filter.port {
        0 => filter.network.to_string(),
        port => format!("{} {port}", filter.network),
    });
    Lease {
        id: lease.id.0,
        version: version(snapshot, Key::Lease(lease.id)),
        device: name_of(snapshot, lease.device),
        asked_by: lease.asking.map(|asking| name_of(snapshot, asking)),
        mechanism: lease.mechanism,
        opening: lease.opening,
        protocol: lease.protocol,
        external: place.map(|(address, _)| {
            let known = state::lease::advertised(address, &snapshot.uplinks);
            SocketAddr::new(known, lease.external)
        }),
        internal: own.map(|address| SocketAddr::new(address, lease.internal)),
        count: lease.count,
        remote: lease.remote,
        filters: filters.collect(),
        hostnames: lease.hostnames.clone(),
        description: lease.description.clone(),
        suspended_by: place.and_then(|(_, listener)| listener).map(|listener| {
            let process = listener.process.clone();
            process.unwrap_or_else(|| "a service of this host".to_owned())
        }),
        expires: Timestamp(expires),
        expires_in: expires.saturating_sub(now),
    }
}

/// A lease as the forward that it is, and none where it is something else.
pub(super) fn forward_of_lease(snapshot: &Snapshot, lease: &state::Lease) -> Option<Forward> {
    if lease.opening != Opening::Forward || !lease.is_open() {
        return None;
    }
    let (address, listener) =
        snapshot
            .state
            .lease_place(lease, &snapshot.uplinks, &snapshot.facts)?;
    let address = state::lease::advertised(address, &snapshot.uplinks);
    Some(Forward {
        id: lease.id.0,
        version: version(snapshot, Key::Lease(lease.id)),
        address: Some(address),
        addresses: vec![address],
        port: lease.external,
        port_end: lease
            .external_ports()
            .map_or(lease.external, PortRange::last),
        protocols: lease.protocol.into_iter().collect(),
        device: name_of(snapshot, lease.device),
        target_port: lease.internal,
        hostname: lease.hostnames.first().cloned(),
        proxy_protocol: false,
        label: lease.description.clone(),
        enabled: listener.is_none(),
        origin: Origin::Lease,
    })
}

/// A lease as the pinhole that it is, and none where it is something else.
pub(super) fn pinhole_of_lease(snapshot: &Snapshot, lease: &state::Lease) -> Option<Pinhole> {
    if lease.opening != Opening::Pinhole || !lease.is_open() {
        return None;
    }
    let place = snapshot
        .state
        .lease_place(lease, &snapshot.uplinks, &snapshot.facts);
    Some(Pinhole {
        id: lease.id.0,
        version: version(snapshot, Key::Lease(lease.id)),
        device: name_of(snapshot, lease.device),
        address: place.and_then(|(address, _)| match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }),
        port: lease.external,
        port_end: lease
            .external_ports()
            .map_or(lease.external, PortRange::last),
        // Of all protocols, those that a pinhole can tell.
        protocols: match lease.protocol {
            Some(protocol) => [protocol].into(),
            None => Protocol::ALL.into(),
        },
        label: lease.description.clone(),
        enabled: true,
        origin: Origin::Lease,
    })
}

pub(super) fn token(snapshot: &Snapshot, token: &state::Token) -> Token {
    Token {
        id: token.id.0,
        version: version(snapshot, Key::Token(token.id)),
        name: token.name.clone(),
        scopes: token.scopes.clone(),
        device: token.device.map(|device| name_of(snapshot, device)),
        expires: token.expires.map(Timestamp),
    }
}

pub(super) fn settings(snapshot: &Snapshot) -> Settings {
    let settings = &snapshot.state.settings;
    Settings {
        version: version(snapshot, Key::Settings),
        listen_port: settings.listen_port,
        dns_servers: settings.dns_servers.clone(),
        snat_ports: format!("{}-{}", settings.snat_first, settings.snat_last),
        mtu: SettingsMtu {
            value: snapshot.mtu,
            reason: snapshot.mtu_reason.clone(),
            configured: settings.mtu,
        },
        clamp_mtu: settings.clamp_mtu,
        connection_limit: settings.connection_limit,
        lease_minimum: settings.lease_minimum,
        lease_maximum: settings.lease_maximum,
    }
}

/// 0 for what is not stored: an uplink of which nothing was said.
fn version(snapshot: &Snapshot, key: Key) -> u64 {
    snapshot.state.version(key).unwrap_or_default()
}

/// What the Internet sees of an address of this host.
fn advertised(snapshot: &Snapshot, address: IpAddr) -> IpAddr {
    let uplink = snapshot
        .uplinks
        .iter()
        .find(|uplink| uplink.local_ipv4().map(IpAddr::V4) == Some(address));
    uplink
        .and_then(uplink::Uplink::public_ipv4)
        .map_or(address, IpAddr::V4)
}

fn name_of(snapshot: &Snapshot, device: state::DeviceId) -> String {
    snapshot
        .state
        .devices
        .get(&device)
        .map_or_else(|| device.to_string(), |device| device.name.clone())
}
