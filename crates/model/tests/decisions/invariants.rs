//! Whatever is asked, in whatever order: what must always be true of the state and of what is derived from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use adit_model::change::{
    AddDevice, AddForward, AddSubnet, Change, Patch, SetDevice, SetForward, SetPinhole,
    SetSettings, SetSubnet, SetUplink,
};
use adit_model::configuration::Routing;
use adit_model::desired::Desired;
use adit_model::desired::firewall::{Firewall, Port};
use adit_model::desired::route::RouteTarget;
use adit_model::edit::{Edit, Key, Object};
use adit_model::facts::{AddressFact, RouteFact};
use adit_model::key::PublicKey;
use adit_model::protocol::{PortRange, Protocol};
use adit_model::state::{Delivery, DeviceKind, Egress, State};
use adit_model::uplink;
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::select;

use crate::world::{
    NOW, TUNNEL, World, add_device_in, add_device_wish, add_forward_wish, add_listener,
    add_pinhole, add_subnet, add_subnet_wish, ipv6_wish, parse, wish,
};

const DEVICES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const SUBNETS: [&str; 3] = ["one", "two", "three"];
const IPV4: [&str; 5] = [
    "10.59.0.0/28",
    "10.59.0.0/24",
    "10.60.0.0/29",
    "192.168.7.0/24",
    "203.0.113.0/24",
];
const IPV6: [&str; 12] = [
    "",
    "none",
    "2001:db8:1::/64",
    "2001:db8:1::/56",
    "2001:db8:1::/124",
    "2001:db8:1::70/124",
    "2001:db8:1::2/127",
    "2001:db8:2::/120",
    "2001:db8:77::/56",
    "2001:db8:77::/120",
    "fd00:1::/64",
    "fe80::/64",
];
const ADDRESSES: [&str; 8] = [
    "10.59.0.1",
    "10.59.0.2",
    "10.59.0.6",
    "10.59.0.18",
    "10.60.0.3",
    "192.168.7.2",
    "192.168.7.66",
    "203.0.113.1",
];
const DELEGATIONS: [&str; 16] = [
    "64",
    "80",
    "122",
    "126",
    "127",
    "128",
    "2001:db8:1::/64",
    "2001:db8:1::4/126",
    "2001:db8:1::100/120",
    "2001:db8:77:1::/64",
    "2001:db8:77::4/127",
    "2001:db8::/32",
    "192.168.7.64/26",
    "10.59.0.4/30",
    "203.0.113.1/32",
    "fd12::/48",
];
const FORWARDS: [&str; 14] = [
    "22/tcp",
    "80",
    "80/udp",
    "443/tcp",
    "8000-8010",
    "8005/tcp",
    "8008-8020/udp",
    "51820/udp",
    "41000",
    "203.0.113.10@80/tcp",
    "198.51.100.6@80",
    "192.0.2.9@443",
    "2001:db8:1::2@8005",
    "2001:db8:2::5@80",
];

fn device() -> impl Strategy<Value = String> {
    select(&DEVICES[..]).prop_map(str::to_owned)
}

fn subnet() -> impl Strategy<Value = String> {
    select(&SUBNETS[..]).prop_map(str::to_owned)
}

fn egress() -> impl Strategy<Value = Egress> {
    select(vec![
        Egress::Interface("eth0".to_owned()),
        Egress::Interface("eth1".to_owned()),
        Egress::Address(parse("198.51.100.6")),
        Egress::Address(parse("2001:db8:2::5")),
        Egress::Address(parse("192.0.2.1")),
    ])
}

fn delivery() -> impl Strategy<Value = Delivery> {
    select(vec![Delivery::Auto, Delivery::Routed, Delivery::OnLink])
}

fn patch<T: Clone + std::fmt::Debug + 'static>(
    value: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Patch<T>> {
    prop_oneof![
        3 => Just(Patch::Keep),
        1 => Just(Patch::Clear),
        2 => value.prop_map(Patch::Set),
    ]
}

