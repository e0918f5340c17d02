//! Changes that await their confirmation: taken back they leave nothing, and what came later stays.

use adit_model::change::{
    AddToken, Apply, Change, SetDevice, SetForward, SetSettings, SetSubnet, SetUplink,
};
use adit_model::confirmation::{may_cut_off, taken_back};
use adit_model::decide::decide_awaiting;
use adit_model::declaration::Declaration;
use adit_model::edit::{Edit, Key};
use adit_model::refusal::Refusal;
use adit_model::state::{Scope, State};
use proptest::prelude::*;

use crate::invariants::{changes, check_desired, check_state, starts};
use crate::world::{
    NOW, World, add_device, add_device_at, add_device_in, add_forward, add_subnet, parse,
    set_device, set_forward,
};

fn home() -> World {
    World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:1::/64"),
        add_device("admin"),
        add_device("nas"),
        add_forward("8080/tcp", "nas"),
    ])
}

/// Makes a change that awaits its confirmation; `source` is where it comes from, if that decides.
fn await_change(world: &mut World, change: Change, source: Option<&str>) -> Result<bool, Refusal> {
    let edits = decide_awaiting(
        &world.state,
        change,
        &world.facts,
        world.now,
        &[3; 64],
        (NOW + 60, source.map(parse)),
    )?;
    world.state.revision += 1;
    // What awaits is of the revision that it makes.
    for edit in &edits {
        world.state.absorb(edit);
    }
    Ok(edits.iter().any(|edit| edit.key() == Key::Confirmation))
}

fn take_back(world: &mut World) {
    let revision = world.state.confirmation.as_ref().unwrap().revision;
    world.change(Change::TakeBack(revision)).unwrap();
    assert_eq!(world.state.confirmation, None);
}

/// The state, but for what only goes up.
fn content(state: &State) -> State {
    let mut state = state.clone();
    (state.revision, state.sequence, state.confirmation) = (0, 0, None);
    // What devices opened gives way, and does not come back.
    let leases: Vec<Key> = state.leases.keys().map(|id| Key::Lease(*id)).collect();
    for key in leases {
        state.absorb(&Edit::Remove(key));
    }
    state
}

