//! The world that all named topologies share: Internet, VPS with its edge router, and a home behind carrier-grade NAT.

use super::{End, HostKind, HostPlan, Link, PATH, Service, Topology};

/// What the provider gives the VPS, and how.
#[derive(Clone, Copy)]
pub(super) struct Provider {
    /// Prefixes that the edge routes to the address of the VPS.
    pub(super) routed: &'static [&'static str],
    /// Prefixes beside the VPS's own that the edge takes for on-link: an address of its own in each.
    pub(super) asked: &'static [&'static str],
    pub(super) ipv4: Ipv4,
    pub(super) ipv6: Ipv6,
    pub(super) second: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ipv4 {
    Public,
    /// The edge translates the public address to a private one, and back.
    Translated,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ipv6 {
    /// The VPS's address is one of a /64 that is on the link.
    Prefix,
    /// Only a /124 gets past the edge.
    Narrow,
    /// Only the VPS's own address gets past the edge.
    Single,
    None,
}

pub(super) const PLAIN: Provider = Provider {
    routed: &[],
    asked: &[],
    ipv4: Ipv4::Public,
    ipv6: Ipv6::Prefix,
    second: false,
};

const VPS_IPV6: &str = "2001:db8:1::2";
const VPS_PREFIX: &str = "2001:db8:1::/64";
const PUBLIC_IPV4: &str = "203.0.113.2";
const PRIVATE_IPV4: &str = "10.0.0.2";

/// The network that the second provider gives the VPS, and what it routes to it.
const SECOND_IPV4: &str = "198.18.2.0/24";
const SECOND_LINK: &str = "2001:db8:2::/64";
const SECOND_ROUTED: &str = "2001:db8:200::/56";
/// That of IPv6 in IPv4.
const SECOND_MTU: u32 = 1480;

pub(super) fn topology(name: &str, summary: &str, provider: &Provider) -> Topology {
    let topology = Topology::new(name, summary)
        .host(internet_host("internet", "a host on the Internet"))
        .host(internet_host("stranger", "another host on the Internet"))
        .host(router(provider))
        .host(edge(provider))
        .host(vps(provider))
        .host(
            HostPlan::new(
                "cgnat",
                HostKind::Router,
                "carrier-grade NAT of the home's ISP",
            )
            .route("default", "192.0.2.1")
            .service(Service::Masquerade {
                interface: "wan".into(),
            }),
        )
        .host(
            HostPlan::new("home", HostKind::Router, "home router")
                .route("default", "100.64.0.1")
                .service(Service::Masquerade {
                    interface: "wan".into(),
                }),
        )
        .host(
            device("box", "home server with containers")
                .sysctl("net.ipv4.conf.all.forwarding", "1")
                .sysctl("net.ipv6.conf.all.forwarding", "1")
                .bridge("br0", &["172.18.0.1/24", "fd00:18::1/64"]),
        )
        .host(device("laptop", "a device at home"))
        .host(device("nas", "another device at home"))
        .host(
            HostPlan::new("container", HostKind::Endpoint, "a container on the box")
                .route("default", "172.18.0.1")
                .route("default", "fd00:18::1"),
        )
        .switch(
            "exchange",
            "the Internet hosts' segment",
            [
                End::new("router", "lan").addresses(&["198.51.100.1/24", "2001:db8:ffff::1/64"]),
                End::new("internet", "eth0")
                    .addresses(&["198.51.100.10/24", "2001:db8:ffff::10/64"]),
                End::new("stranger", "eth0")
                    .addresses(&["198.51.100.20/24", "2001:db8:ffff::20/64"]),
            ],
        )
        .link(Link::between(
            End::new("router", "edge").addresses(&["198.18.0.1/30", "2001:db8:fffe::1/64"]),
            End::new("edge", "wan").addresses(&["198.18.0.2/30", "2001:db8:fffe::2/64"]),
        ))
        .link(uplink(provider))
        .link(
            Link::between(
                End::new("router", "cgnat").addresses(&["192.0.2.1/24"]),
                End::new("cgnat", "wan").addresses(&["192.0.2.2/24"]),
            )
            .named(PATH),
        )
        .link(Link::between(
            End::new("cgnat", "lan").addresses(&["100.64.0.1/24"]),
            End::new("home", "wan").addresses(&["100.64.0.2/24"]),
        ))
        .switch(
            "lan",
            "the home network",
            [
                End::new("home", "lan").addresses(&["192.168.1.1/24"]),
                End::new("box", "eth0").addresses(&["192.168.1.10/24"]),
                End::new("laptop", "eth0").addresses(&["192.168.1.11/24"]),
                End::new("nas", "eth0").addresses(&["192.168.1.12/24"]),
            ],
        )
        .link(Link::between(
            End::new("box", "container").port_of("br0"),
            End::new("container", "eth0").addresses(&["172.18.0.2/24", "fd00:18::2/64"]),
        ));
    if provider.second {
        with_second_uplink(topology)
    } else {
        topology
    }
}

/// Another provider, whose packets are smaller, and who like the first drops what does not come from its own addresses.
fn with_second_uplink(topology: Topology) -> Topology {
    topology
        .host(
            HostPlan::new(
                "edge2",
                HostKind::Router,
                "edge router of a second provider",
            )
            .route("default", "198.18.0.5")
            .route("default", "2001:db8:fffd::1")
            .route(SECOND_ROUTED, "2001:db8:2::2")
            .service(Service::SourceFilter {
                interface: "vps".into(),
                prefixes: vec![SECOND_IPV4.into(), SECOND_LINK.into(), SECOND_ROUTED.into()],
            }),
        )
        .link(Link::between(
            End::new("router", "edge2").addresses(&["198.18.0.5/30", "2001:db8:fffd::1/64"]),
            End::new("edge2", "wan").addresses(&["198.18.0.6/30", "2001:db8:fffd::2/64"]),
        ))
        .link(
            Link::between(
                End::new("edge2", "vps").addresses(&["198.18.2.1/24", "2001:db8:2::1/64"]),
                End::new("vps", "eth1").addresses(&["198.18.2.2/24", "2001:db8:2::2/64"]),
            )
            .mtu(SECOND_MTU),
        )
}

fn uplink(provider: &Provider) -> Link {
    let (edge4, vps4) = match provider.ipv4 {
        Ipv4::Public => ("203.0.113.1/24", "203.0.113.2/24"),
        Ipv4::Translated => ("10.0.0.1/24", "10.0.0.2/24"),
    };
    let mut edge = vec![edge4];
    let mut vps = vec![vps4];
    match provider.ipv6 {
        Ipv6::Prefix => {
            edge.push("2001:db8:1::1/64");
            vps.push("2001:db8:1::2/64");
        }
        Ipv6::Narrow => {
            edge.push("2001:db8:1::1/64");
            vps.push("2001:db8:1::f001/124");
        }
        Ipv6::Single => {
            edge.push("2001:db8:1::1/64");
            vps.push("2001:db8:1::2/128");
        }
        Ipv6::None => {}
    }
    edge.extend(provider.asked);
    Link::between(
        End::new("edge", "vps").addresses(&edge),
        End::new("vps", "eth0").addresses(&vps),
    )
}

/// The default route of the second uplink is there, and is not the best.
fn vps(provider: &Provider) -> HostPlan {
    let plan = HostPlan::new("vps", HostKind::Endpoint, "the VPS");
    let plan = match provider.ipv4 {
        Ipv4::Public => plan.route("default", "203.0.113.1"),
        Ipv4::Translated => plan.route("default", "10.0.0.1"),
    };
    if provider.second {
        // Strict, as some images have it: what comes in by the second uplink is dropped unless somebody sees to it.
        plan.sysctl("net.ipv4.conf.all.rp_filter", "1")
            .sysctl("net.ipv4.conf.default.rp_filter", "1")
            .route("default", "198.18.2.1 metric 200")
            .route("default", "2001:db8:2::1 metric 2000")
    } else {
        plan
    }
}

fn internet_host(name: &str, note: &str) -> HostPlan {
    HostPlan::new(name, HostKind::Endpoint, note)
        .route("default", "198.51.100.1")
        .route("default", "2001:db8:ffff::1")
}

fn router(provider: &Provider) -> HostPlan {
    let mut router = HostPlan::new("router", HostKind::Router, "Internet router")
        .route("203.0.113.0/24", "198.18.0.2")
        .route(VPS_PREFIX, "2001:db8:fffe::2");
    for prefix in provider.routed {
        router = router.route(prefix, "2001:db8:fffe::2");
    }
    for network in provider.asked.iter().filter_map(|own| network_of(own)) {
        router = router.route(&network, "2001:db8:fffe::2");
    }
    if provider.second {
        router = router.route(SECOND_IPV4, "198.18.0.6");
        for prefix in [SECOND_LINK, SECOND_ROUTED] {
            router = router.route(prefix, "2001:db8:fffd::2");
        }
    }
    router
}

/// `2001:db8:100:1::/64` for the edge's own address `2001:db8:100:1::ffff/64`.
fn network_of(own: &str) -> Option<String> {
    let (address, length) = own.split_once('/')?;
    let (network, _) = address.rsplit_once("::")?;
    Some(format!("{network}::/{length}"))
}

fn edge(provider: &Provider) -> HostPlan {
    let mut edge = HostPlan::new("edge", HostKind::Router, "edge router of the VPS provider")
        .route("default", "198.18.0.1")
        .route("default", "2001:db8:fffe::1");
    if provider.ipv6 != Ipv6::None {
        // The default route that it advertises expires within 12 s, so that a gateway which stops to accept it is found out.
        let prefixes = match provider.ipv6 {
            Ipv6::Prefix => vec![VPS_PREFIX.to_owned()],
            Ipv6::Narrow | Ipv6::Single | Ipv6::None => Vec::new(),
        };
        edge = edge.service(Service::Radvd {
            interface: "vps".into(),
            prefixes,
            interval: (3, 4),
            lifetime: 12,
        });
    }
    let only = match provider.ipv6 {
        Ipv6::Prefix | Ipv6::None => None,
        Ipv6::Narrow => Some("2001:db8:1::f000/124"),
        Ipv6::Single => Some("2001:db8:1::2"),
    };
    if let Some(prefix) = only {
        edge = edge.service(Service::DestinationFilter {
            interface: "vps".into(),
            prefix: prefix.into(),
        });
    }
    if provider.ipv4 == Ipv4::Translated {
        edge = edge.service(Service::OneToOne {
            interface: "wan".into(),
            public: PUBLIC_IPV4.into(),
            private: PRIVATE_IPV4.into(),
        });
    }
    if provider.second {
        let own = ["203.0.113.0/24", VPS_PREFIX].into_iter();
        edge = edge.service(Service::SourceFilter {
            interface: "vps".into(),
            prefixes: own
                .chain(provider.routed.iter().copied())
                .map(str::to_owned)
                .collect(),
        });
    }
    for prefix in provider.routed {
        edge = edge.route(prefix, VPS_IPV6);
    }
    edge
}

fn device(name: &str, note: &str) -> HostPlan {
    HostPlan::new(name, HostKind::Endpoint, note)
        .sysctl("net.ipv4.conf.all.rp_filter", "1")
        .sysctl("net.ipv4.conf.default.rp_filter", "1")
        .route("default", "192.168.1.1")
}