fn wishes() -> impl Strategy<Value = Vec<adit_model::change::DelegationWish>> {
    let one = select(&DELEGATIONS[..]).prop_map(wish);
    prop_oneof![3 => Just(Vec::new()), 2 => proptest::collection::vec(one, 1..3)]
}

fn changes_of_subnets() -> impl Strategy<Value = Change> {
    let add = (
        subnet(),
        select(&IPV4[..]),
        select(&IPV6[..]),
        delivery(),
        proptest::option::of(egress()),
    )
        .prop_map(|(name, ipv4, ipv6, delivery, egress)| {
            Change::AddSubnet(AddSubnet {
                delivery,
                egress,
                ..add_subnet_wish(&name, ipv4, ipv6)
            })
        });
    let set = (
        subnet(),
        proptest::option::of(subnet()),
        proptest::option::of(select(&IPV6[..])),
        proptest::option::of(delivery()),
        patch(egress()),
    )
        .prop_map(|(reference, name, ipv6, delivery, egress)| {
            let patch = SetSubnet {
                name,
                ipv6: ipv6.map(ipv6_wish),
                delivery,
                egress,
                ..SetSubnet::default()
            };
            Change::SetSubnet(reference, patch)
        });
    let remove = (subnet(), any::<bool>())
        .prop_map(|(reference, force)| Change::RemoveSubnet { reference, force });
    prop_oneof![4 => add, 6 => set, 1 => remove]
}

fn changes_of_devices() -> impl Strategy<Value = Change> {
    let ipv4 = || proptest::option::of(select(&ADDRESSES[..]).prop_map(parse));
    let routing = || {
        proptest::option::of(select(vec![
            Routing::Full,
            Routing::Split,
            Routing::Inbound,
        ]))
    };
    let add = (
        device(),
        subnet(),
        ipv4(),
        routing(),
        wishes(),
        any::<bool>(),
        proptest::option::weighted(0.2, egress()),
    )
        .prop_map(|(name, subnet, ipv4, routing, delegate, expires, egress)| {
            Change::AddDevice(AddDevice {
                kind: DeviceKind::Server,
                subnet: Some(subnet),
                ipv4,
                routing,
                delegate,
                egress,
                expires: expires.then_some(NOW + 50),
                ..add_device_wish(&name)
            })
        });
    let revoke = prop_oneof![
        3 => Just(Vec::new()),
        1 => select(&DELEGATIONS[6..]).prop_map(|text| vec![parse(text)])
    ];
    let kinds = select(vec![
        (None, None),
        (None, None),
        (Some(DeviceKind::Server), None),
        (Some(DeviceKind::Server), Some(true)),
        (None, Some(false)),
        (Some(DeviceKind::Client), None),
    ]);
    let set = (
        device(),
        proptest::option::of(device()),
        ipv4(),
        routing(),
        proptest::option::of(any::<bool>()),
        patch(select(vec![NOW, NOW + 1, NOW + 50])),
        wishes(),
        revoke,
        patch(egress()),
        patch(select(vec![1_u32, 7, 290, 1000])),
        kinds,
    )
        .prop_map(
            |(
                reference,
                name,
                ipv4,
                routing,
                enabled,
                expires,
                delegate,
                revoke,
                egress,
                quota,
                kinds,
            )| {
                let (kind, third_party) = kinds;
                let patch = SetDevice {
                    name,
                    kind,
                    third_party,
                    routing,
                    ipv4,
                    egress,
                    enabled,
                    expires,
                    delegate,
                    revoke,
                    lease_quota: quota,
                    ..SetDevice::default()
                };
                Change::SetDevice(reference, patch)
            },
        );
    let rekey = (device(), select(vec![0_u8, 3, 4, 250])).prop_map(|(reference, byte)| {
        Change::RekeyDevice {
            reference,
            public_key: PublicKey::from_bytes([byte; 32]),
        }
    });
    let remove = device().prop_map(Change::RemoveDevice);
    prop_oneof![6 => add, 6 => set, 1 => rekey, 1 => remove]
}

