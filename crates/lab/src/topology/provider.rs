//! The named topologies: one for each kind of provider that people rent a VPS from.

use super::Topology;
use super::world::{self, Ipv4, Ipv6, PLAIN, Provider};

pub(super) const NAMES: &[&str] = &[
    "routed",
    "on-link",
    "narrow",
    "single",
    "ipv4-only",
    "one-to-one-nat",
    "two-uplinks",
    "partly-routed",
];

const ROUTED: Provider = Provider {
    routed: &["2001:db8:100::/56"],
    ..PLAIN
};

pub(super) fn topology(name: &str) -> Option<Topology> {
    let (summary, prefix, provider) = match name {
        "routed" => (
            "a VPS to which the provider routes 2001:db8:100::/56",
            Some("2001:db8:100::/64"),
            ROUTED,
        ),
        "on-link" => (
            "a VPS whose provider asks by Neighbor Discovery for every address of 2001:db8:1::/64",
            Some("2001:db8:1::/64"),
            PLAIN,
        ),
        "narrow" => (
            "a VPS that has 2001:db8:1::f000/124 on its interface and nothing else",
            Some("2001:db8:1::f000/124"),
            Provider {
                ipv6: Ipv6::Narrow,
                ..PLAIN
            },
        ),
        "single" => (
            "a VPS with a single IPv6 address",
            None,
            Provider {
                ipv6: Ipv6::Single,
                ..PLAIN
            },
        ),
        "ipv4-only" => (
            "a VPS without IPv6",
            None,
            Provider {
                ipv6: Ipv6::None,
                ..PLAIN
            },
        ),
        "one-to-one-nat" => (
            "a VPS that has 10.0.0.2, which its provider translates to 203.0.113.2, and a routed 2001:db8:100::/56",
            Some("2001:db8:100::/64"),
            Provider {
                ipv4: Ipv4::Translated,
                ..ROUTED
            },
        ),
        "two-uplinks" => (
            "a VPS with two providers, each of which drops what does not come from its own addresses; \
             2001:db8:100::/56 is routed by eth0, 2001:db8:200::/56 by eth1 with an MTU of 1480",
            Some("2001:db8:100::/64"),
            Provider {
                second: true,
                ..ROUTED
            },
        ),
        "partly-routed" => (
            "a VPS whose provider claims 2001:db8:100::/64 and routes a /127 of it, and asks by Neighbor Discovery for \
             2001:db8:100:1::/64 which it calls routed",
            Some("2001:db8:100::/64"),
            Provider {
                routed: &["2001:db8:100::/127"],
                asked: &["2001:db8:100:1::ffff/64"],
                ..PLAIN
            },
        ),
        _ => return None,
    };
    let summary = format!("{summary}, and a home behind carrier-grade NAT");
    let mut topology = world::topology(name, &summary, &provider);
    topology.prefix = prefix.map(str::to_owned);
    Some(topology)
}
