//! What arrives and what does not, and as whom.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use adit_host::firewall::Table;
use adit_model::desired::firewall::{Endpoint, Firewall};
use adit_model::protocol::Protocol;
use nix::sys::socket::{getsockopt, sockopt};

use crate::world::World;
use crate::{firewall, range};

/// Sends one datagram, and returns the address that the receiver sees it come from.
pub(crate) fn delivered(
    sender: &UdpSocket,
    to: &str,
    receiver: &UdpSocket,
    patience: Duration,
) -> Option<SocketAddr> {
    static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let payload = NUMBER
        .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
        .to_be_bytes();
    let to: SocketAddr = to.parse().unwrap();
    sender.send_to(&payload, to).unwrap();
    received(receiver, &payload, patience)
}

fn received(receiver: &UdpSocket, payload: &[u8], patience: Duration) -> Option<SocketAddr> {
    let end = Instant::now() + patience;
    let mut buffer = [0; 64];
    while let Some(left) = end
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        receiver.set_read_timeout(Some(left)).unwrap();
        if let Ok((length, source)) = receiver.recv_from(&mut buffer)
            && buffer[..length] == *payload
        {
            return Some(source);
        }
    }
    None
}

pub(crate) const SOON: Duration = Duration::from_millis(1500);
const NEVER: Duration = Duration::from_millis(150);

/// The table is in force for the life of the namespace; only the text is needed here.
fn load(world: &World, wanted: &Firewall) {
    world.on_gateway(async |_| Table::default().replace(wanted).await.unwrap());
}

#[test]
fn only_permitted_packets_arrive() {
    let world = World::build();
    world.shell(
        "gateway",
        "ip link add private0 type veth peer name private1
         ip link set private0 up
         ip address add 172.17.0.1/24 dev private0
         ip -6 route add 2001:db8:0:2:dead::/80 via 2001:db8:ff::9
         ip route add 169.254.169.254/32 via 192.0.2.9",
    );
    world.give("private1", "outside");
    world.shell(
        "outside",
        "ip link set private1 up
         ip address add 172.17.0.9/24 dev private1
         ip address add 169.254.169.254/32 dev lo
         ip address add 2001:db8:0:2:dead::1/128 dev lo nodad
         ip address add 2001:db8:0:1::3/128 dev lo nodad",
    );
    let outside = world.udp("outside", "0.0.0.0:9000");
    let outside6 = world.udp("outside", "[::]:9001");
    let impostor = world.udp("outside", "[2001:db8:0:1::3]:9002");
    let gateway = world.udp("gateway", "0.0.0.0:9000");
    let service = world.udp("gateway", "0.0.0.0:5351");
    let device1 = world.udp("device1", "10.59.0.2:9000");
    let device1_six = world.udp("device1", "[2001:db8:0:1::2]:7050");
    let device1_hole = world.udp("device1", "[2001:db8:0:1::2]:7000");
    let device1_holes = world.udp("device1", "[2001:db8:0:1::2]:7123");
    let device2 = world.udp("device2", "10.59.0.3:9000");
    let device2_six = world.udp("device2", "[2001:db8:0:1::3]:9000");
    let device3 = world.udp("device3", "10.60.0.2:9000");
    let device3_six = world.udp("device3", "[2001:db8:0:2::2]:9000");

    let probes = [
        // Sender, destination, receiver, whether it may arrive, what it is.
        (
            &outside,
            "10.59.0.2:9000",
            &device1,
            false,
            "from outside to a device",
        ),
        (
            &outside6,
            "[2001:db8:0:1::2]:7050",
            &device1_six,
            false,
            "no pinhole",
        ),
        (
            &outside6,
            "[2001:db8:0:1::2]:7000",
            &device1_hole,
            true,
            "a pinhole",
        ),
        (
            &outside6,
            "[2001:db8:0:1::2]:7123",
            &device1_holes,
            true,
            "a range of pinholes",
        ),
        (
            &device3_six,
            "[2001:db8:0:1::2]:7000",
            &device1_hole,
            true,
            "a pinhole, from another subnet",
        ),
        (
            &impostor,
            "[2001:db8:0:1::2]:7000",
            &device1_hole,
            false,
            "a device's source, from outside",
        ),
        (
            &device1,
            "10.59.0.3:9000",
            &device2,
            true,
            "within a subnet",
        ),
        (
            &device1_six,
            "[2001:db8:0:1::3]:9000",
            &device2_six,
            true,
            "within a subnet",
        ),
        (
            &device1,
            "10.60.0.2:9000",
            &device3,
            false,
            "to another subnet",
        ),
        (
            &device3,
            "10.59.0.3:9000",
            &device2,
            false,
            "to another subnet",
        ),
        (
            &device3_six,
            "[2001:db8:0:1::3]:9000",
            &device2_six,
            false,
            "to another subnet",
        ),
        (
            &device1,
            "10.59.0.1:9000",
            &gateway,
            true,
            "to the gateway, with host access",
        ),
        (
            &device1,
            "192.0.2.1:9000",
            &gateway,
            true,
            "to the gateway's public address, with host access",
        ),
        (
            &device3,
            "10.60.0.1:9000",
            &gateway,
            false,
            "to the gateway, without host access",
        ),
        (
            &device3,
            "192.0.2.1:9000",
            &gateway,
            false,
            "to the gateway's public address, without host access",
        ),
        (
            &device3,
            "10.60.0.1:5351",
            &service,
            true,
            "to a service of the gateway",
        ),
        (
            &outside,
            "192.0.2.1:9000",
            &gateway,
            true,
            "from outside to the gateway",
        ),
        (
            &device1,
            "172.17.0.9:9000",
            &outside,
            true,
            "to a network of the host, with host access",
        ),
        (
            &device3,
            "172.17.0.9:9000",
            &outside,
            false,
            "to a network of the host, without host access",
        ),
        (&device3, "192.0.2.9:9000", &outside, true, "out"),
        (
            &device3_six,
            "[2001:db8:ff::9]:9001",
            &outside6,
            true,
            "out",
        ),
        (
            &device3_six,
            "[2001:db8:0:2:dead::1]:9001",
            &outside6,
            false,
            "out to our own prefix",
        ),
        (
            &device1,
            "169.254.169.254:9000",
            &outside,
            false,
            "to the provider's link-local services",
        ),
    ];
    for (sender, to, receiver, _, what) in &probes {
        let source = delivered(sender, to, receiver, SOON);
        assert!(source.is_some(), "without a firewall: {what} ({to})");
    }
    // What was tracked without a firewall is established with it.
    world.shell("gateway", "conntrack -F 2>/dev/null");
    load(&world, &firewall());
    for (sender, to, receiver, permitted, what) in &probes {
        let source = delivered(sender, to, receiver, if *permitted { SOON } else { NEVER });
        assert_eq!(source.is_some(), *permitted, "{what} ({to})");
        world.shell("gateway", "conntrack -F 2>/dev/null");
    }

    let ping = |place, to| world.succeeds(place, &format!("ping -c 1 -W 1 {to}"));
    assert!(ping("outside", "2001:db8:0:1::2"), "RFC 4890");
    assert!(ping("device3", "192.0.2.9"), "translated without ports");
    assert!(ping("device3", "10.60.0.1"));
    assert!(ping("device1", "10.59.0.3"));
    assert!(!ping("device3", "10.59.0.3"));
    assert!(!ping("device3", "2001:db8:0:1::2"));

    let mut closed = firewall();
    closed
        .subnets
        .values_mut()
        .for_each(|policy| policy.peers_allowed = false);
    load(&world, &closed);
    assert_eq!(
        delivered(&device1, "10.59.0.3:9000", &device2, NEVER),
        None,
        "peers are not allowed"
    );
}

