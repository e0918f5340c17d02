//! Hostile devices that ask for anything by any mechanism, beside a reference that knows what they may have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use adit_model::change::{
    Change, EndLease, EndLeases, ExpireLeases, LeasePort, Parties, RequestLease,
};
use adit_model::configuration::Routing;
use adit_model::decide::lease::{granted, lifetime};
use adit_model::edit::{Edit, Key, Object};
use adit_model::protocol::{PortRange, Protocol};
use adit_model::state::{DeviceId, Family, Filter, Lease, LeaseId, Mechanism, Nonce, Opening};
use adit_model::uplink;
use proptest::prelude::*;
use proptest::sample::select;

use super::{all_ports, home, wish};
use crate::world::{World, add_forward, parse};

fn owners() -> impl Strategy<Value = DeviceId> {
    // Subnets are the first objects, and devices come after them.
    (2_u64..7).prop_map(DeviceId)
}

fn mechanisms() -> impl Strategy<Value = Mechanism> {
    select(&Mechanism::ALL[..])
}

fn ports() -> impl Strategy<Value = u16> {
    select(vec![
        0, 22, 80, 1024, 5000, 5001, 5005, 5350, 5351, 8005, 41000, 51820, 60000, 65535,
    ])
}

fn requests() -> impl Strategy<Value = Change> {
    let parties = (owners(), owners(), any::<bool>()).prop_map(|(asking, owner, own)| Parties {
        asking,
        owner: if own { asking } else { owner },
    });
    let side = (
        select(vec![Family::Ipv4, Family::Ipv4, Family::Ipv6]),
        targets(),
    );
    let external = (proptest::option::of(ports()), any::<bool>(), any::<bool>());
    let set = (select(vec![1_u16, 1, 1, 2, 7, 300, 65535]), any::<bool>());
    let rest = (
        select(vec![1_u32, 60, 600, 7200, 100_000, u32::MAX]),
        select(vec![1_u8, 1, 2]),
        proptest::option::weighted(0.2, select(vec!["198.51.100.9:53", "192.0.2.1:80"])),
        proptest::option::weighted(0.2, select(vec!["192.0.2.0/24", "192.0.2.7/32"])),
    );
    (parties, mechanisms(), side, external, set, rest).prop_map(
        |(parties, mechanism, (family, (protocol, internal)), external, set, rest)| {
            let (external, exact, clear_filters) = external;
            let (lifetime, nonce, remote, filter) = rest;
            let is_pcp = mechanism == Mechanism::Pcp;
            let filters = filter.filter(|_| is_pcp && family == Family::Ipv4);
            Change::RequestLease(Box::new(RequestLease {
                parties,
                family,
                protocol,
                external: external.filter(|port| *port != 0),
                exact,
                count: set.0,
                parity: set.1,
                lifetime,
                nonce: is_pcp.then_some(Nonce([nonce; 12])),
                clear_filters,
                filters: (filters.into_iter())
                    .map(|network| Filter {
                        network: parse(network),
                        port: internal,
                    })
                    .collect(),
                remote: remote
                    .filter(|_| is_pcp && family == Family::Ipv4)
                    .map(parse),
                ..wish(parties.owner, mechanism, internal)
            }))
        },
    )
}

/// A port or all of them, and sometimes all protocols, which single ports cannot have.
fn targets() -> impl Strategy<Value = (Option<Protocol>, u16)> {
    prop_oneof![
        18 => (select(&Protocol::ALL[..]).prop_map(Some), ports()),
        2 => Just((None, 0)),
        1 => (Just(None), ports()),
    ]
}

/// What few of the other requests are: for all of the device's own address, as it may be had.
fn requests_for_all() -> impl Strategy<Value = Change> {
    let protocols = select(vec![None, None, Some(Protocol::Tcp), Some(Protocol::Udp)]);
    let nonces = select(vec![1_u8, 1, 2]);
    (owners(), protocols, nonces).prop_map(|(device, protocol, nonce)| {
        Change::RequestLease(Box::new(RequestLease {
            family: Family::Ipv6,
            protocol,
            nonce: Some(Nonce([nonce; 12])),
            ..wish(device, Mechanism::Pcp, 0)
        }))
    })
}

