//! Leases that end because something else changed, and those that have nothing to do with it.

use adit_model::change::{Change, Patch, RequestLease, SetDevice, SetSubnet};
use adit_model::protocol::Protocol;
use adit_model::state::{DeviceKind, Family, LeaseId, Mechanism};

use super::{home, kind, wish};
use crate::world::{World, add_device, add_subnet, set_device, set_subnet_ipv6};

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
