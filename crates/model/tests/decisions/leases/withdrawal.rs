//! Leases that end because something else changed, and those that have nothing to do with it.

use adit_model::change::{Change, ExpireLeases, Patch, RequestLease, SetDevice, SetSubnet};
use adit_model::configuration::Routing;
use adit_model::protocol::Protocol;
use adit_model::state::{DeviceKind, Family, Lease, LeaseId, Mechanism};

use super::{home, kind, wish};
use crate::world::{NOW, World, add_device, add_subnet, set_device, set_subnet_ipv6};

/// A gateway with two uplinks and a server behind it.
fn two_ways(ipv6: &str) -> World {
    World::two_uplinks().with([
        add_subnet("home", "10.59.0.0/24", ipv6),
        add_device("nas"),
        kind("nas", DeviceKind::Server),
    ])
}

impl World {
    /// A port of each family.
    fn ports_of(&mut self, name: &str) -> [LeaseId; 2] {
        [Family::Ipv4, Family::Ipv6].map(|family| {
            let request = RequestLease {
                family,
                protocol: Some(Protocol::Tcp),
                ..wish(self.id(name), Mechanism::Pcp, 5000)
            };
            self.ask(&request).unwrap().lease.unwrap()
        })
    }

    fn open_ids(&self) -> Vec<LeaseId> {
        self.open().iter().map(|lease| lease.id).collect()
    }
}

fn egress_of_subnet(egress: &str) -> Change {
    let patch = SetSubnet {
        egress: Patch::Set(egress.parse().unwrap()),
        ..SetSubnet::default()
    };
    Change::SetSubnet("home".to_owned(), patch)
}

fn egress_of_device(egress: &str) -> Change {
    let patch = SetDevice {
        egress: Patch::Set(egress.parse().unwrap()),
        ..SetDevice::default()
    };
    set_device("nas", patch)
}

#[test]
fn another_prefix_is_nothing_to_ports_of_ipv4() {
    let mut world = home();
    let [ipv4, _] = world.ports_of("nas");
    for prefix in ["2001:db8:1:0:8000::/65", "none", ""] {
        let world = world.clone().with([set_subnet_ipv6("home", prefix)]);
        assert_eq!(world.open_ids(), [ipv4], "{prefix}");
    }
}

#[test]
fn another_address_of_the_gateway_ends_what_was_on_the_first() {
    // A global prefix is on its uplink, whose address is that of IPv4, too.
    let mut world = two_ways("2001:db8:1::/64");
    let both = world.ports_of("nas");
    let same = world.clone().with([egress_of_subnet("eth1")]);
    assert_eq!(same.open_ids(), both);
    let ipv6 = world.clone().with([egress_of_device("eth1")]);
    assert_eq!(ipv6.open_ids(), [both[1]]);
    // A prefix of another uplink takes IPv4 along.
    let moved = world.with([set_subnet_ipv6("home", "2001:db8:2::/64")]);
    assert!(moved.open_ids().is_empty());

    let mut world = two_ways("");
    let both = world.ports_of("nas");
    for egress in [egress_of_subnet, egress_of_device] {
        let same = world.clone().with([egress("eth0")]);
        assert_eq!(same.open_ids(), both);
        let ipv4 = world.clone().with([egress("198.51.100.6")]);
        assert!(ipv4.open_ids().is_empty());
    }
}

#[test]
fn another_address_of_the_device_ends_all_of_its_leases() {
    let mut world = home();
    world.ports_of("nas");
    let patch = SetDevice {
        ipv4: Some("10.59.0.77".parse().unwrap()),
        ..SetDevice::default()
    };
    world = world.with([set_device("nas", patch)]);
    assert!(world.state.leases.is_empty());
}

fn third_party(name: &str, is_allowed: bool) -> Change {
    let patch = SetDevice {
        third_party: Some(is_allowed),
        ..SetDevice::default()
    };
    set_device(name, patch)
}