/// Whatever devices ask, and time that passes.
pub(crate) fn lease_changes() -> impl Strategy<Value = Change> {
    let end = (
        owners(),
        mechanisms(),
        targets(),
        select(vec![1_u8, 1, 2]),
        any::<[bool; 2]>(),
    )
        .prop_map(
            |(device, mechanism, (protocol, port), nonce, [by_external, is_ipv6])| {
                Change::EndLease(EndLease {
                    parties: Parties::own(device),
                    mechanism,
                    family: if is_ipv6 { Family::Ipv6 } else { Family::Ipv4 },
                    protocol,
                    port: if by_external {
                        LeasePort::External(port)
                    } else {
                        LeasePort::Internal(port)
                    },
                    nonce: (mechanism == Mechanism::Pcp).then_some(Nonce([nonce; 12])),
                })
            },
        );
    let all = (owners(), mechanisms(), select(&Protocol::ALL[..])).prop_map(
        |(device, mechanism, protocol)| {
            Change::EndLeases(EndLeases {
                device,
                mechanism,
                protocol,
            })
        },
    );
    let expire = (1_u64..40).prop_map(|id| {
        Change::ExpireLeases(ExpireLeases {
            over: vec![(LeaseId(id), crate::world::NOW + 150)],
            since: crate::world::NOW - 100,
        })
    });
    let remove = (1_u64..40).prop_map(|id| Change::RemoveLease(id.to_string()));
    prop_oneof![10 => requests(), 2 => requests_for_all(), 3 => end, 1 => all, 1 => expire, 1 => remove]
}

/// What must always be true of leases.
pub(crate) fn check_leases(world: &World) {
    let state = &world.state;
    let uplinks = uplink::list(state, &world.facts);
    let mut taken: BTreeMap<(IpAddr, Protocol, u16), String> = BTreeMap::new();
    for forward in state.forwards.values() {
        let device = &state.devices[&forward.device];
        let subnet = &state.subnets[&device.subnet];
        let places = forward.local_addresses(subnet, device, &uplinks, &world.facts);
        for (address, port) in places
            .iter()
            .flat_map(|address| (forward.port..=forward.port_end).map(move |port| (*address, port)))
        {
            for protocol in &forward.protocols {
                let owner = format!("forward {}", forward.id);
                taken.insert((address, *protocol, port), owner);
            }
        }
    }
    let snat = PortRange::new(state.settings.snat_first, state.settings.snat_last).unwrap();
    let mut sums: BTreeMap<DeviceId, u32> = BTreeMap::new();
    let mut kept: BTreeMap<DeviceId, u32> = BTreeMap::new();
    for lease in state.leases.values().filter(|lease| !lease.is_open()) {
        *kept.entry(lease.device).or_default() += u32::from(lease.weight());
    }
    let mut outbound: BTreeMap<(DeviceId, Protocol, u16), u16> = BTreeMap::new();
    let mut whole = BTreeSet::new();
    for lease in state.leases.values().filter(|lease| lease.is_open()) {
        let device = &state.devices[&lease.device];
        *sums.entry(device.id).or_default() += u32::from(lease.weight());
        let asking = &state.devices[&lease.asking.unwrap_or(lease.device)];
        let is_own = asking.id == device.id;
        assert!(asking.has_auto_ports() && asking.enabled && device.enabled);
        assert!(asking.routing != Routing::Split && device.routing != Routing::Split);
        assert!(is_own || (asking.port_policy.third_party && asking.subnet == device.subnet));
        let asked = state.leases_asked_by(asking.id);
        assert_eq!(
            asked.filter(|it| it.id == lease.id).count(),
            usize::from(!is_own)
        );
        if lease.is_whole() {
            let is_first = whole.insert((lease.device, lease.protocol));
            let is_allowed = device.port_policy.all_ports && device.port_policy.ranges.is_empty();
            let is_own = (lease.family, lease.opening) == (Family::Ipv6, Opening::Pinhole);
            assert!(is_first && is_allowed && is_own, "{lease:?}");
            continue;
        }
        let external = lease.external_ports().unwrap();
        assert!(lease.internal_ports().is_some());
        let is_own = (device.auto_port_ranges().iter())
            .any(|range| range.contains(external.first()) && range.contains(external.last()));
        let shares = lease.opening == Opening::Outbound;
        let (address, _) = match state.lease_place(lease, &uplinks, &world.facts) {
            Some(place) => place,
            None => continue,
        };
        let protocol = lease.protocol.unwrap();
        if shares {
            let side = (lease.device, protocol, lease.internal);
            let first = outbound.entry(side).or_insert(lease.external);
            assert_eq!(*first, lease.external, "one port outwards");
            continue;
        }
        assert!(is_own, "{lease:?} is none of the ports of its device");
        if lease.opening == Opening::Forward {
            assert!(!external.overlaps(snat), "{lease:?}");
            assert!(protocol != Protocol::Tcp || !external.contains(22));
            assert!(!external.contains(5351), "{lease:?}");
            if protocol == Protocol::Udp {
                for port in [1900, 5350, state.settings.listen_port] {
                    assert!(!external.contains(port), "{lease:?}");
                }
            }
        }
        for port in external.first()..=external.last() {
            let key = (address, protocol, port);
            let other = taken.insert(key, format!("lease {}", lease.id));
            assert_eq!(other, None, "{address} {port} of {lease:?}");
        }
    }
    for device in state.devices.values() {
        let of = |sums: &BTreeMap<DeviceId, u32>| sums.get(&device.id).copied().unwrap_or_default();
        let (open, kept) = (of(&sums), of(&kept));
        assert_eq!(state.leased_ports(device.id), open);
        assert_eq!(state.kept_ports(device.id), kept);
        let quota = device.lease_quota();
        assert!(open + kept <= quota, "{open} open, {kept} kept of {quota}");
    }
}

