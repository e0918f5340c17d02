//! What decisions cost in a large network. The limits are far above what is measured, and far below what work in
//! proportion to the square of the network takes. What counts is the time that this thread has a processor.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use adit_model::change::{AddForward, Change, Patch, RequestLease, SetDevice};
use adit_model::desired::derive::{Derivation, Inputs};
use adit_model::desired::firewall::Firewall;
use adit_model::edit::{Edit, Object};
use adit_model::key::{PresharedKey, PrivateKey, PublicKey};
use adit_model::plan::plan_change;
use adit_model::state::{
    Delegation, DelegationId, Device, DeviceId, DeviceKind, Forward, ForwardId, GatewayId, Lease,
    LeaseId, Mechanism, Origin,
};
use rustix::time::{ClockId, clock_gettime};

use crate::leases::wish;
use crate::world::{
    TUNNEL, World, add_device, add_forward, add_forward_wish, add_pinhole, add_subnet, delegate,
    parse, set_device, set_subnet_ipv6,
};

const DEVICES: u32 = 10_000;

/// 10,000 devices, each with a delegation and a forward of three ports.
fn large(ipv6: &str) -> World {
    with_devices(DEVICES, ipv6)
}

fn with_devices(count: u32, ipv6: &str) -> World {
    let mut world = World::on_link().with([add_subnet("home", "10.0.0.0/16", ipv6)]);
    let subnet = world.state.subnet("home").unwrap().id;
    let first = u32::from(Ipv4Addr::new(10, 0, 0, 2));
    for index in 0..count {
        let mut key = [7; 32];
        key[..4].copy_from_slice(&index.to_le_bytes());
        let number = u64::from(index);
        let device = DeviceId(1_000_000 + number);
        let ports = u16::try_from(1000 + index * 3).unwrap();
        let prefix = parse(&format!("2001:db9:{index:x}::/64"));
        let objects = [
            Object::Device(Device {
                id: device,
                subnet,
                name: format!("device-{index}"),
                kind: DeviceKind::Server,
                routing: adit_model::configuration::Routing::Inbound,
                ipv4: Ipv4Addr::from(first + index),
                egress: None,
                public_key: PublicKey::from_bytes(key),
                preshared_key: PresharedKey::from_bytes(key),
                enabled: true,
                expires: None,
                port_policy: adit_model::state::PortPolicy::default(),
            }),
            Object::Delegation(Delegation {
                id: DelegationId(2_000_000 + number),
                device,
                prefix,
            }),
            Object::Forward(Forward {
                id: ForwardId(3_000_000 + number),
                gateway: GatewayId::default(),
                address: None,
                port: ports,
                port_end: ports + 2,
                protocols: adit_model::protocol::Protocol::ALL.into(),
                device,
                target_port: ports,
                hostname: None,
                proxy_protocol: false,
                label: String::new(),
                enabled: true,
                origin: Origin::Manual,
            }),
        ];
        for object in objects {
            world.state.absorb(&Edit::Set(object));
        }
    }
    world.state.absorb(&Edit::Set(Object::Sequence(4_000_000)));
    world
}

#[expect(clippy::print_stdout, reason = "the one place that tells")]
fn measure<T>(what: &str, limit: Duration, work: impl Fn() -> T) {
    let best = (0..3)
        .map(|_| {
            took(|| {
                black_box(work());
            })
        })
        .min()
        .unwrap();
    println!("{what}: {best:?}");
    assert!(best < limit, "{what} took {best:?}");
}

/// Leases of single ports, so many apart, of one device after another, and one more device that has none and may have many.
fn leased(apart: usize) -> (World, DeviceId) {
    let mut world = with_devices(300, "none");
    let Edit::Set(Object::Lease(like)) = world
        .decide(Change::RequestLease(Box::new(wish(
            DeviceId(1_000_000),
            Mechanism::Pcp,
            5000,
        ))))
        .unwrap()
        .swap_remove(0)
    else {
        panic!("a lease comes first");
    };
    for (number, port) in (1024..=u16::MAX).step_by(apart).enumerate() {
        let number = u64::try_from(number).unwrap();
        world.state.absorb(&Edit::Set(Object::Lease(Lease {
            id: LeaseId(5_000_000 + number),
            device: DeviceId(1_000_000 + number % 299),
            internal: port,
            external: port,
            ..like.clone()
        })));
    }
    world.state.absorb(&Edit::Set(Object::Sequence(6_000_000)));
    let patch = SetDevice {
        lease_quota: Patch::Set(1024),
        ..SetDevice::default()
    };
    let world = world.with([set_device("device-299", patch)]);
    (world, DeviceId(1_000_299))
}

/// The whole table of ports is looked at once, whatever lies in it and however many ports are wished for.
#[test]
fn ports_that_lie_scattered_are_soon_found_or_not() {
    for (apart, count, found) in [(3, 1024, 2), (1, 1, 0)] {
        let (world, device) = leased(apart);
        let request = RequestLease {
            count,
            ..wish(device, Mechanism::Pcp, 2000)
        };
        let decide = || world.decide(Change::RequestLease(Box::new(request.clone())));
        let given = decide().ok().and_then(|edits| match edits.first() {
            Some(Edit::Set(Object::Lease(lease))) => Some(lease.count),
            Some(_) | None => None,
        });
        assert_eq!(
            given.unwrap_or_default(),
            found,
            "{count} where one is taken in {apart}"
        );
        let what = format!("{count} ports where one is taken in {apart}");
        measure(&what, Duration::from_secs(4), decide);
    }
}

