//! Properties of plans, on an in-memory kernel.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::desired::firewall::{Clamp, Connections, Endpoint, Port};
use crate::desired::names::Names;
use crate::desired::route::{MAIN_TABLE, RouteTarget};
use crate::key::PresharedKey;
use crate::protocol::{PortRange, Protocol};

/// The kernel in memory: what each step does to it.
fn perform(actual: &mut Actual, desired: &Desired, step: &Step) {
    let wireguard = |actual: &mut Actual, change: &dyn Fn(&mut ActualWireGuard)| {
        change(actual.wireguard.get_or_insert_default());
    };
    match step {
        Step::RemoveNeighbor(neighbor) => assert!(actual.neighbors.remove(neighbor).is_some()),
        Step::RemoveRule(rule) => assert!(actual.rules.remove(rule).is_some()),
        Step::RemoveRoute(route) => assert!(actual.routes.remove(route).is_some()),
        Step::RemoveAddress(address) => assert!(actual.addresses.remove(address)),
        Step::RemovePeer(key) => wireguard(actual, &|wireguard| {
            assert!(wireguard.peers.remove(key).is_some());
        }),
        Step::ShrinkPeer(key, peer) | Step::SetPeer(key, peer) => wireguard(actual, &|wireguard| {
            for (other, present) in &wireguard.peers {
                let taken = present.allowed_ips.intersection(&peer.allowed_ips).next();
                assert!(
                    other == key || taken.is_none(),
                    "{taken:?} belongs to {other} yet"
                );
            }
            wireguard.peers.insert(*key, peer.clone());
        }),
        Step::SetSysctl(path, value) => {
            actual.sysctls.insert(path.clone(), value.clone());
            actual.changed_sysctls.insert(path.clone());
        }
        Step::CreateLink(link) => {
            assert_eq!(actual.link, None);
            actual.link = Some(ActualLink {
                link: link.clone(),
                up: true,
            });
            actual.wireguard = Some(ActualWireGuard::default());
        }
        Step::SetLink(link) => {
            assert!(actual.link.is_some());
            actual.link = Some(ActualLink {
                link: link.clone(),
                up: true,
            });
        }
        Step::SetInterface {
            private_key,
            listen_port,
        } => wireguard(actual, &|wireguard| {
            if let Some(key) = private_key {
                wireguard.public_key = Some(key.public_key());
            }
            wireguard.listen_port = listen_port.unwrap_or(wireguard.listen_port);
        }),
        Step::ReplaceFirewall | Step::UpdateFirewall => {
            let firewall = desired.firewall.clone().unwrap();
            actual.firewall = ActualFirewall::Holds(Box::new(firewall));
        }
        Step::AddAddress(address) => assert!(actual.addresses.insert(address.clone())),
        Step::AddRoute(route) => assert!(actual.routes.insert(route.clone()).is_none()),
        Step::AddRule(rule) => assert!(actual.rules.insert(rule.clone()).is_none()),
        Step::AddNeighbor(neighbor) => assert!(actual.neighbors.insert(neighbor.clone()).is_none()),
        Step::RemoveLink(name) => {
            assert_eq!(
                actual.link.take().map(|actual| actual.link.name).as_ref(),
                Some(name)
            );
            actual.wireguard = None;
        }
        Step::RemoveFirewall => actual.firewall = ActualFirewall::Absent,
        Step::RestoreSysctl(path) => {
            assert!(actual.changed_sysctls.remove(path));
            actual.sysctls.remove(path);
        }
        Step::SweepConntrack(_) => {}
    }
}