#[test]
fn translations_show_the_right_addresses() {
    let world = World::build();
    load(&world, &firewall());
    let outside = world.udp("outside", "192.0.2.9:9000");
    let web = world.udp("device1", "10.59.0.2:8080");
    let media = world.udp("device1", "10.59.0.2:5004");
    let device2 = world.udp("device2", "10.59.0.3:9000");
    let device3 = world.udp("device3", "10.60.0.2:5004");
    let gateway = world.udp("gateway", "192.0.2.1:5000");
    let seen = |sender, to, receiver| {
        delivered(sender, to, receiver, SOON)
            .map(|source| source.to_string())
            .unwrap_or_default()
    };

    assert_eq!(seen(&outside, "192.0.2.1:80", &web), "192.0.2.9:9000");
    assert_eq!(
        seen(&web, "192.0.2.9:9000", &outside),
        "192.0.2.1:80",
        "the answer of a forward"
    );
    assert_eq!(seen(&outside, "192.0.2.1:5004", &media), "192.0.2.9:9000");
    assert_eq!(
        seen(&device2, "192.0.2.1:80", &web),
        "10.59.0.3:9000",
        "hairpin"
    );
    assert_eq!(
        seen(&device3, "192.0.2.1:80", &web),
        "10.60.0.2:5004",
        "hairpin from another subnet"
    );
    assert_eq!(
        seen(&web, "192.0.2.1:80", &web),
        "10.59.0.1:8080",
        "hairpin to itself"
    );
    assert_eq!(
        seen(&gateway, "192.0.2.9:9000", &outside),
        "192.0.2.1:5000",
        "the host itself"
    );

    world.shell("gateway", "conntrack -F 2>/dev/null");
    assert_eq!(
        seen(&web, "192.0.2.9:9000", &outside),
        "192.0.2.1:80",
        "a forwarded port stays itself"
    );
    assert_eq!(
        seen(&media, "192.0.2.9:9000", &outside),
        "192.0.2.1:5004",
        "a forwarded range stays itself"
    );
    assert_eq!(
        seen(&web, "10.59.0.3:9000", &device2),
        "10.59.0.2:8080",
        "inside nothing is translated"
    );
    let source: SocketAddr = seen(&device3, "192.0.2.9:9000", &outside).parse().unwrap();
    assert!(
        source.ip().to_string() == "192.0.2.1" && source.port() >= 40000,
        "{source}"
    );
}