fn changes_of_ports() -> impl Strategy<Value = Change> {
    let add = (
        select(&FORWARDS[..]),
        device(),
        proptest::option::of(select(vec![80_u16, 8000, 0])),
        proptest::option::of(select(vec!["a.example", "A.example", "*.example", "-"])),
        proptest::bool::weighted(0.1),
    )
        .prop_map(|(text, device, target_port, hostname, proxy_protocol)| {
            Change::AddForward(AddForward {
                target_port,
                hostname: hostname.map(str::to_owned),
                proxy_protocol,
                ..add_forward_wish(text, &device)
            })
        });
    // Ids are small in a short history, so many of these exist.
    let id = || (1_u64..40).prop_map(|id| id.to_string());
    let set = (
        id(),
        proptest::option::of(any::<bool>()),
        proptest::option::of(device()),
        proptest::option::of(select(vec![80_u16, 8000])),
    )
        .prop_map(|(id, enabled, device, target_port)| {
            let patch = SetForward {
                enabled,
                device,
                target_port,
                proxy_protocol: target_port.map(|port| port == 80),
                label: None,
            };
            Change::SetForward(id, patch)
        });
    let hole = (
        device(),
        select(vec!["80", "443/tcp", "400-500/udp", "450", "0"]),
    )
        .prop_map(|(device, text)| add_pinhole(&device, text));
    let set_hole = (id(), any::<bool>()).prop_map(|(id, enabled)| {
        let patch = SetPinhole {
            enabled: Some(enabled),
            label: None,
        };
        Change::SetPinhole(id, patch)
    });
    prop_oneof![
        6 => add,
        3 => set,
        2 => hole,
        1 => set_hole,
        1 => id().prop_map(Change::RemoveForward),
        1 => id().prop_map(Change::RemovePinhole),
    ]
}

fn changes_of_gateway() -> impl Strategy<Value = Change> {
    let advertised = select(vec!["192.0.2.9", "192.0.2.10", "198.51.100.6"]).prop_map(parse);
    let uplink =
        (select(vec!["eth0", "eth1"]), patch(advertised)).prop_map(|(name, advertised)| {
            let patch = SetUplink {
                advertised,
                ..SetUplink::default()
            };
            Change::SetUplink(Some(name.to_owned()), patch)
        });
    let settings = (
        proptest::option::of(select(vec![80_u16, 8005, 51821])),
        proptest::option::of(select(vec![(8000_u16, 12000_u16), (30000, 60000)])),
    )
        .prop_map(|(listen_port, snat_ports)| {
            Change::SetSettings(SetSettings {
                listen_port,
                snat_ports,
                ..SetSettings::default()
            })
        });
    prop_oneof![uplink, settings]
}

/// Where a history starts: two subnets with devices, so that most changes have something to work on.
pub(crate) fn starts() -> impl Strategy<Value = World> {
    let prefixes = vec![
        "2001:db8:1::/64",
        "2001:db8:1::/56",
        "2001:db8:1::70/124",
        "2001:db8:77::/56",
        "2001:db8:77::/120",
        "none",
    ];
    select(prefixes).prop_map(|prefix| {
        World::two_uplinks().with([
            add_subnet("one", "10.59.0.0/24", prefix),
            add_subnet("two", "10.60.0.0/29", ""),
            add_device_in("one", "a"),
            add_device_in("one", "b"),
            add_device_in("two", "c"),
            add_device_in("two", "d"),
            serve("a"),
            serve("c"),
        ])
    })
}

/// Makes a device one that opens ports by itself.
fn serve(name: &str) -> Change {
    let patch = SetDevice {
        kind: Some(DeviceKind::Server),
        all_ports: Some(true),
        third_party: Some(true),
        ..SetDevice::default()
    };
    Change::SetDevice(name.to_owned(), patch)
}

pub(crate) fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => changes_of_subnets(),
        6 => changes_of_devices(),
        5 => changes_of_ports(),
        3 => crate::leases::lease_changes(),
        1 => changes_of_gateway(),
    ]
}

