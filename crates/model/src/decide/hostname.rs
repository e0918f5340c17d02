//! Names on a port: many forwards share it, and one without a name takes what no name takes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Draft;
use super::forward::describe;
use crate::change::AddForward;
use crate::hostname;
use crate::protocol::{PortRange, Protocol};
use crate::refusal::Refusal;
use crate::state::{Device, Forward};

/// The port on which names are those of HTTP requests.
const HTTP: u16 = 80;

/// The name as it is stored, and the protocols where none was said: QUIC has names too, HTTP and the PROXY protocol are for TCP.
pub(super) fn settle(wish: &AddForward) -> Result<(Option<String>, BTreeSet<Protocol>), Refusal> {
    let hostname = wish.hostname.as_deref().map(hostname::parse).transpose()?;
    let is_tcp = hostname.is_some() && (wish.port == HTTP || wish.proxy_protocol);
    let protocols = if wish.protocols.is_empty() && is_tcp {
        [Protocol::Tcp].into()
    } else {
        super::or_all(wish.protocols.clone())
    };
    Ok((hostname, protocols))
}

/// Checks what a forward says by itself.
pub(super) fn check_shape(forward: &Forward, range: PortRange) -> Result<(), Refusal> {
    let alone = |reason| Err(Refusal::ProxyProtocolAlone { reason });
    match &forward.hostname {
        Some(name) => {
            hostname::parse(name)?;
            if !range.is_single() {
                let hostname = name.clone();
                return Err(Refusal::HostnameOnRange { hostname, range });
            }
            if forward.proxy_protocol && forward.protocols.contains(&Protocol::Udp) {
                return alone("datagrams do not carry it");
            }
            Ok(())
        }
        None if forward.proxy_protocol => {
            alone("without a name, packets go to the device as they are")
        }
        None => Ok(()),
    }
}

/// Refuses what is in the way of names, or in whose way names are, at addresses of this host.
pub(super) fn check_names(
    draft: &Draft<'_>,
    forward: &Forward,
    externals: &BTreeSet<IpAddr>,
    range: PortRange,
    protocol: Protocol,
) -> Result<(), Refusal> {
    let state = draft.state;
    let meets = |other: &&Forward| {
        other.id != forward.id
            && other.protocols.contains(&protocol)
            && draft
                .locals(other)
                .is_some_and(|it| !it.is_disjoint(externals))
    };
    let owner = |other: &Forward| state.devices.get(&other.device);
    match &forward.hostname {
        Some(name) => {
            let mut same = state.forwards_named(range.first(), name);
            if let Some((other, device)) = same.find(meets).and_then(|it| Some((it, owner(it)?))) {
                return Err(taken(name, range, protocol, other, device));
            }
            let plain = state.plain_forwards_on(range);
            let ranges = plain.into_iter().filter(|it| it.port != it.port_end);
            in_the_way(ranges.filter(meets), owner, range, protocol)
        }
        None if range.is_single() => Ok(()),
        None => in_the_way(
            state.named_forwards_on(range).filter(meets),
            owner,
            range,
            protocol,
        ),
    }
}

fn in_the_way<'a>(
    mut others: impl Iterator<Item = &'a Forward>,
    owner: impl Fn(&Forward) -> Option<&'a Device>,
    range: PortRange,
    protocol: Protocol,
) -> Result<(), Refusal> {
    let other = others.find_map(|it| Some((it, it.ports()?, owner(it)?)));
    other.map_or(Ok(()), |(other, ports, device)| {
        Err(Refusal::PortTaken {
            range,
            protocol,
            other: describe(other, ports, protocol, device),
        })
    })
}

fn taken(
    name: &str,
    range: PortRange,
    protocol: Protocol,
    other: &Forward,
    device: &Device,
) -> Refusal {
    Refusal::HostnameTaken {
        hostname: name.to_owned(),
        port: range.first(),
        protocol,
        other: describe(other, range, protocol, device),
    }
}

/// A port of an address of this host.
pub(super) type Socket = (IpAddr, Protocol, u16);

type Holder<'a> = (PortRange, &'a Forward, &'a Device);

/// What forwards hold that move together, by socket: one without a name, and one for each name.
#[derive(Default)]
pub(super) struct Held<'a> {
    plain: BTreeMap<Socket, Holder<'a>>,
    named: BTreeMap<(Socket, &'a str), Holder<'a>>,
}

impl<'a> Held<'a> {
    pub(super) fn insert(
        &mut self,
        socket: Socket,
        ports: PortRange,
        forward: &'a Forward,
        device: &'a Device,
    ) {
        let holder = (ports, forward, device);
        match &forward.hostname {
            Some(name) => {
                self.named.insert((socket, name), holder);
            }
            None => {
                self.plain.insert(socket, holder);
            }
        }
    }

    /// Refuses what cannot be beside what is held.
    pub(super) fn check(
        &self,
        (address, protocol, first): Socket,
        ports: PortRange,
        forward: &Forward,
    ) -> Result<(), Refusal> {
        let plain = self
            .plain
            .range((address, protocol, 0)..=(address, protocol, ports.last()))
            .next_back()
            .map(|(_, holder)| holder)
            .filter(|(range, ..)| range.overlaps(ports));
        let in_the_way = match &forward.hostname {
            Some(name) => {
                let key = ((address, protocol, first), name.as_str());
                if let Some((_, other, device)) = self.named.get(&key) {
                    return Err(taken(name, ports, protocol, other, device));
                }
                plain.filter(|(range, ..)| !range.is_single())
            }
            None => plain.or_else(|| {
                let named = self.named.range(((address, protocol, first), "")..);
                let mut named = named.take_while(|(((at, with, port), _), _)| {
                    (*at, *with) == (address, protocol) && *port <= ports.last()
                });
                let first = named.next().map(|(_, holder)| holder);
                first.filter(|_| !ports.is_single())
            }),
        };
        match in_the_way {
            Some((range, other, device)) => Err(Refusal::PortTaken {
                range: ports,
                protocol,
                other: describe(other, *range, protocol, device),
            }),
            None => Ok(()),
        }
    }
}
