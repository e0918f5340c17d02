//! Links, addresses, rules and proxy neighbours of ours come and go; those of others stay.

use std::collections::BTreeSet;

use adit_host::netlink::{Cause, Netlink};
use adit_host::{address, link, neighbor, rule};
use adit_model::desired::address::Address;
use adit_model::desired::link::Link;
use adit_model::desired::neighbor::ProxyNeighbor;
use adit_model::desired::rule::Rule;

use crate::namespace::Namespace;

fn on_tunnel(address: &str) -> Address {
    Address {
        interface: "adit-nl0".to_owned(),
        address: address.parse().unwrap(),
    }
}

#[test]
fn our_interface_comes_up_silently_and_carries_only_our_addresses() {
    let namespace = Namespace::new();
    namespace.ip("tuntap add dev adit-nl0 mode tun");
    let wanted = Link {
        name: "adit-nl0".to_owned(),
        mtu: 1380,
    };
    namespace.inside(async || {
        let netlink = Netlink::open().unwrap();
        let before = link::observe(&netlink, "adit-nl0").await.unwrap().unwrap();
        assert!(!before.up);
        link::set_mtu_up(&netlink, &wanted).await.unwrap();
        let after = link::observe(&netlink, "adit-nl0").await.unwrap().unwrap();
        assert_eq!((after.link, after.up), (wanted, true));
        assert_eq!(
            address::observe(&netlink, "adit-nl0").await.unwrap(),
            BTreeSet::new(),
            "a link-local address came with the interface"
        );

        let addresses = BTreeSet::from([
            on_tunnel("10.59.0.1/32"),
            on_tunnel("10.60.0.1/32"),
            on_tunnel("fd59::1/128"),
        ]);
        for _ in 0..2 {
            for it in &addresses {
                address::add(&netlink, it).await.unwrap();
            }
            let seen = address::observe(&netlink, "adit-nl0").await.unwrap();
            assert_eq!(seen, addresses);
        }
        let shown = namespace.ip("-6 addr show dev adit-nl0");
        assert!(
            shown.contains("nodad") && !shown.contains("tentative"),
            "{shown}"
        );
        for family in ["-4", "-6"] {
            let routes = namespace.ip(&format!("{family} route show dev adit-nl0"));
            assert_eq!(routes, "", "a route came with an address");
        }
        for it in addresses.iter().chain(&addresses) {
            address::remove(&netlink, it).await.unwrap();
        }
        assert_eq!(
            address::observe(&netlink, "adit-nl0").await.unwrap(),
            BTreeSet::new()
        );

        for _ in 0..2 {
            link::remove(&netlink, "adit-nl0").await.unwrap();
        }
        assert_eq!(link::observe(&netlink, "adit-nl0").await.unwrap(), None);
        for it in &addresses {
            address::remove(&netlink, it).await.unwrap();
            assert!(address::add(&netlink, it).await.is_err());
        }
    });
}

#[test]
fn a_wireguard_interface_is_created_where_the_kernel_has_them() {
    let namespace = Namespace::new();
    let wanted = Link {
        name: "adit-nl1".to_owned(),
        mtu: 1400,
    };
    namespace.inside(async || {
        let netlink = Netlink::open().unwrap();
        let created = link::create_wireguard(&netlink, &wanted).await.unwrap();
        let seen = link::observe(&netlink, "adit-nl1").await.unwrap();
        assert_eq!(seen.map(|it| it.link), created.then_some(wanted));
    });
}

#[test]
fn rules_come_and_go() {
    let namespace = Namespace::new();
    namespace.ip("rule add from 192.0.2.0/24 lookup 77 priority 4201");
    namespace.ip("-6 rule add from 2001:db8::/32 lookup 77 priority 4201");
    let shown = |namespace: &Namespace| [namespace.ip("rule"), namespace.ip("-6 rule")];
    let before = shown(&namespace);
    let rule = |priority, source: &str| Rule {
        priority,
        source: source.parse().unwrap(),
        destination: None,
        input_interface: None,
        mark: None,
        table: 4200,
        suppress_prefix_length: None,
    };
    let rules = BTreeSet::from([
        // Like the foreign one in everything but the mark.
        Rule {
            table: 77,
            ..rule(4201, "192.0.2.0/24")
        },
        rule(4202, "10.59.0.0/24"),
        Rule {
            suppress_prefix_length: Some(0),
            table: 254,
            ..rule(4200, "0.0.0.0/0")
        },
        Rule {
            input_interface: Some("adit-nl0".to_owned()),
            ..rule(4203, "::/0")
        },
        rule(4204, "fd59::/64"),
        Rule {
            mark: Some(0x0200_0000),
            ..rule(4205, "0.0.0.0/0")
        },
        Rule {
            destination: Some("10.59.0.0/24".parse().unwrap()),
            ..rule(4206, "0.0.0.0/0")
        },
        Rule {
            destination: Some("fd59::/64".parse().unwrap()),
            ..rule(4206, "::/0")
        },
    ]);
    namespace.inside(async || {
        let netlink = Netlink::open().unwrap();
        for _ in 0..2 {
            for it in &rules {
                rule::add(&netlink, it).await.unwrap();
            }
            assert_eq!(rule::observe(&netlink).await.unwrap(), rules);
        }
        let with_ours = shown(&namespace).concat();
        assert_eq!(with_ours.matches("proto 173").count(), rules.len());
        assert!(with_ours.contains("lookup main suppress_prefixlength 0"));
        for it in rules.iter().chain(&rules) {
            rule::remove(&netlink, it).await.unwrap();
        }
        assert_eq!(rule::observe(&netlink).await.unwrap(), BTreeSet::new());
    });
    assert_eq!(shown(&namespace), before);
}

#[test]
fn proxy_neighbors_come_and_go() {
    let namespace = Namespace::new();
    namespace.ip("-6 neigh add proxy 2001:db8::f dev v0");
    let proxy = |address: &str| ProxyNeighbor {
        interface: "v0".to_owned(),
        address: address.parse().unwrap(),
    };
    let neighbors = BTreeSet::from([proxy("2001:db8::5"), proxy("2001:db8::6")]);
    namespace.inside(async || {
        let netlink = Netlink::open().unwrap();
        for _ in 0..2 {
            for it in &neighbors {
                neighbor::add(&netlink, it).await.unwrap();
            }
            assert_eq!(neighbor::observe(&netlink).await.unwrap(), neighbors);
        }
        let shown = namespace.ip("-6 neigh show proxy");
        assert_eq!(shown.matches("proto 173").count(), 2, "{shown}");

        let foreign = proxy("2001:db8::f");
        let error = neighbor::add(&netlink, &foreign).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Occupied), "{error}");
        neighbor::remove(&netlink, &foreign).await.unwrap();
        for it in neighbors.iter().chain(&neighbors) {
            neighbor::remove(&netlink, it).await.unwrap();
        }
        assert_eq!(neighbor::observe(&netlink).await.unwrap(), BTreeSet::new());
    });
    let shown = namespace.ip("-6 neigh show proxy");
    assert!(
        shown.contains("2001:db8::f") && !shown.contains("proto"),
        "{shown}"
    );
}