/// Applies edits, and checks that each can be undone, stored and read again.
fn absorb(state: &mut State, edits: &[Edit], used: &mut BTreeSet<u64>) {
    let before = state.clone();
    let mut undo = Vec::new();
    for edit in edits {
        undo.push(state.inverse(edit));
        if let Edit::Set(object) = edit {
            let key = object.key();
            let read = Object::from_body(key.kind(), key.id(), object.to_body()).unwrap();
            assert_eq!(read, *object);
            let is_new = state.object(key).is_none();
            assert!(
                !is_new || used.insert(key.id()),
                "id {} is given twice",
                key.id()
            );
        }
        state.absorb(edit);
    }
    let mut undone = state.clone();
    for edit in undo.iter().rev() {
        undone.absorb(edit);
    }
    assert_eq!(undone, before);
}

/// The state as it is read from the disk.
fn reload(state: &State) -> State {
    let keys = (state.uplinks.keys().map(|id| Key::Uplink(*id)))
        .chain(state.forwards.keys().map(|id| Key::Forward(*id)))
        .chain(state.pinholes.keys().map(|id| Key::Pinhole(*id)))
        .chain(state.leases.keys().map(|id| Key::Lease(*id)))
        .chain(state.delegations.keys().map(|id| Key::Delegation(*id)))
        .chain(state.devices.keys().rev().map(|id| Key::Device(*id)))
        .chain(state.subnets.keys().map(|id| Key::Subnet(*id)))
        .chain([Key::Settings, Key::Sequence]);
    let mut read = State::default();
    for key in keys {
        read.revision = state.version(key).unwrap_or_default();
        read.absorb(&Edit::Set(state.object(key).unwrap()));
        assert_eq!(read.version(key), state.version(key));
    }
    read.revision = state.revision;
    read
}

/// A list of spans in which none may meet another.
#[derive(Default)]
struct Spans(BTreeMap<IpAddr, (IpAddr, String)>);

impl Spans {
    fn add(&mut self, net: IpNet, owner: String) {
        let before = self.0.range(..=net.broadcast()).next_back();
        if let Some((first, (last, other))) = before {
            assert!(
                *last < net.network(),
                "{net} of {owner} meets {first}-{last} of {other}"
            );
        }
        self.0.insert(net.network(), (net.broadcast(), owner));
    }
}

