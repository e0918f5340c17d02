//! Doors for the fuzz targets: what reads bytes that come from outside, as functions of those bytes.

use std::collections::BTreeMap;

use adit_model::protocol::Protocol;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_generic::GenlMessage;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_wireguard::WireguardMessage;

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

/// What the kernel's WireGuard says of an interface.
pub fn wireguard_netlink(message: &[u8]) {
    let read = NetlinkMessage::<GenlMessage<WireguardMessage>>::deserialize(message);
    if let Ok(NetlinkPayload::InnerMessage(inner)) = read.map(|message| message.payload) {
        let _ = wireguard::kernel::observed(vec![inner.into_parts().1]);
    }
}

/// What a userspace WireGuard says of its interface.
pub fn uapi(answer: &str) {
    let mut reader = wireguard::uapi::Reader::new("adit0");
    if answer.lines().all(|line| reader.read(line).is_ok()) {
        let _ = reader.finish();
    }
}

/// Messages about tracked connections and the firewall.
pub fn netfilter(datagram: &[u8]) {
    let all = ["0.0.0.0/0", "::/0"].map(str::parse);
    let everything = Changed {
        networks: all.into_iter().flatten().collect(),
        ..Changed::default()
    };
    let criteria = conntrack::Criteria::of(&everything);
    for message in netfilter::messages(datagram) {
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