#[test]
fn ten_thousand_devices_are_no_burden() {
    let decision = Duration::from_secs(1);
    let whole = Duration::from_secs(6);
    let world = large("2001:db8:1::/64");
    let decide = |change: &Change| world.decide(change.clone()).unwrap();
    let change = |name: &str, change: Change| {
        measure(name, decision, || decide(&change));
    };
    change("add a device", add_device("new"));
    change("add a forward", add_forward("900/tcp", "device-9999"));
    change("delegate a prefix", delegate("device-9999", &["80"]));
    change(
        "remove a device",
        Change::RemoveDevice("device-5".to_owned()),
    );
    measure("set a prefix", whole, || {
        decide(&set_subnet_ipv6("home", "2001:db8:1::/56"))
    });
    let private = large("fd00:7::/64");
    measure("move every forward", whole, || {
        private.decide(set_subnet_ipv6("home", "none")).unwrap()
    });
    measure("remove a subnet with all", whole, || {
        decide(&Change::RemoveSubnet {
            reference: "home".to_owned(),
            force: true,
        })
    });
    measure("derive", whole, || world.desired());
    measure("find problems", whole, || {
        adit_model::problem::of_state(&world.state, &world.facts, world.now)
    });
}

/// Each device has a name on one port.
#[test]
fn ten_thousand_names_on_one_port_are_no_burden() {
    let mut world = large("fd00:7::/64");
    let named = |device: &str, hostname: String| {
        Change::AddForward(AddForward {
            hostname: Some(hostname),
            ..add_forward_wish("443/tcp", device)
        })
    };
    let first = world
        .decide(named("device-0", "name.example".to_owned()))
        .unwrap();
    let Some(Edit::Set(Object::Forward(forward))) = first.first().cloned() else {
        panic!("{first:?}");
    };
    for index in 0..DEVICES {
        world.state.absorb(&Edit::Set(Object::Forward(Forward {
            id: ForwardId(5_000_000 + u64::from(index)),
            device: DeviceId(1_000_000 + u64::from(index)),
            hostname: Some(format!("name-{index}.example")),
            ..forward.clone()
        })));
    }
    world.state.absorb(&Edit::Set(Object::Sequence(6_000_000)));
    measure("derive names", Duration::from_secs(6), || world.desired());
    let key = PrivateKey::from_random([1; 32]);
    let derive = |world: &World, derivation: &mut Option<Derivation>| {
        let inputs = Inputs {
            state: &world.state,
            facts: &world.facts,
            interface: TUNNEL,
            private_key: &key,
            now: world.now,
        };
        match derivation {
            Some(derivation) => derivation.update(&inputs).clone(),
            none @ None => none.insert(Derivation::new(&inputs)).desired().clone(),
        }
    };
    let mut derivation = None;
    let mut before = derive(&world, &mut derivation);
    let mut best = Duration::MAX;
    for number in 0..20 {
        let change = match number % 4 {
            3 => add_forward("443/tcp", "device-7"),
            _ => named("device-7", format!("another-{number}.example")),
        };
        let changed = took(|| {
            // The fallback is there once.
            let _ = world.change(change);
            let after = derive(&world, &mut derivation);
            assert!(before.names.differs(&after.names) || number > 3);
            before = after;
        });
        best = best.min(changed);
    }
    assert!(best < Duration::from_millis(100), "one name more: {best:?}");
}

fn took(work: impl FnOnce()) -> Duration {
    let start = processor_time();
    work();
    processor_time() - start
}

/// What this thread has had of a processor.
fn processor_time() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(spent).unwrap()
}

/// The shortest time from a change to the steps that make it, over several changes that follow each other.
fn from_change_to_steps(count: u32, change: impl Fn(u32) -> Change) -> Duration {
    let mut world = with_devices(count, "2001:db8:1::/64");
    let key = PrivateKey::from_random([1; 32]);
    let inputs = |world: &World, work: &mut dyn FnMut(&Inputs<'_>)| {
        work(&Inputs {
            state: &world.state,
            facts: &world.facts,
            interface: TUNNEL,
            private_key: &key,
            now: world.now,
        });
    };
    let mut derivation = None;
    inputs(&world, &mut |inputs| {
        derivation = Some(Derivation::new(inputs))
    });
    let mut derivation = derivation.unwrap();
    let mut best = Duration::MAX;
    for number in 0..20 {
        let start = processor_time();
        world.change(change(number)).unwrap();
        let before = Arc::clone(derivation.desired());
        let mut steps = Vec::new();
        inputs(&world, &mut |inputs| {
            steps = plan_change(&before, derivation.update(inputs));
        });
        let (from, to) = (&before.firewall, &derivation.desired().firewall);
        let delta = Firewall::delta(from.as_ref().unwrap(), to.as_ref().unwrap());
        best = best.min(processor_time() - start);
        assert!(!steps.is_empty() && delta.is_some());
    }
    best
}

/// A hundred times the devices may cost a deeper tree, and never a walk through all of them.
#[test]
fn a_change_costs_in_proportion_to_itself() {
    type Numbered = fn(u32) -> Change;
    let changes: [(&str, Numbered); 4] = [
        ("add a device", |number| {
            add_device(&format!("new-{number}"))
        }),
        ("remove a device", |number| {
            Change::RemoveDevice(format!("device-{}", 40 + number))
        }),
        ("add a forward", |number| {
            add_forward(&format!("{}/tcp", 500 + number), "device-7")
        }),
        ("open a pinhole", |number| {
            add_pinhole("device-7", &format!("{}/tcp", 500 + number))
        }),
    ];
    for (name, change) in changes {
        let small = from_change_to_steps(100, change);
        let large = from_change_to_steps(DEVICES, change);
        println!("{name}: {small:?} with 100 devices, {large:?} with {DEVICES}");
        assert!(large < small * 6, "{name}: {small:?} and {large:?}");
    }
}