fn disable(name: &str, enabled: bool) -> Change {
    set_device(
        name,
        SetDevice {
            enabled: Some(enabled),
            ..SetDevice::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_taken_back_was_never_there_and_what_came_later_stays(
        start in starts(),
        before in proptest::collection::vec(changes(), 0..20),
        awaited in changes(),
        declared in proptest::collection::vec(changes(), 0..8),
        later in proptest::collection::vec(changes(), 0..30),
    ) {
        let mut world = start;
        for change in before {
            let _ = world.change(change);
        }
        // Every other time a whole declaration, which touches more.
        let change = if declared.is_empty() {
            awaited
        } else {
            let mut other = world.clone();
            for change in declared {
                let _ = other.change(change);
            }
            let declaration = Declaration::of(&other.state);
            Change::Apply(Box::new(Apply { declaration, revision: None }))
        };
        let first = world.state.clone();
        if await_change(&mut world, change, None) != Ok(true) {
            return Ok(());
        }
        prop_assert_eq!(content(&taken_back(&world.state)), content(&first));
        let changed = world.state.clone();
        for change in later {
            let _ = world.change(change);
            prop_assert!(world.state.confirmation.is_some());
        }
        let kept = world.state.clone();
        take_back(&mut world);
        check_state(&world);
        check_desired(&world, &world.desired());
        // An object that only the later changes touched is as they left it.
        for (_, object) in kept.objects() {
            let key = object.key();
            if matches!(key, Key::Sequence | Key::Confirmation | Key::Lease(_)) {
                continue;
            }
            if first.object(key) == changed.object(key) {
                prop_assert_eq!(world.state.object(key), Some(object));
            }
        }
    }
}

#[test]
fn later_changes_of_the_same_object_stay_field_by_field() {
    let mut world = home();
    let patch = SetDevice {
        ipv4: Some(parse("10.59.0.77")),
        ..SetDevice::default()
    };
    assert_eq!(
        await_change(&mut world, set_device("nas", patch), None),
        Ok(true)
    );
    let rename = SetDevice {
        name: Some("box".to_owned()),
        ..SetDevice::default()
    };
    let mut world = world.with([set_device("nas", rename)]);
    take_back(&mut world);
    assert_eq!(world.device("box").ipv4.to_string(), "10.59.0.3");
}

#[test]
fn what_would_be_in_the_way_is_refused_until_it_is_confirmed() {
    let mut world = home();
    let change = Change::RemoveDevice("nas".to_owned());
    assert_eq!(await_change(&mut world, change, None), Ok(true));
    for (change, word) in [
        (add_device_at("thief", "10.59.0.3"), "10.59.0.3"),
        (add_device("nas"), "nas"),
        (add_forward("8080/tcp", "admin"), "8080"),
        (
            Change::RemoveSubnet {
                reference: "home".to_owned(),
                force: true,
            },
            "",
        ),
    ] {
        match world.decide(change) {
            Err(Refusal::AwaitsConfirmation { reason, .. }) => {
                assert!(reason.contains(word), "{reason}")
            }
            // A subnet that goes takes along what would come back.
            Ok(_) if word.is_empty() => {}
            other => panic!("{other:?}"),
        }
    }
    let mut confirmed = world.clone().with([Change::Confirm]);
    assert_eq!(confirmed.state.confirmation, None);
    confirmed.change(add_device("nas")).unwrap();
    let refusal = confirmed.refused(Change::Confirm);
    assert!(matches!(refusal, Refusal::NothingToConfirm { .. }));

    // What is new by the change that awaits is nothing to build on.
    let mut world = home();
    let change = add_subnet("new", "10.60.0.0/24", "none");
    assert_eq!(await_change(&mut world, change, None), Ok(true));
    let refusal = world.refused(add_device_in("new", "x"));
    assert!(refusal.to_string().contains("`new`"), "{refusal}");
    // Nor does a second one await at the same time.
    let other = await_change(&mut world, disable("nas", false), None);
    assert!(matches!(other, Err(Refusal::AwaitsConfirmation { .. })));
    // Taken back by another's number it stays.
    assert_eq!(world.decide(Change::TakeBack(1)), Ok(Vec::new()));
}

#[test]
fn tokens_come_back_with_their_device() {
    let token = |device: Option<&str>| {
        Change::AddToken(AddToken {
            name: "ci".to_owned(),
            hash: "00".repeat(32),
            scopes: [Scope::Read].into(),
            device: device.map(str::to_owned),
            expires: None,
        })
    };
    let mut world = home().with([token(Some("nas"))]);
    let before = content(&world.state);
    let change = Change::RemoveDevice("nas".to_owned());
    assert_eq!(await_change(&mut world, change, None), Ok(true));
    assert!(world.state.tokens.is_empty());
    let refusal = world.refused(token(None));
    assert!(refusal.to_string().contains("`ci`"), "{refusal}");
    take_back(&mut world);
    assert_eq!(content(&world.state), before);
}

#[test]
fn what_may_cut_off_is_what_the_connection_hangs_on() {
    let world = home();
    let wide = Change::SetSubnet(
        "home".to_owned(),
        SetSubnet {
            host_access: Some(true),
            ..SetSubnet::default()
        },
    );
    let port = Change::SetSettings(SetSettings {
        listen_port: Some(51821),
        ..SetSettings::default()
    });
    let endpoint = Change::SetUplink(
        None,
        SetUplink {
            endpoint: adit_model::change::Patch::Set("gw.example.com".to_owned()),
            ..SetUplink::default()
        },
    );
    let label = set_forward(
        world.state.forwards.keys().next().unwrap().0,
        SetForward {
            label: Some("web".to_owned()),
            ..SetForward::default()
        },
    );
    for (change, may) in [
        (disable("admin", false), true),
        (disable("nas", false), false),
        (Change::RemoveDevice("admin".to_owned()), true),
        (wide, true),
        (port, true),
        (endpoint, true),
        (label, false),
        (add_device("new"), false),
        (add_forward("9000/tcp", "nas"), false),
    ] {
        let ipv6 = world.ipv6_of("admin").unwrap();
        for source in ["10.59.0.2", ipv6.as_str()] {
            let text = format!("{change:?} from {source}");
            let awaits = await_change(&mut world.clone(), change.clone(), Some(source));
            assert_eq!(awaits, Ok(may), "{text}");
        }
        let awaits = await_change(&mut world.clone(), change, Some("198.51.100.9"));
        assert_eq!(awaits, Ok(false));
    }
    // Nobody's address of a subnet: it is not known what it hangs on.
    let edits: Vec<Edit> = Vec::new();
    let (state, facts) = (&world.state, &world.facts);
    let foreign = parse("10.59.0.200");
    assert!(may_cut_off(state, state, &edits, facts, NOW, foreign));
}
