//! Declarations: what is exported and applied again changes nothing, and what is applied is there.

use adit_model::change::{Apply, Change, Patch, SetDevice};
use adit_model::declaration::{Declaration, DeclaredDevice};
use adit_model::key::PublicKey;
use adit_model::protocol::Protocol;
use adit_model::refusal::Refusal;
use adit_model::state::{Mechanism, State};
use proptest::prelude::*;

use crate::invariants::{changes, check_desired, check_state, starts};
use crate::leases::wish;
use crate::world::{
    World, add_device, add_device_at, add_forward, add_listener, add_pinhole, add_subnet, parse,
    set_device,
};

fn apply(declaration: Declaration) -> Change {
    Change::Apply(Box::new(Apply {
        declaration,
        revision: None,
    }))
}

/// As it comes back from a file.
fn read_back(declaration: &Declaration) -> Declaration {
    let text = serde_json::to_string(declaration).unwrap();
    assert!(!text.contains("preshared"), "{text}");
    serde_json::from_str(&text).unwrap()
}

fn home() -> World {
    World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:1::/64"),
        add_device("nas"),
        add_device("phone"),
        add_forward("443/tcp", "nas"),
        add_pinhole("nas", "8443/tcp"),
    ])
}

fn refusal(world: &World, change: impl FnOnce(&mut Declaration)) -> (String, String) {
    let mut declaration = Declaration::of(&world.state);
    change(&mut declaration);
    match world.refused(apply(declaration)) {
        Refusal::DeclarationRefused {
            object,
            reason,
            hint,
        } => {
            assert!(!hint.is_empty());
            (object, reason)
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_exported_and_applied_changes_nothing(
        start in starts(),
        sequence in proptest::collection::vec(changes(), 1..60),
    ) {
        let mut world = start;
        add_listener(&mut world.facts, Protocol::Tcp, "198.51.100.6", 443);
        for change in sequence {
            if world.change(change).is_ok() {
                let declaration = read_back(&Declaration::of(&world.state));
                prop_assert_eq!(world.decide(apply(declaration)), Ok(Vec::new()));
            }
        }
        // Nor when the host is another by then.
        world.facts.routes.clear();
        world.now += 1_000;
        let declaration = Declaration::of(&world.state);
        prop_assert_eq!(world.decide(apply(declaration)), Ok(Vec::new()));
    }

    #[test]
    fn what_one_gateway_exports_makes_another_like_it(
        start in starts(),
        here in proptest::collection::vec(changes(), 0..40),
        there in proptest::collection::vec(changes(), 0..40),
    ) {
        let mut ours = start.clone();
        let mut theirs = start;
        for change in here {
            let _ = ours.change(change);
        }
        for change in there {
            let _ = theirs.change(change);
        }
        let declaration = Declaration::of(&theirs.state);
        let before = ours.state.clone();
        let edits = ours.change(apply(read_back(&declaration)));
        prop_assert!(edits.is_ok(), "{:?}\n{:#?}", edits, declaration);
        prop_assert_eq!(Declaration::of(&ours.state), sorted_like(&declaration, &ours.state));
        check_state(&ours);
        check_desired(&ours, &ours.desired());
        // A device that keeps its key keeps the other one, and its id.
        for device in before.devices.values() {
            if let Some(after) = ours.state.device_with_key(device.public_key) {
                prop_assert_eq!(after.id, device.id);
                prop_assert_eq!(after.preshared_key, device.preshared_key);
            }
        }
        prop_assert_eq!(ours.decide(apply(declaration)), Ok(Vec::new()));
    }
}

/// Forwards and pinholes are in the order of their ids, which differ from gateway to gateway.
fn sorted_like(declaration: &Declaration, state: &State) -> Declaration {
    let ours = Declaration::of(state);
    let mut sorted = declaration.clone();
    let place = |list: &[_], item: &_| list.iter().position(|it| it == item);
    sorted.forward.sort_by_key(|it| place(&ours.forward, it));
    let place = |list: &[_], item: &_| list.iter().position(|it| it == item);
    sorted.pinhole.sort_by_key(|it| place(&ours.pinhole, it));
    sorted
}

#[test]
fn devices_change_places_with_each_other() {
    let mut world = home();
    let before = (world.device("nas").clone(), world.device("phone").clone());
    let mut declaration = Declaration::of(&world.state);
    let nas = declaration.device.get_mut("nas").unwrap();
    nas.ipv4 = Some(before.1.ipv4);
    let phone = declaration.device.get_mut("phone").unwrap();
    phone.ipv4 = Some(before.0.ipv4);
    world.change(apply(declaration)).unwrap();
    assert_eq!(world.device("nas").ipv4, before.1.ipv4);
    assert_eq!(world.device("phone").ipv4, before.0.ipv4);
    check_state(&world);
}

#[test]
fn a_device_is_known_by_its_key_then_by_its_name() {
    let mut world = home();
    let before = world.device("nas").clone();
    let mut declaration = Declaration::of(&world.state);
    let nas = declaration.device.remove("nas").unwrap();
    declaration.device.insert("box".to_owned(), nas);
    declaration.forward[0].device = "box".to_owned();
    declaration.pinhole[0].device = "box".to_owned();
    let edits = world.change(apply(declaration)).unwrap();
    assert_eq!(edits.len(), 1, "{edits:?}");
    assert_eq!(world.device("box").id, before.id);
    assert_eq!(world.device("box").preshared_key, before.preshared_key);

    let mut declaration = Declaration::of(&world.state);
    let key = PublicKey::from_bytes([77; 32]);
    declaration.device.get_mut("box").unwrap().public_key = Some(key);
    world.change(apply(declaration)).unwrap();
    let after = world.device("box");
    assert_eq!((after.id, after.public_key), (before.id, key));
    assert_ne!(after.preshared_key, before.preshared_key);
}

#[test]
fn what_is_not_said_is_as_it_is_or_chosen() {
    let mut world = home();
    let mut declaration = Declaration::of(&world.state);
    let nas = declaration.device.get_mut("nas").unwrap();
    (nas.ipv4, nas.public_key, nas.subnet) = (None, None, None);
    let subnet = declaration.subnet.get_mut("home").unwrap();
    subnet.ipv6 = None;
    assert_eq!(world.decide(apply(declaration.clone())), Ok(Vec::new()));

    // New devices get the lowest free addresses, whatever others name.
    let new = |key: u8, ipv4: Option<&str>| DeclaredDevice {
        ipv4: ipv4.map(parse),
        public_key: Some(PublicKey::from_bytes([key; 32])),
        ..declaration.device["phone"].clone()
    };
    let mut wanted = declaration.clone();
    wanted.device.insert("aaa".to_owned(), new(50, None));
    wanted
        .device
        .insert("zzz".to_owned(), new(51, Some("10.59.0.4")));
    world.change(apply(wanted)).unwrap();
    assert_eq!(world.device("zzz").ipv4.to_string(), "10.59.0.4");
    assert_eq!(world.device("aaa").ipv4.to_string(), "10.59.0.5");
    assert_ne!(
        world.device("aaa").preshared_key,
        world.device("zzz").preshared_key
    );
}

#[test]
fn what_is_not_there_any_more_goes_with_what_stood_on_it() {
    let mut world = home();
    world.change(apply(Declaration::default())).unwrap();
    let state = &world.state;
    assert!(state.subnets.is_empty() && state.devices.is_empty());
    assert!(state.forwards.is_empty() && state.pinholes.is_empty());
}

#[test]
fn leases_are_not_declared_and_give_way() {
    let mut world = home();
    let patch = SetDevice {
        auto_ports: Patch::Set(true),
        ..SetDevice::default()
    };
    world.change(set_device("nas", patch)).unwrap();
    let mut wish = wish(world.device("nas").id, Mechanism::Pcp, 8080);
    (wish.protocol, wish.external) = (Some(Protocol::Tcp), Some(8080));
    let ask = Change::RequestLease(Box::new(wish));
    world.change(ask).unwrap();
    let mut declaration = Declaration::of(&world.state);
    assert_eq!(declaration.forward.len(), 1);
    world.change(apply(declaration.clone())).unwrap();
    assert_eq!(world.state.leases.len(), 1);

    declaration.forward[0].port = 8080;
    declaration.forward[0].target_port = Some(443);
    world.change(apply(declaration.clone())).unwrap();
    assert!(world.state.leases.is_empty());
    assert_eq!(world.state.forwards.len(), 1);
}

#[test]
fn a_refusal_names_the_object_of_the_declaration() {
    let world = home();
    let (object, reason) = refusal(&world, |it| {
        it.device.get_mut("nas").unwrap().ipv4 = Some(parse("10.60.0.2"));
    });
    assert_eq!(object, "device `nas`");
    assert!(reason.contains("10.60.0.2"), "{reason}");
    let (object, reason) = refusal(&world, |it| it.forward[0].device = "nobody".to_owned());
    assert_eq!(object, "forward 443");
    assert!(reason.contains("nobody"), "{reason}");
    let (object, reason) = refusal(&world, |it| {
        let mut device = it.device["nas"].clone();
        device.public_key = None;
        it.device.insert("new".to_owned(), device);
    });
    assert_eq!(object, "device `new`");
    assert!(reason.contains("public key"), "{reason}");
    let (object, _) = refusal(&world, |it| {
        let mut device = it.device["nas"].clone();
        device.ipv4 = None;
        it.device.insert("twin".to_owned(), device);
    });
    assert_eq!(object, "device `twin`");
    let (object, _) = refusal(&world, |it| {
        it.forward.push(it.forward[0].clone());
    });
    assert_eq!(object, "forward 443");
    let (object, _) = refusal(&world, |it| it.settings.listen_port = 0);
    assert_eq!(object, "settings");
    let (object, _) = refusal(&world, |it| {
        it.subnet.get_mut("home").unwrap().ipv4 = parse("127.0.0.0/24");
    });
    assert_eq!(object, "subnet `home`");
    let (object, _) = refusal(&world, |it| {
        it.uplink.insert(
            "eth9".to_owned(),
            adit_model::declaration::DeclaredUplink {
                endpoint: Some("gw.example".to_owned()),
                ..Default::default()
            },
        );
    });
    assert_eq!(object, "uplink `eth9`");
}

/// A file of ten thousand devices is decided in a time that a person waits for, and one that differs little needs little.
#[test]
fn many_devices_are_applied_at_once() {
    let mut world = World::on_link().with([
        add_subnet("home", "10.0.0.0/16", "2001:db8:1::/64"),
        add_device_at("first", "10.0.0.2"),
    ]);
    let mut declaration = Declaration::of(&world.state);
    let model = declaration.device["first"].clone();
    for number in 0..10_000_u32 {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        let device = DeclaredDevice {
            ipv4: None,
            public_key: Some(PublicKey::from_bytes(key)),
            ..model.clone()
        };
        declaration.device.insert(format!("d{number}"), device);
    }
    world.change(apply(declaration)).unwrap();
    assert_eq!(world.state.devices.len(), 10_001);
    let patch = SetDevice {
        enabled: Some(false),
        ..SetDevice::default()
    };
    world.change(set_device("d77", patch)).unwrap();
    let mut declaration = Declaration::of(&world.state);
    declaration.device.get_mut("d77").unwrap().enabled = true;
    let edits = world.change(apply(declaration)).unwrap();
    assert_eq!(edits.len(), 1, "{edits:?}");
}
