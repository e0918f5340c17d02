//! The world that all named topologies share: Internet, VPS with its edge router, and a home behind carrier-grade NAT.

use super::{End, HostKind, HostPlan, Link, PATH, Service, Topology};

/// How the provider brings IPv6 prefixes to the VPS.
pub(super) struct Provider {
    /// Prefixes that the edge routes to the address of the VPS.
    pub(super) routed: &'static [&'static str],
}

const VPS_PREFIX: &str = "2001:db8:1::/64";
const VPS_IPV6: &str = "2001:db8:1::2";

pub(super) fn topology(name: &str, summary: &str, provider: &Provider) -> Topology {
    Topology::new(name, summary)
        .host(internet_host("internet", "a host on the Internet"))
        .host(internet_host("stranger", "another host on the Internet"))
        .host(router(provider))
        .host(edge(provider))
        .host(HostPlan::new("vps", HostKind::Endpoint, "the VPS").route("default", "203.0.113.1"))
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
        .link(Link::between(
            End::new("edge", "vps").addresses(&["203.0.113.1/24", "2001:db8:1::1/64"]),
            End::new("vps", "eth0").addresses(&["203.0.113.2/24", "2001:db8:1::2/64"]),
        ))
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
        ))
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
    router
}

/// The default route that it advertises expires within 12 s, so that a gateway which stops to accept it is found out.
fn edge(provider: &Provider) -> HostPlan {
    let mut edge = HostPlan::new("edge", HostKind::Router, "edge router of the VPS provider")
        .route("default", "198.18.0.1")
        .route("default", "2001:db8:fffe::1")
        .service(Service::Radvd {
            interface: "vps".into(),
            prefixes: vec![VPS_PREFIX.into()],
            interval: (3, 4),
            lifetime: 12,
        });
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
