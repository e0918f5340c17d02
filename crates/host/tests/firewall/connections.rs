//! How many connections one device can have: what is over the limit does not begin, what began goes on.

use std::collections::BTreeSet;
use std::net::UdpSocket;

use adit_host::firewall::Table;
use adit_model::desired::firewall::{Connections, Firewall};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::firewall;
use crate::packets::{SOON, delivered};
use crate::world::World;

const LIMIT: u32 = 20;
const MORE: u16 = 60;

fn limited() -> Firewall {
    let mut wanted = firewall();
    wanted.connections = Connections {
        limit: LIMIT,
        // The longest too: their masks are all ones.
        delegations4: ["192.168.7.0/24", "192.168.9.1/32"]
            .map(|network| network.parse::<Ipv4Net>().unwrap())
            .into_iter()
            .collect(),
        delegations6: ["2001:db8:0:3::/64", "2001:db8:0:4::1/128"]
            .map(|network| network.parse::<Ipv6Net>().unwrap())
            .into_iter()
            .collect(),
    };
    let policy = wanted.subnets.get_mut(&1).unwrap();
    policy
        .networks4
        .extend(wanted.connections.delegations4.iter().copied());
    policy
        .networks6
        .extend(wanted.connections.delegations6.iter().copied());
    wanted
}

/// One datagram from each of the sockets; those that arrived.
fn begin(sockets: &[UdpSocket], to: &str, receiver: &UdpSocket) -> BTreeSet<u16> {
    for (number, socket) in (0_u16..).zip(sockets) {
        socket.send_to(&number.to_be_bytes(), to).unwrap();
    }
    receiver.set_read_timeout(Some(SOON)).unwrap();
    let mut arrived = BTreeSet::new();
    let mut buffer = [0; 64];
    while let Ok((_, source)) = receiver.recv_from(&mut buffer) {
        arrived.insert(u16::from_be_bytes([buffer[0], buffer[1]]));
        receiver.send_to(b"answer", source).unwrap();
    }
    arrived
}

#[test]
fn a_device_over_its_limit_begins_nothing_more_and_loses_nothing() {
    let world = World::build();
    world.shell(
        "gateway",
        "ip route add 192.168.7.0/24 via 10.59.0.2
         ip -6 route add 2001:db8:0:3::/64 via 2001:db8:0:1::2",
    );
    world.shell(
        "device1",
        "ip route add local 192.168.7.0/24 dev lo
         ip -6 route add local 2001:db8:0:3::/64 dev lo
         sysctl -qw net.ipv6.ip_nonlocal_bind=1",
    );
    world.on_gateway(async |_| {
        let mut table = Table::default();
        table.replace(&limited()).await.unwrap();
        let observed = table.observe().await.unwrap().unwrap();
        assert!(observed.matches(&limited()), "{observed:?}");
    });
    let outside = world.udp("outside", "192.0.2.9:9000");
    let outside6 = world.udp("outside", "[2001:db8:ff::9]:9000");
    let many = |place: &str, address: &dyn Fn(u16) -> String| -> Vec<UdpSocket> {
        (0..MORE)
            .map(|number| world.udp(place, &address(number)))
            .collect()
    };
    let own4 = many("device1", &|_| "10.59.0.2:0".to_owned());
    let own6 = many("device1", &|_| "[2001:db8:0:1::2]:0".to_owned());
    let behind4 = many("device1", &|number| format!("192.168.7.{}:0", 1 + number));
    let behind6 = many("device1", &|number| {
        format!("[2001:db8:0:3:{number:x}::1]:0")
    });
    for (what, sockets, to, far) in [
        ("own, IPv4", &own4, "192.0.2.9:9000", &outside),
        ("own, IPv6", &own6, "[2001:db8:ff::9]:9000", &outside6),
        ("delegated, IPv4", &behind4, "192.0.2.9:9000", &outside),
        (
            "delegated, IPv6",
            &behind6,
            "[2001:db8:ff::9]:9000",
            &outside6,
        ),
    ] {
        let first = begin(sockets, to, far);
        assert_eq!(first.len(), LIMIT as usize, "{what}: {first:?}");
        assert_eq!(
            begin(sockets, to, far),
            first,
            "{what}: those that began go on"
        );
    }

    let other = world.udp("device2", "10.59.0.3:9000");
    assert!(
        delivered(&other, "192.0.2.9:9000", &outside, SOON).is_some(),
        "another device"
    );
    let service = world.udp("device1", "10.59.0.2:8080");
    let visitors = many("outside", &|_| "192.0.2.9:0".to_owned());
    let admitted = begin(&visitors, "192.0.2.1:80", &service);
    assert_eq!(admitted.len(), LIMIT as usize, "through a forward");
    let service = world.udp("device1", "[2001:db8:0:1::2]:7000");
    let visitors = many("outside", &|_| "[2001:db8:ff::9]:0".to_owned());
    let admitted = begin(&visitors, "[2001:db8:0:1::2]:7000", &service);
    assert_eq!(admitted.len(), LIMIT as usize, "through a pinhole");

    world.shell("gateway", "conntrack -F 2>/dev/null");
    let again = begin(&own4, "192.0.2.9:9000", &outside);
    assert_eq!(again.len(), LIMIT as usize, "when the old ones ended");
}

#[test]
fn what_is_refused_counts_for_nobody() {
    let world = World::build();
    world.on_gateway(async |_| Table::default().replace(&limited()).await.unwrap());
    let outside6 = world.udp("outside", "[2001:db8:ff::9]:9000");
    for port in 1..500 {
        let closed = format!("[2001:db8:0:1::2]:{port}");
        outside6.send_to(b"closed", closed).unwrap();
    }
    let open = world.udp("device1", "[2001:db8:0:1::2]:7000");
    let visitors: Vec<UdpSocket> = (0..LIMIT)
        .map(|_| world.udp("outside", "[2001:db8:ff::9]:0"))
        .collect();
    let admitted = begin(&visitors, "[2001:db8:0:1::2]:7000", &open);
    assert_eq!(admitted.len(), LIMIT as usize);
}