/// The invariants of the state alone; they hold for devices that may not connect as well.
pub(crate) fn check_state(world: &World) {
    let state = &world.state;
    let uplinks = uplink::list(state, &world.facts);
    let mut spans = Spans::default();
    for (address, owner) in uplink::own_and_next_hops(&uplinks, &world.facts) {
        spans.add(address.into(), owner);
    }
    for subnet in state.subnets.values() {
        let owner = format!("the gateway in {}", subnet.name);
        spans.add(IpAddr::V4(subnet.gateway_ipv4()).into(), owner.clone());
        if let Some(ipv6) = subnet.gateway_ipv6() {
            assert!(subnet.ipv6.unwrap().contains(&ipv6));
            spans.add(IpAddr::V6(ipv6).into(), owner);
        }
        let hops = |net: IpNet| {
            uplinks
                .iter()
                .any(|it| it.next_hops.iter().any(|hop| net.contains(hop)))
        };
        assert!(!hops(subnet.ipv4.into()));
    }
    for device in state.devices.values() {
        let subnet = &state.subnets[&device.subnet];
        assert!(subnet.ipv4.contains(&device.ipv4));
        spans.add(IpAddr::V4(device.ipv4).into(), device.name.clone());
        if let Some(ipv6) = subnet.ipv6_of(device.ipv4) {
            assert!(subnet.ipv6.unwrap().contains(&ipv6));
            spans.add(IpAddr::V6(ipv6).into(), device.name.clone());
        }
    }
    for delegation in state.delegations.values() {
        let device = &state.devices[&delegation.device];
        assert_eq!(delegation.prefix, delegation.prefix.trunc());
        spans.add(delegation.prefix, device.name.clone());
    }
    crate::leases::check_leases(world);
    let settings = &state.settings;
    let snat = PortRange::new(settings.snat_first, settings.snat_last).unwrap();
    let mut ports: BTreeMap<(IpAddr, Protocol, u16, Option<&str>), u64> = BTreeMap::new();
    let mut ranged: BTreeSet<(IpAddr, Protocol, u16)> = BTreeSet::new();
    for forward in state.forwards.values() {
        let device = &state.devices[&forward.device];
        let subnet = &state.subnets[&device.subnet];
        let range = forward.ports().unwrap();
        assert!(!range.overlaps(snat));
        assert!(range.is_single() || forward.target_port == range.first());
        assert!(device.routing != Routing::Split || forward.hostname.is_some());
        assert!(range.is_single() || forward.hostname.is_none());
        assert!(!forward.proxy_protocol || forward.hostname.is_some());
        let places = forward.local_addresses(subnet, device, &uplinks, &world.facts);
        assert!(!places.is_empty());
        for protocol in &forward.protocols {
            assert!(*protocol != Protocol::Udp || !range.contains(settings.listen_port));
            assert!(*protocol != Protocol::Tcp || !range.contains(22));
            for (address, port) in places.iter().flat_map(|address| {
                (range.first()..=range.last()).map(move |port| (*address, port))
            }) {
                assert!(address.is_ipv4() || subnet.local_ipv6().is_some());
                let key = (address, *protocol, port, forward.hostname.as_deref());
                let other = ports.insert(key, forward.id.0);
                assert_eq!(other, None, "{address} {port}/{protocol} of {}", forward.id);
                if !range.is_single() {
                    ranged.insert((address, *protocol, port));
                }
            }
        }
    }
    for (address, protocol, port, name) in ports.keys() {
        let is_ranged = ranged.contains(&(*address, *protocol, *port));
        assert!(name.is_none() || !is_ranged, "{name:?} on a range");
    }
    for pinhole in state.pinholes.values() {
        let device = &state.devices[&pinhole.device];
        assert!(state.subnets[&device.subnet].ipv6.is_some());
    }
}

/// What the front takes is translated to no device, and is let in; what it leads to is reached through the tunnel.
fn check_names(desired: &Desired, firewall: &Firewall) {
    let names = &desired.names;
    let sockets = names.sockets();
    assert_eq!(firewall.names, names.listeners());
    for socket in names.fallbacks.keys() {
        assert!(sockets.contains(socket), "a fallback without names");
    }
    for socket in names.listeners() {
        let is_forwarded = match socket.address {
            IpAddr::V4(address) => {
                let key = Port {
                    address,
                    protocol: socket.protocol,
                    port: socket.port,
                };
                firewall.translations4.forwards.contains_key(&key)
            }
            IpAddr::V6(address) => {
                let key = Port {
                    address,
                    protocol: socket.protocol,
                    port: socket.port,
                };
                firewall.translations6.forwards.contains_key(&key)
            }
        };
        assert!(!is_forwarded, "{socket:?} is translated");
    }
    let wireguard = desired.wireguard.as_ref().unwrap();
    for target in names.routes.values().chain(names.fallbacks.values()) {
        let mut peers = wireguard.peers.values();
        let address = target.device.ip();
        let mut nets = peers.by_ref().flat_map(|peer| &peer.allowed_ips);
        assert!(nets.any(|net| net.contains(&address)), "{target:?}");
    }
    let mut local = desired.routes.iter().filter(|route| route.table == 4293);
    assert_eq!(local.next().is_some(), !names.is_empty());
}

