//! Which free ports are found, beside a reference that asks for each of them.

use adit_model::change::{Change, Patch, RequestLease, SetDevice};
use adit_model::decide::lease::granted;
use adit_model::protocol::Protocol;
use adit_model::state::{DeviceId, Mechanism};
use proptest::prelude::*;
use proptest::sample::select;

use super::{home, wish};
use crate::world::{World, add_forward, add_listener, set_device};

/// The public ports that the device may have: two ranges, and one port between them.
const RANGES: [(u16, u16); 3] = [(5300, 5360), (5400, 5400), (5500, 5620)];

#[derive(Clone, Debug)]
enum Taken {
    Forward(u16, u16),
    Listener(u16),
    Lease {
        is_own: bool,
        is_kept: bool,
        mechanism: Mechanism,
        protocol: Protocol,
        port: u16,
        count: u16,
    },
}

fn ports() -> impl Strategy<Value = u16> {
    prop_oneof![5300_u16..5360, Just(5400), 5500_u16..5620]
}

fn taken() -> impl Strategy<Value = Taken> {
    let lease = (
        any::<[bool; 2]>(),
        select(&Mechanism::ALL[..]),
        select(&Protocol::ALL[..]),
        ports(),
        1_u16..12,
    )
        .prop_map(
            |([is_own, is_kept], mechanism, protocol, port, count)| Taken::Lease {
                is_own,
                is_kept,
                mechanism,
                protocol,
                port,
                count,
            },
        );
    prop_oneof![
        1 => (ports(), 0_u16..20).prop_map(|(port, more)| Taken::Forward(port, port + more)),
        1 => ports().prop_map(Taken::Listener),
        8 => lease,
    ]
}

fn request(device: DeviceId, mechanism: Mechanism, protocol: Protocol, port: u16) -> RequestLease {
    RequestLease {
        protocol: Some(protocol),
        ..wish(device, mechanism, port)
    }
}

/// Takes what is free of it.
fn take(world: &mut World, number: u16, taken: &Taken) {
    match *taken {
        Taken::Forward(first, last) => {
            let _ = world.change(add_forward(&format!("{first}-{last}"), "box"));
        }
        Taken::Listener(port) => add_listener(&mut world.facts, Protocol::Udp, "0.0.0.0", port),
        Taken::Lease {
            is_own,
            is_kept,
            mechanism,
            protocol,
            port,
            count,
        } => {
            let device = world.id(if is_own { "nas" } else { "box" });
            let internal = 20_000 + number * 20;
            let wish = RequestLease {
                external: Some(port),
                count,
                ..request(device, mechanism, protocol, internal)
            };
            let is_given = world.ask(&wish).is_ok();
            if is_given && is_kept && mechanism == Mechanism::Pcp && protocol == Protocol::Udp {
                world.end(device, internal, 1).unwrap();
            }
        }
    }
}

proptest! {
    #[test]
    fn as_many_ports_are_found_as_there_are(
        all in proptest::collection::vec(taken(), 0..60),
        mechanism in select(vec![Mechanism::Pcp, Mechanism::NatPmp]),
        protocol in select(&Protocol::ALL[..]),
        count in select(vec![1_u16, 1, 2, 3, 8, 20, 64, 130]),
        parity in any::<bool>(),
        internal in select(vec![7000_u16, 7001, 8011, 9234]),
    ) {
        let of = |ranges: &[(u16, u16)], quota| {
            let patch = SetDevice {
                lease_quota: Patch::Set(quota),
                auto_port_ranges: Patch::Set(ranges.to_vec()),
                ..SetDevice::default()
            };
            set_device("nas", patch)
        };
        let mut world = home().with([of(&RANGES, 1000)]);
        for (number, taken) in (0_u16..).zip(&all) {
            take(&mut world, number, taken);
        }
        let request = RequestLease {
            count,
            parity,
            ..request(world.id("nas"), mechanism, protocol, internal)
        };
        let is_free = |first: u16, count: u16| {
            let exact = RequestLease {
                external: Some(first),
                exact: true,
                parity: false,
                count,
                ..request.clone()
            };
            world.decide(Change::RequestLease(Box::new(exact))).is_ok()
        };
        let is_wanted = |first: &u16| !parity || first % 2 == internal % 2;
        let halves = std::iter::successors(Some(count), |count| Some(count / 2));
        let most = halves.take_while(|count| *count > 0).find(|count| {
            let firsts = RANGES.iter().flat_map(|(first, last)| *first..=*last);
            firsts.filter(is_wanted).any(|first| is_free(first, *count))
        });
        let mut after = world.clone();
        match (most, after.change(Change::RequestLease(Box::new(request.clone())))) {
            (None, given) => prop_assert!(given.is_err(), "{:?}", given),
            (Some(most), given) => {
                given.unwrap();
                let grant = granted(&after.state, &after.facts, &request, after.now).unwrap();
                prop_assert_eq!(grant.count, most);
                prop_assert!(is_wanted(&grant.external) && is_free(grant.external, most));
            }
        }
    }
}