/// `nas` has a port of its own, and has obtained one for `phone`, which may not ask.
fn with_a_port_for_another() -> (World, RequestLease, [LeaseId; 2]) {
    let mut world = home().with([third_party("nas", true)]);
    let own = wish(world.id("nas"), Mechanism::Pcp, 5000);
    let mut other = own.clone();
    other.parties.owner = world.id("phone");
    let leases = [&own, &other].map(|wish| world.ask(wish).unwrap().lease.unwrap());
    (world, other, leases)
}

#[test]
fn what_was_obtained_for_a_device_stays_while_both_may() {
    let (world, other, both) = with_a_port_for_another();
    let patch = |patch: SetDevice| set_device("phone", patch);
    for change in [
        patch(SetDevice {
            name: Some("mobile".to_owned()),
            ..SetDevice::default()
        }),
        patch(SetDevice {
            enabled: Some(true),
            lease_quota: Patch::Set(3),
            ..SetDevice::default()
        }),
        set_device(
            "nas",
            SetDevice {
                name: Some("store".to_owned()),
                request_rate: Patch::Set(7),
                ..SetDevice::default()
            },
        ),
    ] {
        let text = format!("{change:?}");
        let mut world = world.clone().with([change]);
        assert_eq!(world.open_ids(), both, "{text}");
        assert_eq!(world.ask(&other).unwrap().lease, Some(both[1]), "{text}");
    }
}

#[test]
fn what_was_obtained_for_a_device_ends_with_the_right_of_either() {
    let (world, _, [own, _]) = with_a_port_for_another();
    let split = SetDevice {
        routing: Some(Routing::Split),
        ..SetDevice::default()
    };
    let off = SetDevice {
        enabled: Some(false),
        ..SetDevice::default()
    };
    let ranges = SetDevice {
        auto_port_ranges: Patch::Set(vec![(20_000, 20_100)]),
        ..SetDevice::default()
    };
    for (change, left) in [
        (third_party("nas", false), vec![own]),
        (set_device("phone", split.clone()), vec![own]),
        (set_device("phone", off.clone()), vec![own]),
        (set_device("phone", ranges), vec![own]),
        (Change::RemoveDevice("phone".to_owned()), vec![own]),
        (kind("nas", DeviceKind::Client), vec![]),
        (set_device("nas", split), vec![]),
        (set_device("nas", off), vec![]),
        (Change::RemoveDevice("nas".to_owned()), vec![]),
    ] {
        let text = format!("{change:?}");
        let world = world.clone().with([change]);
        assert_eq!(world.open_ids(), left, "{text}");
        assert_eq!(world.state.leases.len(), left.len(), "{text}");
    }
}

#[test]
fn who_may_connect_no_longer_keeps_no_port_for_another() {
    let (world, ..) = with_a_port_for_another();
    for (name, left) in [("nas", 0), ("phone", 1)] {
        let until = SetDevice {
            expires: Patch::Set(NOW + 50),
            ..SetDevice::default()
        };
        let mut world = world.clone().with([set_device(name, until)]);
        assert_eq!(world.open().len(), 2);
        world.now += 51;
        let expire = Change::ExpireLeases(ExpireLeases {
            over: Vec::new(),
            since: NOW,
        });
        world = world.with([expire]);
        assert_eq!(world.open().len(), left, "{name}");
    }
}

#[test]
fn a_lease_is_of_who_asked_for_it_last() {
    let (mut world, mut wish, [own, other]) = with_a_port_for_another();
    wish.parties.asking = wish.parties.owner;
    let auto_ports = SetDevice {
        auto_ports: Patch::Set(true),
        ..SetDevice::default()
    };
    world = world.with([set_device("phone", auto_ports)]);
    assert_eq!(world.ask(&wish).unwrap().lease, Some(other));
    world = world.with([third_party("nas", false)]);
    assert_eq!(world.open_ids(), [own, other]);
    // As it was stored before it was known who asked.
    let stored = serde_json::to_value(&world.state.leases[&other]).unwrap();
    assert_eq!(stored.get("asking"), None);
    let read: Lease = serde_json::from_value(stored).unwrap();
    assert_eq!(read, world.state.leases[&other]);
}
