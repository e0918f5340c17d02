//! Doors for the fuzz targets: what reads bytes that come from outside, as functions of those bytes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use adit_model::protocol::Protocol;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_wireguard::{
    WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd, WireguardMessage,
    WireguardPeer, WireguardPeerAttribute, WireguardTimeSpec,
};

use crate::conntrack::{self, Changed};
use crate::{
    address, firewall, link, listener, neighbor, netfilter, netlink, route, rule, watch, wireguard,
};

/// Answers and events of route netlink.
pub fn route_netlink(datagram: &[u8]) {
    let (messages, _) = netlink::decode(datagram);
    let names = BTreeMap::from([(1, "lo".to_owned()), (2, "eth0".to_owned())]);
    for message in messages {
        let NetlinkPayload::InnerMessage(message) = message.payload else {
            continue;
        };
        match message {
            RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message) => {
                let _ = (
                    route::destination_of(&message),
                    route::metric_of(&message),
                    route::route_of(&message, &names),
                );
            }
            RouteNetlinkMessage::NewRule(message) | RouteNetlinkMessage::DelRule(message) => {
                let _ = rule::rule_of(&message);
            }
            RouteNetlinkMessage::NewNeighbour(message) => {
                let _ = (neighbor::is_ours(&message), neighbor::address_of(&message));
            }
            RouteNetlinkMessage::NewAddress(message) => {
                let _ = address::prefix_of(&message);
            }
            RouteNetlinkMessage::NewLink(message) => {
                let _ = (link::mtu_of(&message), link::is_up(&message));
            }
            _ => {}
        }
    }
    watch::read(datagram, &mut watch::Pending::default());
}

/// What the kernel's WireGuard says of an interface, decoded: 32 bytes of a key, then times, sizes and a prefix. The
/// library that decodes it panics on attributes that are shorter than the kernel makes them, so it is left out.
pub fn wireguard_netlink(peers: &[u8]) {
    let peer = |bytes: &[u8]| -> Option<WireguardPeer> {
        let (key, rest) = bytes.split_first_chunk::<32>()?;
        let (seconds, rest) = rest.split_first_chunk::<8>()?;
        let (nano_seconds, rest) = rest.split_first_chunk::<8>()?;
        let (address, rest) = rest.split_first_chunk::<16>()?;
        let (ipv4, _) = address.split_first_chunk::<4>()?;
        let [length, family] = *rest.first_chunk::<2>()?;
        let address: IpAddr = if family.is_multiple_of(2) {
            (*ipv4).into()
        } else {
            (*address).into()
        };
        Some(WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey(*key),
            WireguardPeerAttribute::LastHandshake(WireguardTimeSpec {
                seconds: i64::from_le_bytes(*seconds),
                nano_seconds: i64::from_le_bytes(*nano_seconds),
            }),
            WireguardPeerAttribute::AllowedIps(vec![WireguardAllowedIp(vec![
                WireguardAllowedIpAttr::IpAddr(address),
                WireguardAllowedIpAttr::Cidr(length),
            ])]),
        ]))
    };
    let peers = peers.chunks(66).filter_map(peer).collect();
    let _ = wireguard::kernel::observed(vec![WireguardMessage {
        cmd: WireguardCmd::GetDevice,
        attributes: vec![WireguardAttribute::Peers(peers)],
    }]);
}

/// What a userspace WireGuard says of its interface.
pub fn uapi(answer: &str) {
    let mut reader = wireguard::uapi::Reader::new("adit0");
    if answer.lines().all(|line| reader.read(line).is_ok()) {
        let _ = reader.finish();
    }
}

/// Messages about tracked connections, the firewall and sockets.
pub fn netfilter(datagram: &[u8]) {
    let _ = listener::diagnosis::socket_of(datagram, Protocol::Udp);
    let all = ["0.0.0.0/0", "::/0"].map(str::parse);
    let everything = Changed {
        networks: all.into_iter().flatten().collect(),
        ..Changed::default()
    };
    let criteria = conntrack::Criteria::of(&everything);
    for message in netfilter::messages(datagram) {
        let _ = firewall::evidence::read(message);
        firewall::foreign::read_message(message);
        let _ = firewall::watch::is_ours(message);
        let _ = firewall::generation_in(message.attributes);
        let _ = conntrack::deletion(&criteria, message);
    }
}

/// What `nft --json list` prints.
pub fn firewall_listing(listing: &[u8]) {
    let _ = firewall::listing::fingerprint(listing);
    let _ = firewall::listing::elements(listing);
}

/// `/proc/net/tcp` and its siblings.
pub fn listeners(text: &str) {
    for line in text.lines() {
        let _ = listener::socket_of(line, Protocol::Tcp, "0A");
    }
}
