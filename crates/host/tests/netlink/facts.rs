//! Facts are those of others, and tell where a route was learnt.

use adit_host::netlink::Netlink;
use adit_host::{facts, route};
use adit_model::desired::route::{MAIN_TABLE, Route, RouteTarget};
use adit_model::facts::Listener;
use adit_model::protocol::Protocol;

use crate::namespace::Namespace;

#[test]
fn facts_are_complete_and_leave_ours_out() {
    let namespace = Namespace::new();
    namespace.ip("tuntap add dev adit-nl2 mode tun");
    namespace.ip("link set adit-nl2 up");
    namespace.ip("addr add 10.59.0.1/32 dev adit-nl2");
    namespace.ip("addr add 192.0.2.10/24 dev v0");
    namespace.ip("addr add 2001:db8::10/64 dev v0 nodad");
    namespace.ip("addr add 198.51.100.9/32 dev lo");
    namespace.ip("link set v1 mtu 1400 down");
    namespace.ip("route add default via 192.0.2.1 metric 50");
    namespace.ip("-6 route add default via fe80::1 dev v0 proto ra metric 1024");
    namespace.ip("-6 route add 2001:db8:5::/48 proto static nexthop via fe80::2 dev v0 nexthop via fe80::3 dev v0");
    namespace.ip("route add unreachable 203.0.113.0/24");

    namespace.inside(async || {
        let netlink = Netlink::open().unwrap();
        let ours = Route {
            table: MAIN_TABLE,
            destination: "2001:db8:6::/48".parse().unwrap(),
            metric: 1024,
            target: RouteTarget::Interface {
                interface: "v0".to_owned(),
                gateway: None,
            },
        };
        let tcp = std::net::TcpListener::bind("[::]:8080").unwrap();
        let udp = std::net::UdpSocket::bind("192.0.2.10:5300").unwrap();
        let _loopback = std::net::UdpSocket::bind("127.0.0.1:5301").unwrap();
        let connected = std::net::UdpSocket::bind("192.0.2.10:5302").unwrap();
        connected.connect("192.0.2.10:5300").unwrap();

        let seen = facts::observe(&netlink, "adit-nl2").await.unwrap();
        route::add(&netlink, &ours).await.unwrap();
        assert_eq!(seen, facts::observe(&netlink, "adit-nl2").await.unwrap());

        let links: Vec<_> = seen
            .links
            .iter()
            .map(|(name, link)| (name.as_str(), link.mtu, link.up))
            .collect();
        assert_eq!(links, [("v0", 1500, true), ("v1", 1400, false)]);

        let has = |interface: &str, address: &str| {
            seen.addresses
                .iter()
                .any(|it| it.interface == interface && it.address == address.parse().unwrap())
        };
        assert!(has("v0", "192.0.2.10/24") && has("v0", "2001:db8::10/64"));
        assert!(has("lo", "198.51.100.9/32"));
        assert!(!seen.addresses.iter().any(|it| it.interface == "adit-nl2"));
        assert!(
            !seen
                .addresses
                .iter()
                .any(|it| it.address.addr().is_loopback())
        );

        let default = seen.default_interface(false).unwrap();
        assert_eq!(
            (default.metric, default.from_router_advertisement),
            (50, false)
        );
        assert_eq!(default.gateway, Some("192.0.2.1".parse().unwrap()));
        let default = seen.default_interface(true).unwrap();
        assert_eq!(
            (default.metric, default.from_router_advertisement),
            (1024, true)
        );
        assert_eq!(default.gateway, Some("fe80::1".parse().unwrap()));
        let to = |prefix: &str| {
            let prefix = prefix.parse().unwrap();
            seen.routes
                .iter()
                .filter(move |it| it.destination == prefix)
        };
        assert_eq!(to("2001:db8:5::/48").count(), 2);
        assert_eq!(to("203.0.113.0/24").count(), 0);
        assert_eq!(to("192.0.2.0/24").count(), 1);

        let process = std::fs::read_to_string("/proc/self/comm").unwrap();
        let listener = |protocol, address: std::net::SocketAddr| Listener {
            protocol,
            address: address.ip(),
            port: address.port(),
            process: Some(process.trim_end().to_owned()),
        };
        let expected = [
            listener(Protocol::Tcp, tcp.local_addr().unwrap()),
            listener(Protocol::Udp, udp.local_addr().unwrap()),
        ];
        assert_eq!(seen.listeners, expected.into());

        assert!(seen.ipv6);
        assert_eq!(seen.sysctls["net/ipv4/conf/all/forwarding"], "0");
        assert_eq!(seen.sysctls["net/ipv6/conf/all/disable_ipv6"], "0");
        assert_eq!(seen.sysctls["net/ipv6/conf/v0/accept_ra"], "1");
        assert_eq!(seen.sysctls["net/ipv6/conf/v1/disable_ipv6"], "0");
    });
}
