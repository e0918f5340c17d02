//! Deriving a little after each change leads to the same as deriving everything, and so do the plans.

use std::collections::BTreeSet;
use std::sync::Arc;

use adit_model::change::Change;
use adit_model::desired::Desired;
use adit_model::desired::derive::{Derivation, Inputs, derive};
use adit_model::desired::firewall::Firewall;
use adit_model::facts::AddressFact;
use adit_model::key::PrivateKey;
use adit_model::plan::plan_change;
use adit_model::protocol::Protocol;
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::FileFailurePersistence;

use crate::invariants::{changes, starts};
use crate::world::{NOW, TUNNEL, World, add_listener, parse};

#[derive(Clone, Debug)]
enum Event {
    /// Several changes share a commit.
    Changes(Vec<Change>),
    /// The clock goes on, or is set.
    Clock(u64),
    /// The host gets an address, or loses it.
    Address(&'static str, &'static str),
    /// The default routes of an uplink come or go.
    Routes(&'static str),
    /// A service begins to listen.
    Listener(u16),
    /// IPv6 is switched on or off.
    Ipv6,
}

fn events() -> impl Strategy<Value = Event> {
    let address = (
        select(vec!["eth0", "eth1"]),
        select(vec![
            "203.0.113.10/24",
            "198.51.100.6/24",
            "10.59.0.3/32",
            "2001:db8:1::a3b:2/64",
            "2001:db8:1::77/64",
        ]),
    );
    prop_oneof![
        12 => proptest::collection::vec(changes(), 1..4).prop_map(Event::Changes),
        2 => select(vec![NOW - 10, NOW, NOW + 1, NOW + 49, NOW + 50, NOW + 100]).prop_map(Event::Clock),
        1 => address.prop_map(|(link, address)| Event::Address(link, address)),
        1 => select(vec!["eth0", "eth1"]).prop_map(Event::Routes),
        1 => select(vec![443_u16, 50000]).prop_map(Event::Listener),
        1 => Just(Event::Ipv6),
    ]
}

fn happen(world: &mut World, event: Event, original: &World) {
    match event {
        Event::Changes(changes) => {
            for change in changes {
                // What is refused changes nothing.
                let _ = world.change(change);
            }
        }
        Event::Clock(now) => world.now = now,
        Event::Address(interface, address) => {
            let fact = AddressFact {
                interface: interface.to_owned(),
                address: parse::<IpNet>(address),
            };
            if !world.facts.addresses.remove(&fact) {
                world.facts.addresses.insert(fact);
            }
        }
        Event::Routes(interface) => {
            let is_there = world
                .facts
                .routes
                .iter()
                .any(|it| it.interface == interface);
            if is_there {
                world.facts.routes.retain(|it| it.interface != interface);
            } else {
                let routes = original.facts.routes.iter();
                let back = routes.filter(|it| it.interface == interface).cloned();
                world.facts.routes.extend(back);
            }
        }
        Event::Listener(port) => add_listener(&mut world.facts, Protocol::Tcp, "0.0.0.0", port),
        Event::Ipv6 => world.facts.ipv6 = !world.facts.ipv6,
    }
}

/// The steps as a set: the order among alike ones does not matter.
fn steps(from: &Desired, to: &Desired) -> BTreeSet<String> {
    let steps = plan_change(from, to);
    steps.iter().map(|step| format!("{step:?}")).collect()
}

/// The elements that lead from one table to the other, if elements suffice.
fn delta(from: &Desired, to: &Desired) -> Option<String> {
    let (from, to) = from.firewall.as_ref().zip(to.firewall.as_ref())?;
    Some(Firewall::delta(from, to)?.render())
}

proptest! {
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 20_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/decisions/incremental.seeds"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn deriving_a_little_leads_to_the_same_as_deriving_everything(
        start in starts(),
        history in proptest::collection::vec(events(), 1..40),
    ) {
        let key = PrivateKey::from_random([1; 32]);
        let original = start.clone();
        let mut world = start;
        let mut kept = Derivation::new(&inputs(&world, &key));
        for event in history {
            let before = Arc::clone(kept.desired());
            let text = format!("{event:?}");
            happen(&mut world, event, &original);
            let whole = derive(&inputs(&world, &key));
            let little = kept.update(&inputs(&world, &key));
            prop_assert_eq!(&**little, &whole, "after {}", text);
            prop_assert_eq!(steps(&before, little), steps(&rebuilt(&before), &whole));
            prop_assert_eq!(delta(&before, little), delta(&rebuilt(&before), &whole));
        }
    }
}

fn inputs<'a>(world: &'a World, private_key: &'a PrivateKey) -> Inputs<'a> {
    Inputs {
        state: &world.state,
        facts: &world.facts,
        interface: TUNNEL,
        private_key,
        now: world.now,
    }
}

/// The same without sharing anything.
fn rebuilt(desired: &Desired) -> Desired {
    let mut copy = desired.clone();
    copy.routes = desired.routes.iter().cloned().collect();
    copy.neighbors = desired.neighbors.iter().cloned().collect();
    if let Some(wireguard) = &mut copy.wireguard {
        wireguard.peers = wireguard
            .peers
            .iter()
            .map(|(key, peer)| (*key, peer.clone()))
            .collect();
    }
    if let Some(firewall) = &mut copy.firewall {
        let forwards = &firewall.translations4.forwards;
        firewall.translations4.forwards = forwards.iter().map(|(port, to)| (*port, *to)).collect();
    }
    copy
}