proptest! {
    #[test]
    fn devices_affect_nothing_but_their_own(
        history in proptest::collection::vec((lease_changes(), 0_u64..400), 1..60),
    ) {
        let mut world = home().with([
            add_forward("8005", "box"),
            add_forward("5001/tcp", "nas"),
            all_ports("nas"),
        ]);
        // Until when each lease may be in force at the most, as the reference has it.
        let mut ends: BTreeMap<LeaseId, u64> = BTreeMap::new();
        for (change, pause) in history {
            world.now += pause;
            let before = world.state.clone();
            let text = format!("{change:?}");
            let asked = match &change {
                Change::RequestLease(wish) => Some((**wish).clone()),
                _ => None,
            };
            let owner = match &change {
                Change::RequestLease(wish) => Some(wish.parties),
                Change::EndLease(wish) => Some(wish.parties),
                Change::EndLeases(wish) => Some(Parties::own(wish.device)),
                _ => None,
            };
            let result = world.change(change);
            let Ok(edits) = result else {
                prop_assert_eq!(&world.state.leases, &before.leases, "{}", text);
                continue;
            };
            if let Some(parties) = owner {
                prop_assert_eq!(parties.asking, parties.owner, "{}", text);
                prop_assert!(world.state.devices[&parties.asking].has_auto_ports());
                for (id, change) in before.leases.difference(&world.state.leases) {
                    for lease in [change.before, change.after].into_iter().flatten() {
                        prop_assert_eq!(lease.device, parties.owner, "{} touches {}", text, id);
                    }
                }
            }
            for edit in &edits {
                let is_known = matches!(
                    edit,
                    Edit::Set(Object::Lease(_) | Object::Sequence(_)) | Edit::Remove(Key::Lease(_))
                );
                prop_assert!(is_known, "{} makes {:?}", text, edit);
            }
            if let Some(wish) = asked {
                let grant = granted(&world.state, &world.facts, &wish, world.now);
                let grant = grant.unwrap_or_else(|| panic!("{text}: nothing granted"));
                let given = lifetime(&world.state.settings, wish.mechanism, wish.lifetime);
                prop_assert!(wish.mechanism != Mechanism::NatPmp || given <= wish.lifetime);
                if let Some(id) = grant.lease {
                    let lease = &world.state.leases[&id];
                    let end = world.now + u64::from(given) + Lease::lag(given);
                    let end = ends.get(&id).copied().unwrap_or_default().max(end);
                    ends.insert(id, end);
                    prop_assert!(lease.expires <= end, "{}: {:?}", text, lease);
                    prop_assert!(lease.expires >= world.now + u64::from(grant.lifetime));
                    // Asked again, the same is told and nothing has to be written.
                    let again = Change::RequestLease(Box::new(wish.clone()));
                    prop_assert_eq!(world.decide(again), Ok(Vec::new()), "{}", text);
                }
            }
            check_leases(&world);
            let all = Change::ExpireLeases(ExpireLeases::default());
            world.change(all).unwrap();
            for lease in world.open() {
                prop_assert!(lease.expires > world.now);
                prop_assert!(ends.get(&lease.id).is_some_and(|end| *end > world.now));
            }
        }
        world.now += 3_000_000;
        let all = Change::ExpireLeases(ExpireLeases::default());
        world.change(all).unwrap();
        prop_assert!(world.state.leases.is_empty());
        prop_assert_eq!(world.state.leased_ports(world.id("nas")), 0);
    }
}
