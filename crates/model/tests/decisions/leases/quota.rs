//! How much a device may have of the ports that all share, open or kept.

use adit_model::change::{Change, ExpireLeases, Patch, SetDevice};
use adit_model::refusal::LeaseRefusal;
use adit_model::state::{Mechanism, Nonce};

use super::{World, home, wish};
use crate::world::set_device;

fn quota(name: &str, ports: u32) -> Change {
    let patch = SetDevice {
        lease_quota: Patch::Set(ports),
        ..SetDevice::default()
    };
    set_device(name, patch)
}

/// The first ports on the device of what is kept for it, in the order of their ids.
fn kept(world: &World) -> Vec<u16> {
    let leases = world.state.leases.values();
    let kept = leases.filter(|lease| !lease.is_open());
    kept.map(|lease| lease.internal).collect()
}

#[test]
fn who_ends_without_end_takes_no_more_than_the_quota() {
    let mut world = home();
    let (nas, other) = (world.id("nas"), world.id("box"));
    let quota = world.device("nas").lease_quota();
    for first in (1024..65_000).step_by(256) {
        let mut set = wish(nas, Mechanism::Pcp, first);
        (set.count, set.external) = (256, Some(first));
        world.ask(&set).unwrap();
        let taken = world.state.leased_ports(nas) + world.state.kept_ports(nas);
        assert!(taken <= quota, "{taken} ports at {first}");
        world.end(nas, first, 1).unwrap();
        assert!(world.state.kept_ports(nas) <= quota);
    }
    for number in 0..1000 {
        let mut single = wish(nas, Mechanism::NatPmp, 2000 + number);
        single.lifetime = 1;
        world.ask(&single).unwrap();
        world.now += 2;
        world
            .change(Change::ExpireLeases(ExpireLeases::default()))
            .unwrap();
    }
    assert!(world.state.leases.len() <= 256);
    for first in [1024, 20_224, 50_176, 60_000] {
        let mut theirs = wish(other, Mechanism::Pcp, first);
        (theirs.external, theirs.exact) = (Some(first), true);
        world.ask(&theirs).unwrap();
    }
    let mut set = wish(other, Mechanism::Pcp, 10_000);
    set.count = 200;
    assert_eq!(world.ask(&set).unwrap().count, 200);
}

#[test]
fn what_is_kept_longest_goes_first_and_what_is_taken_again_stays() {
    let mut world = home().with([quota("nas", 4)]);
    let nas = world.id("nas");
    for port in [5000, 5001, 5002, 5003] {
        world.ask(&wish(nas, Mechanism::Pcp, port)).unwrap();
    }
    for port in [5002, 5001, 5003] {
        world.end(nas, port, 1).unwrap();
        world.now += 1;
    }
    assert_eq!(kept(&world), [5001, 5002, 5003]);
    // It is its own again, so nothing has to go.
    world.ask(&wish(nas, Mechanism::Pcp, 5002)).unwrap();
    assert_eq!(kept(&world), [5001, 5003]);
    world.ask(&wish(nas, Mechanism::Pcp, 6000)).unwrap();
    assert_eq!(kept(&world), [5003]);
    world.ask(&wish(nas, Mechanism::Pcp, 6001)).unwrap();
    assert_eq!(kept(&world), [0_u16; 0]);
    assert_eq!(
        world
            .open()
            .iter()
            .map(|it| it.internal)
            .collect::<Vec<_>>(),
        [5000, 5002, 6000, 6001]
    );
    let more = wish(nas, Mechanism::Pcp, 6002);
    assert_eq!(world.ask(&more), Err(LeaseRefusal::Quota { limit: 4 }));
}

#[test]
fn a_lower_quota_closes_what_came_last() {
    let mut world = home();
    let nas = world.id("nas");
    let all: Vec<u16> = (5000..5006).collect();
    for port in &all {
        let mut wish = wish(nas, Mechanism::Pcp, *port);
        wish.external = Some(*port);
        assert_eq!(world.ask(&wish).unwrap().external, *port);
    }
    world.end(nas, 5001, 1).unwrap();
    let other = world.id("box");
    world.ask(&wish(other, Mechanism::Pcp, 5000)).unwrap();
    let ports = |world: &World| -> Vec<u16> {
        let leases = world.state.leases_of(nas);
        leases.map(|lease| lease.internal).collect()
    };
    world = world.with([quota("nas", 6)]);
    assert_eq!(ports(&world), all);
    // What is only kept goes before what is open.
    world = world.with([quota("nas", 5)]);
    assert_eq!(ports(&world), [5000, 5002, 5003, 5004, 5005]);
    world = world.with([quota("nas", 3)]);
    assert_eq!(ports(&world), [5000, 5002, 5003]);
    // A set is closed whole.
    let mut set = wish(nas, Mechanism::Pcp, 6000);
    (set.count, set.nonce) = (100, Some(Nonce([2; 12])));
    world = world.with([quota("nas", 103)]);
    assert_eq!(world.ask(&set).unwrap().count, 100);
    world = world.with([quota("nas", 102)]);
    assert_eq!(ports(&world), [5000, 5002, 5003]);
    // What the same change takes away for another reason needs no room.
    let patch = SetDevice {
        lease_quota: Patch::Set(1),
        auto_port_ranges: Patch::Set(vec![(5002, 5002)]),
        ..SetDevice::default()
    };
    world = world.with([set_device("nas", patch)]);
    assert_eq!(ports(&world), [5002]);
    world = world.with([quota("nas", 0)]);
    assert_eq!(ports(&world), [0_u16; 0]);
    assert_eq!(world.open().len(), 1);
}