/// The invariants of what is derived; they hold whatever happened to the host since the decisions.
pub(crate) fn check_desired(world: &World, desired: &Desired) {
    let state = &world.state;
    let uplinks = uplink::list(state, &world.facts);
    let mut spans = Spans::default();
    for (address, owner) in uplink::own_and_next_hops(&uplinks, &world.facts) {
        spans.add(address.into(), owner);
    }
    for address in &desired.addresses {
        spans.add(address.address, "the gateway".to_owned());
    }
    let wireguard = desired.wireguard.as_ref().unwrap();
    let mut reached = BTreeSet::new();
    for (key, peer) in &wireguard.peers {
        for net in &peer.allowed_ips {
            spans.add(*net, key.to_string());
            reached.insert(*net);
        }
    }
    let is_active = |key: &PublicKey| {
        let mut devices = state.devices.values();
        devices.any(|device| device.public_key == *key && device.is_active(world.now))
    };
    assert!(wireguard.peers.keys().all(is_active));
    let active = state.devices.values().filter(|it| it.is_active(world.now));
    assert_eq!(wireguard.peers.len(), active.count());

    let to_tunnel: BTreeSet<IpNet> = desired
        .routes
        .iter()
        .filter(|route| match &route.target {
            RouteTarget::Interface { interface, .. } => interface == TUNNEL,
            RouteTarget::Local { .. } | RouteTarget::Unreachable => false,
        })
        .map(|route| route.destination)
        .collect();
    assert_eq!(to_tunnel, reached, "AllowedIPs and routes differ");

    let own: BTreeSet<IpAddr> = desired
        .addresses
        .iter()
        .map(|address| address.address.addr())
        .collect();
    let is_reached = |address: IpAddr| reached.iter().any(|net| net.contains(&address));
    for neighbor in &desired.neighbors {
        let address = IpAddr::V6(neighbor.address);
        assert!(
            own.contains(&address) || is_reached(address),
            "{neighbor:?}"
        );
        let path = format!("net/ipv6/conf/{}/proxy_ndp", neighbor.interface);
        assert_eq!(desired.sysctls.get(&path).map(String::as_str), Some("1"));
    }
    let firewall = desired.firewall.as_ref().unwrap();
    check_names(desired, firewall);
    for subnet in state.subnets.values() {
        let policy = &firewall.subnets[&subnet.id.0];
        assert!(policy.snat6.is_none() || subnet.local_ipv6().is_some());
        let Some(uplink) = uplink::on_link_for(&uplinks, subnet) else {
            continue;
        };
        for device in state.devices_of(subnet.id) {
            let address = subnet.ipv6_of(device.ipv4).unwrap();
            let entry = adit_model::desired::neighbor::ProxyNeighbor {
                interface: uplink.name.clone(),
                address,
            };
            let is_peer = reached.contains(&IpNet::from(IpAddr::V6(address)));
            assert_eq!(desired.neighbors.contains(&entry), is_peer, "{entry:?}");
        }
    }
    let translated = (firewall.translations4.forwards.values())
        .map(|(address, _)| IpAddr::V4(*address))
        .chain(
            firewall
                .translations4
                .forward_ranges
                .values()
                .map(|it| IpAddr::V4(*it)),
        )
        .chain(
            firewall
                .translations6
                .forwards
                .values()
                .map(|it| IpAddr::V6(it.0)),
        )
        .chain(
            firewall
                .translations6
                .forward_ranges
                .values()
                .map(|it| IpAddr::V6(*it)),
        )
        .chain(
            firewall
                .pinholes
                .iter()
                .map(|hole| IpAddr::V6(hole.address)),
        );
    for address in translated {
        assert!(
            is_reached(address),
            "{address} is no device that may connect"
        );
    }
    let ranges = firewall.translations4.forward_ranges.keys();
    let mut ends: BTreeMap<(IpAddr, Protocol), u16> = BTreeMap::new();
    for range in ranges {
        let key = (IpAddr::V4(range.address), range.protocol);
        let before = ends.insert(key, range.ports.last());
        assert!(before.is_none_or(|last| last < range.ports.first()));
    }
}

/// A device, as those see it who look at it, changes with its delegations; only what changes gets a new version.
fn check_versions(before: &State, after: &State) {
    let seen = |state: &State, id| {
        let delegations: Vec<_> = state.delegations_of(id).cloned().collect();
        (state.devices.get(&id).cloned(), delegations)
    };
    for id in after.devices.keys() {
        let is_new = after.version(Key::Device(*id)) == Some(after.revision);
        assert_eq!(is_new, seen(before, *id) != seen(after, *id));
    }
    for id in after.forwards.keys() {
        let is_new = after.version(Key::Forward(*id)) == Some(after.revision);
        assert_eq!(is_new, before.forwards.get(id) != after.forwards.get(id));
    }
}

