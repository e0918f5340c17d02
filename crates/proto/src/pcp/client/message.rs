//! Between a wish and the messages about it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use super::super::wire::{
    Answer, Body, FilterChange, MapBody, Nonce, PcpOption, PeerBody, PortSet, RequestMessage,
};
use crate::port_control::wish::Wish;

/// Asks for a mapping, or to keep the one that is there.
pub(super) fn request(
    local: IpAddr,
    wish: &Wish,
    nonce: Nonce,
    held: Option<SocketAddr>,
) -> Vec<u8> {
    let suggested = held.map(|it| it.ip()).or(wish.suggestion.address);
    let port = held
        .and_then(|it| NonZeroU16::new(it.port()))
        .or(wish.suggestion.port);
    let mut options: Vec<_> = wish
        .third_party
        .map(PcpOption::ThirdParty)
        .into_iter()
        .collect();
    if wish.prefer_failure {
        options.push(PcpOption::PreferFailure);
    }
    if !wish.filters.is_empty() {
        // Filters add up on the server, so those of before go first (RFC 6887 section 13.3).
        options.push(PcpOption::Filter(FilterChange::Clear));
        let added = wish.filters.iter().copied().map(FilterChange::Add);
        options.extend(added.map(PcpOption::Filter));
    }
    options.extend(shared_options(wish, wish.ports));
    let message = RequestMessage {
        client: local,
        lifetime: wish.lifetime,
        body: body(local, wish, nonce, suggested, port),
        options,
    };
    message.encode()
}

/// Asks to take a mapping away. The suggestion is empty then (RFC 6887 section 15.1).
pub(super) fn deletion(local: IpAddr, wish: &Wish, nonce: Nonce, ports: u16) -> Vec<u8> {
    let mut options: Vec<_> = wish
        .third_party
        .map(PcpOption::ThirdParty)
        .into_iter()
        .collect();
    options.extend(shared_options(wish, ports));
    let message = RequestMessage {
        client: local,
        lifetime: 0,
        body: body(local, wish, nonce, None, None),
        options,
    };
    message.encode()
}

/// Whether an answer is about a wish (RFC 6887 sections 11.4 and 12.4).
pub(super) fn is_about(answer: &Answer, wish: &Wish, nonce: Nonce) -> bool {
    let (map, remote) = match &answer.body {
        Body::Announce => return false,
        Body::Map(map) => (map, None),
        Body::Peer(peer) => (
            &peer.map,
            Some(SocketAddr::new(peer.remote, peer.remote_port)),
        ),
    };
    let third_party = answer.options.iter().find_map(|option| match option {
        PcpOption::ThirdParty(address) => Some(*address),
        PcpOption::PreferFailure
        | PcpOption::Filter(_)
        | PcpOption::PortSet(_)
        | PcpOption::Hostname(_)
        | PcpOption::HostnameCapability
        | PcpOption::Unknown(_) => None,
    });
    map.nonce == nonce
        && map.protocol == wish.protocol.number()
        && map.internal_port == wish.internal_port.get()
        && remote == wish.remote
        && third_party == wish.third_party
}

/// How many ports an answer grants.
pub(super) fn ports(answer: &Answer) -> u16 {
    let set = answer.options.iter().find_map(|option| match option {
        PcpOption::PortSet(set) => Some(set.size),
        PcpOption::ThirdParty(_)
        | PcpOption::PreferFailure
        | PcpOption::Filter(_)
        | PcpOption::Hostname(_)
        | PcpOption::HostnameCapability
        | PcpOption::Unknown(_) => None,
    });
    set.unwrap_or(1)
}

/// Whether an answer has all names of a wish: without, the server did not understand them.
pub(super) fn has_hostnames(answer: &Answer, wish: &Wish) -> bool {
    wish.hostnames
        .iter()
        .all(|name| answer.options.contains(&PcpOption::Hostname(name.clone())))
}

fn shared_options(wish: &Wish, ports: u16) -> Vec<PcpOption> {
    let mut options = Vec::new();
    if ports > 1 {
        options.push(PcpOption::PortSet(PortSet {
            size: ports,
            first_internal: wish.internal_port.get(),
            parity: false,
        }));
    }
    options.extend(wish.hostnames.iter().cloned().map(PcpOption::Hostname));
    options
}

fn body(
    local: IpAddr,
    wish: &Wish,
    nonce: Nonce,
    suggested: Option<IpAddr>,
    port: Option<NonZeroU16>,
) -> Body {
    let nothing = match local {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let map = MapBody {
        nonce,
        protocol: wish.protocol.number(),
        internal_port: wish.internal_port.get(),
        external_port: port.map_or(0, NonZeroU16::get),
        external: suggested.unwrap_or(nothing),
    };
    match wish.remote {
        None => Body::Map(map),
        Some(remote) => Body::Peer(PeerBody {
            map,
            remote_port: remote.port(),
            remote: remote.ip(),
        }),
    }
}