fn desired() -> impl Strategy<Value = Desired> {
    let link = proptest::option::weighted(0.8, (0..2usize, 1280..1283u32));
    // Which peer has which of eight prefixes: each prefix belongs to one peer, as the state guarantees.
    let owners = proptest::collection::vec(0..6u8, 8);
    let routes = proptest::collection::btree_set((0..4u8, any::<bool>()), 0..5);
    let numbers = proptest::collection::btree_set(0..5u8, 0..5);
    let settings = proptest::collection::btree_set(0..4usize, 0..4);
    let forwards =
        proptest::option::weighted(0.8, proptest::collection::btree_map(0..5u16, 0..3u8, 0..5));
    (
        link,
        (1..3u8, 1..3u16),
        owners,
        routes,
        numbers.clone(),
        numbers,
        settings,
        forwards,
    )
        .prop_map(
            |(link, (key, port), owners, routes, rules, neighbors, settings, forwards)| {
                let link = link.map(|(name, mtu)| Link {
                    name: ["adit0", "adit1"][name].to_owned(),
                    mtu,
                });
                let wireguard = link.is_some().then(|| WireGuard {
                    private_key: PrivateKey::from_random([key; 32]),
                    listen_port: port,
                    peers: peers(&owners, key).into(),
                });
                let paths = [
                    "net/ipv6/conf/all/forwarding",
                    "net/ipv6/conf/eth0/accept_ra",
                    "net/ipv4/ip_forward",
                    "net/ipv4/conf/adit0/rp_filter",
                ];
                Desired {
                    names: Names::default(),
                    addresses: link
                        .iter()
                        .map(|link| Address {
                            interface: link.name.clone(),
                            address: "10.0.0.1/32".parse().unwrap(),
                        })
                        .collect(),
                    link,
                    wireguard,
                    routes: routes
                        .into_iter()
                        .map(|(number, unreachable)| route(number, unreachable))
                        .collect(),
                    rules: rules.into_iter().map(rule).collect(),
                    neighbors: neighbors.into_iter().map(neighbor).collect(),
                    sysctls: settings
                        .into_iter()
                        .map(|index| (paths[index].to_owned(), "1".to_owned()))
                        .collect(),
                    firewall: forwards.map(firewall),
                }
            },
        )
}

fn peers(owners: &[u8], preshared: u8) -> BTreeMap<PublicKey, Peer> {
    let mut peers = BTreeMap::new();
    for (number, owner) in owners.iter().enumerate().filter(|(_, owner)| **owner > 0) {
        let peer = peers
            .entry(PublicKey::from_bytes([*owner; 32]))
            .or_insert_with(|| Peer {
                preshared_key: PresharedKey::from_bytes([preshared; 32]),
                allowed_ips: BTreeSet::new(),
            });
        peer.allowed_ips
            .insert(format!("10.0.{number}.0/24").parse().unwrap());
    }
    peers
}

fn route(number: u8, unreachable: bool) -> Route {
    Route {
        table: MAIN_TABLE,
        destination: format!("10.0.{number}.0/24").parse().unwrap(),
        metric: 100,
        target: if unreachable {
            RouteTarget::Unreachable
        } else {
            RouteTarget::Interface {
                interface: "adit0".to_owned(),
                gateway: None,
            }
        },
    }
}

fn rule(number: u8) -> Rule {
    Rule {
        priority: 4200 + u32::from(number),
        source: "2001:db8::/64".parse().unwrap(),
        destination: None,
        input_interface: None,
        mark: None,
        table: 4200,
        suppress_prefix_length: None,
    }
}

fn neighbor(number: u8) -> ProxyNeighbor {
    ProxyNeighbor {
        interface: "eth0".to_owned(),
        address: format!("2001:db8::{number}").parse().unwrap(),
    }
}

fn firewall(forwards: BTreeMap<u16, u8>) -> Firewall {
    let mut firewall = Firewall {
        interface: "adit0".to_owned(),
        uplinks: BTreeSet::new(),
        reply_marks: BTreeMap::new(),
        sources: Sources::default(),
        watched: BTreeSet::new(),
        snat_ports: PortRange::new(40000, 65535).unwrap(),
        clamp: Clamp::default(),
        connections: Connections::default(),
        subnets: BTreeMap::new(),
        own_prefixes6: OrdSet::new(),
        services: BTreeSet::new(),
        translations4: Translations::default(),
        translations6: Translations::default(),
        filters: OrdMap::new(),
        pinholes: OrdSet::new(),
        open_addresses: OrdSet::new(),
        names: BTreeSet::new(),
        advertised_names: BTreeMap::new(),
    };
    for (port, device) in forwards {
        let external = Port {
            address: "192.0.2.1".parse().unwrap(),
            protocol: Protocol::Tcp,
            port,
        };
        firewall.translations4.forwards.insert(
            external,
            (format!("10.0.0.{device}").parse().unwrap(), port),
        );
    }
    firewall
}