/// The host changes under what was decided: the other default route goes, or a device's address turns up elsewhere.
fn later_hosts(world: &World) -> Vec<World> {
    let mut without = world.clone();
    without
        .facts
        .routes
        .retain(|route| route.interface != "eth1");
    let mut single = world.clone();
    single
        .facts
        .routes
        .retain(|route| route.interface != "eth0");
    let mut taken = world.clone();
    for (subnet, device) in world
        .state
        .devices
        .values()
        .take(2)
        .map(|device| (&world.state.subnets[&device.subnet], device))
    {
        taken.facts.addresses.insert(AddressFact {
            interface: "eth0".to_owned(),
            address: IpNet::from(IpAddr::V4(device.ipv4)),
        });
        taken.facts.routes.insert(RouteFact {
            destination: parse("::/0"),
            interface: "eth0".to_owned(),
            gateway: subnet.ipv6_of(device.ipv4).map(IpAddr::V6),
            metric: 50,
            from_router_advertisement: false,
        });
    }
    let mut later = world.clone();
    later.now = NOW + 100;
    vec![without, single, taken, later]
}

proptest! {
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_sequence_of_changes_breaks_an_invariant(
        start in starts(),
        sequence in proptest::collection::vec(changes(), 1..60),
    ) {
        let mut world = start;
        add_listener(&mut world.facts, Protocol::Tcp, "198.51.100.6", 443);
        let mut used: BTreeSet<u64> = (1..=world.state.sequence).collect();
        for change in sequence {
            match world.decide(change.clone()) {
                Err(refusal) => {
                    prop_assert!(!refusal.to_string().is_empty() && !refusal.hint().is_empty());
                }
                Ok(edits) => {
                    prop_assert_eq!(world.decide(change), Ok(edits.clone()));
                    let before = world.state.clone();
                    world.state.revision += 1;
                    absorb(&mut world.state, &edits, &mut used);
                    check_versions(&before, &world.state);
                    check_state(&world);
                    check_desired(&world, &world.desired());
                }
            }
        }
        let read = World { state: reload(&world.state), ..world.clone() };
        prop_assert_eq!(&read.state, &world.state);
        prop_assert_eq!(read.desired(), world.desired());
        for later in later_hosts(&world) {
            check_desired(&later, &later.desired());
        }
    }
}

/// The generator is worth something only if most kinds of changes get through.
#[test]
fn the_generated_changes_are_not_all_refused() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut made: BTreeMap<&'static str, u32> = BTreeMap::new();
    for _ in 0..110 {
        let history = (starts(), proptest::collection::vec(changes(), 50));
        let (mut world, sequence) = history.new_tree(&mut runner).unwrap().current();
        for change in sequence {
            let Ok(edits) = world.change(change) else {
                continue;
            };
            for edit in edits {
                *made.entry(edit.key().kind()).or_default() += 1;
                let is_of_all = match &edit {
                    Edit::Set(Object::Lease(lease)) => lease.protocol.is_none(),
                    Edit::Set(_) | Edit::Remove(_) => false,
                };
                *made.entry("lease of all protocols").or_default() += u32::from(is_of_all);
                let is_of_another = match &edit {
                    Edit::Set(Object::Lease(lease)) => lease.asking.is_some(),
                    Edit::Set(_) | Edit::Remove(_) => false,
                };
                *made.entry("lease of another").or_default() += u32::from(is_of_another);
            }
        }
    }
    for (kind, least) in [
        ("subnet", 60),
        ("device", 200),
        ("delegation", 50),
        ("forward", 100),
        ("pinhole", 40),
        ("lease", 60),
        ("lease of all protocols", 2),
        ("lease of another", 4),
        ("uplink", 20),
        ("settings", 20),
    ] {
        let count = made.get(kind).copied().unwrap_or_default();
        assert!(count >= least, "{count} edits of kind {kind}: {made:?}");
    }
}