#[test]
fn headers_of_the_other_family_are_not_misread() {
    let world = World::build();
    let mut wanted = firewall();
    // Where an IPv6 packet has its destination, this IPv4 packet has the UDP length, an absent checksum and its payload.
    let payload = *b"misread here";
    let mut address = [0; 16];
    address[1] = 20;
    address[4..].copy_from_slice(&payload);
    let mut crafted = [
        9000u16.to_be_bytes(),
        9000u16.to_be_bytes(),
        [0, 20],
        [0, 0],
    ]
    .concat();
    crafted.extend(payload);
    let misread = |ports| Endpoint {
        address: Ipv6Addr::from(address),
        protocol: Protocol::Udp,
        ports,
    };
    wanted
        .pinholes
        .extend([range(9000, 9000), range(8999, 9001)].map(misread));
    // Shows that the packets are what they claim to be.
    world.shell(
        "gateway",
        "nft -f - <<END
         table inet probe {
             chain input {
                 type filter hook prerouting priority -300;
                 meta nfproto ipv4 @nh,192,128 0x001400006d6973726561642068657265 counter comment misread
                 meta nfproto ipv6 @nh,128,32 0xc0000201 counter comment misread
             }
         }
END",
    );
    let device = world.udp("device1", "10.59.0.2:9000");
    let raw = world.within("outside", || {
        socket2::Socket::new(
            socket2::Domain::IPV4,
            socket2::Type::RAW,
            Some(socket2::Protocol::UDP),
        )
        .unwrap()
    });
    let to: SocketAddr = "10.59.0.2:0".parse().unwrap();
    raw.send_to(&crafted, &to.into()).unwrap();
    assert!(
        received(&device, &payload, SOON).is_some(),
        "without a firewall"
    );
    world.shell("gateway", "conntrack -F 2>/dev/null");
    load(&world, &wanted);
    raw.send_to(&crafted, &to.into()).unwrap();
    assert!(
        received(&device, &payload, NEVER).is_none(),
        "IPv4 passed an IPv6 pinhole"
    );

    // Where an IPv4 packet has its destination, this IPv6 packet has the middle of its source: 192.0.2.1.
    world.shell(
        "outside",
        "ip address add 2001:db8:ff:0:c000:201:0:9/64 dev eth0 nodad",
    );
    let sender = world.udp("outside", "[2001:db8:ff:0:c000:201:0:9]:9000");
    let gateway = world.udp("gateway", "[2001:db8:ff::1]:80");
    assert!(
        delivered(&sender, "[2001:db8:ff::1]:80", &gateway, SOON).is_some(),
        "IPv6 met an IPv4 forward"
    );
    let probes = world.shell("gateway", "nft list table inet probe");
    assert!(
        probes.matches("counter packets ").count() == 2 && !probes.contains("counter packets 0 "),
        "{probes}"
    );
}

#[test]
fn segments_are_clamped_both_ways() {
    let world = World::build();
    let segment = |from: &str, to: &str, address: &str| {
        let address: SocketAddr = address.parse().unwrap();
        let listener = world.within(to, || TcpListener::bind(address).unwrap());
        let sent = world.within(from, || TcpStream::connect_timeout(&address, SOON).unwrap());
        let (accepted, _) = listener.accept().unwrap();
        [sent, accepted].map(|stream| getsockopt(&stream, sockopt::TcpMaxSeg).unwrap())
    };
    // Of what the SYN says, 12 go to timestamps.
    assert_eq!(segment("device1", "outside", "192.0.2.9:81"), [1448, 1448]);
    load(&world, &firewall());
    assert_eq!(segment("device1", "outside", "192.0.2.9:82"), [1368, 1368]);
    assert_eq!(
        segment("device1", "outside", "[2001:db8:ff::9]:82"),
        [1348, 1348]
    );
    assert_eq!(
        segment("gateway", "device1", "10.59.0.2:82"),
        [1368, 1368],
        "the gateway's own connections"
    );
    world.shell("device1", "ip link set eth0 mtu 1300");
    assert_eq!(
        segment("device1", "outside", "192.0.2.9:83"),
        [1248, 1248],
        "never raised"
    );
}