proptest! {
    #[test]
    fn nothing_is_planned_for_what_is_in_place(desired in desired()) {
        prop_assert_eq!(plan(&desired, &Actual::of(&desired)), vec![]);
        prop_assert_eq!(plan_change(&desired, &desired), vec![]);
    }

    #[test]
    fn a_plan_leads_to_what_is_desired(from in desired(), to in desired(), unknown in any::<bool>()) {
        let mut actual = Actual::of(&from);
        if unknown {
            actual.firewall = ActualFirewall::Unknown;
        }
        for step in plan(&to, &actual) {
            perform(&mut actual, &to, &step);
        }
        prop_assert_eq!(&actual, &Actual::of(&to));
        prop_assert_eq!(plan_change(&from, &to), plan(&to, &Actual::of(&from)));
    }

    #[test]
    fn nothing_leads_to_a_device_before_the_firewall(from in desired(), to in desired()) {
        let kinds: Vec<_> = plan(&to, &Actual::of(&from));
        let firewall = kinds.iter().position(|step| matches!(step, Step::ReplaceFirewall | Step::UpdateFirewall));
        let towards = kinds.iter().position(|step| {
            matches!(step, Step::SetPeer(..) | Step::AddAddress(_) | Step::AddRoute(_) | Step::AddRule(_) | Step::AddNeighbor(_))
        });
        if let (Some(firewall), Some(towards)) = (firewall, towards) {
            prop_assert!(firewall < towards, "{:?}", kinds);
        }
        let forwarding = kinds.iter().position(|step| matches!(step, Step::SetSysctl(path, _) if path.ends_with("forward") || path.ends_with("forwarding")));
        let accept_ra = kinds.iter().rposition(|step| matches!(step, Step::SetSysctl(path, _) if path.ends_with("accept_ra")));
        if let (Some(forwarding), Some(accept_ra)) = (forwarding, accept_ra) {
            prop_assert!(accept_ra < forwarding, "{:?}", kinds);
        }
    }
}

#[test]
fn a_sweep_names_moved_forwards_and_prefixes_that_left_a_peer() {
    let of = |owners: &[u8], device| Desired {
        link: Some(Link {
            name: "adit0".to_owned(),
            mtu: 1420,
        }),
        wireguard: Some(WireGuard {
            private_key: PrivateKey::from_random([1; 32]),
            listen_port: 1,
            peers: peers(owners, 1).into(),
        }),
        firewall: Some(firewall([(80, device), (81, 1)].into())),
        ..Desired::default()
    };
    let steps = plan_change(&of(&[1, 2], 1), &of(&[1, 1], 2));
    let Some(Step::SweepConntrack(sweep)) = steps.last() else {
        panic!("no sweep at the end of {steps:?}");
    };
    assert_eq!(sweep.prefixes, ["10.0.1.0/24".parse().unwrap()].into());
    let ports: Vec<_> = sweep
        .endpoints
        .iter()
        .map(|endpoint| endpoint.ports.first())
        .collect();
    assert_eq!(ports, [80]);
    assert!(sweep.is_urgent() && sweep.opened.is_empty());
}

#[test]
fn what_is_opened_may_be_swept_later_and_what_moves_or_ends_may_not() {
    let of = |ports: BTreeMap<u16, u8>| Desired {
        firewall: Some(firewall(ports)),
        ..Desired::default()
    };
    let sweep_of = |from: BTreeMap<u16, u8>, to: BTreeMap<u16, u8>| match plan_change(
        &of(from),
        &of(to),
    )
    .pop()
    {
        Some(Step::SweepConntrack(sweep)) => sweep,
        other => panic!("no sweep at the end, but {other:?}"),
    };
    let ports = |endpoints: &BTreeSet<Endpoint<IpAddr>>| -> Vec<u16> {
        endpoints.iter().map(|it| it.ports.first()).collect()
    };
    let opened = sweep_of([(80, 1)].into(), [(80, 1), (81, 1)].into());
    assert!(!opened.is_urgent() && !opened.is_empty());
    assert_eq!(ports(&opened.opened), [81]);
    let moved = sweep_of([(80, 1), (82, 1)].into(), [(80, 2), (81, 1)].into());
    assert!(moved.is_urgent());
    assert_eq!(ports(&moved.endpoints), [80, 82]);
    assert_eq!(ports(&moved.opened), [81]);
}

#[test]
fn steps_read_like_the_commands_that_people_know() {
    let steps = [
        Step::AddRoute(route(1, false)),
        Step::RemoveRoute(route(1, true)),
        Step::AddRule(rule(1)),
        Step::AddNeighbor(neighbor(1)),
        Step::SetPeer(
            PublicKey::from_bytes([0; 32]),
            peers(&[1, 1], 1)[&PublicKey::from_bytes([1; 32])].clone(),
        ),
    ];
    let text: Vec<_> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "add route 10.0.1.0/24 dev adit0 metric 100",
            "remove route unreachable 10.0.1.0/24 metric 100",
            "add rule 4201 from 2001:db8::/64 lookup 4200",
            "add proxy neighbour 2001:db8::1 dev eth0",
            "set peer AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= to 10.0.0.0/24, 10.0.1.0/24",
        ]
    );
}
