//! Names on shared ports: what forwards contribute to them, and what the kernel needs for all of them together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::firewall::{Place, Way, advertised, holder, way_of, ways};
use super::routing::{LOOPBACK, default_destination};
use super::{Context, Member, Part};
use crate::configuration::Routing;
use crate::desired::Desired;
use crate::desired::firewall::{Endpoint, Port, Translations};
use crate::desired::names::{HTTP, HTTPS, Mode, Target};
use crate::desired::route::{Route, RouteTarget};
use crate::desired::rule::{FRONT_MARK, Rule};
use crate::protocol::{PortRange, Protocol};
use crate::state::{Device, Forward, Lease};

/// The table, and the priority of the rules that lead to it: what comes back to sockets of the front that have a client's
/// address is for this host.
const FRONT: u32 = 4293;

/// Metric of its routes.
const METRIC: u32 = 173;

/// What a forward with a name does at one of its public addresses.
pub(super) fn name(
    context: &Context<'_>,
    forward: &Forward,
    hostname: &str,
    way: &Way<'_>,
    part: &mut Part,
) {
    let Some((local, target)) = target(context, forward, way) else {
        return;
    };
    for protocol in &forward.protocols {
        let key = (socket(local, *protocol, forward.port), hostname.to_owned());
        // Two meet only where the host's addresses changed; then the older one stays.
        part.names
            .routes
            .entry(key)
            .or_insert_with(|| target.clone());
    }
}

/// What a lease with names does.
pub(super) fn lease(context: &Context<'_>, lease: &Lease, place: &Place, part: &mut Part) {
    let (Some(member), Some(protocol)) = (context.member_of(lease.device), lease.protocol) else {
        return;
    };
    let (local, address) = place.ends();
    let target = towards(
        context,
        &member,
        SocketAddr::new(address, lease.internal),
        false,
    );
    for hostname in &lease.hostnames {
        let key = (socket(local, protocol, lease.external), hostname.clone());
        part.names
            .routes
            .entry(key)
            .or_insert_with(|| target.clone());
    }
}

/// What a forward without a name does, for the protocols in which others have names on its port.
pub(super) fn fallback(
    context: &Context<'_>,
    forward: &Forward,
    way: &Way<'_>,
    protocols: &BTreeSet<Protocol>,
    part: &mut Part,
) {
    if protocols.is_empty() {
        return;
    }
    let Some((local, target)) = target(context, forward, way) else {
        return;
    };
    for protocol in protocols {
        let key = socket(local, *protocol, forward.port);
        part.names
            .fallbacks
            .entry(key)
            .or_insert_with(|| target.clone());
    }
}

/// The protocols of a forward without a name in which others have names on its port, at an address of this host.
pub(super) fn shared(
    context: &Context<'_>,
    forward: &Forward,
    local: IpAddr,
) -> BTreeSet<Protocol> {
    let Some(port) = PortRange::new(forward.port, forward.port) else {
        return BTreeSet::new();
    };
    if forward.port != forward.port_end {
        return BTreeSet::new();
    }
    let state = context.inputs.state;
    let leases = state.leases_on(None, port).into_iter();
    let leased: BTreeSet<Protocol> = leases
        .filter(|lease| lease.is_named())
        .filter(|lease| way_of(context, lease).is_some_and(|way| way.local() == local))
        .filter_map(|lease| lease.protocol)
        .collect();
    let is_here = |other: &Forward| ways(context, other).iter().any(|way| way.local() == local);
    let is_named = |protocol: &&Protocol| {
        let mut others = state.named_forwards_on(port);
        leased.contains(protocol)
            || others.any(|other| other.protocols.contains(protocol) && is_here(other))
    };
    forward.protocols.iter().filter(is_named).copied().collect()
}

/// What holds for all names together, once what single forwards do is in place.
pub(super) fn finish(context: &Context<'_>, desired: &mut Desired) {
    let sockets = desired.names.sockets();
    desired.names.redirects = redirects(context, desired, &sockets);
    let listeners = desired.names.listeners();
    let uplinks = &context.frame.uplinks;
    let by_advertised = listeners.iter().filter_map(|listener| {
        let IpAddr::V4(local) = listener.address else {
            return None;
        };
        let address = advertised(holder(uplinks, listener.address)?, local)?;
        let Port { protocol, port, .. } = *listener;
        Some((
            Port {
                address,
                protocol,
                port,
            },
            local,
        ))
    });
    let advertised_names: BTreeMap<_, _> = by_advertised.collect();
    let is_needed = !listeners.is_empty();
    if let Some(firewall) = &mut desired.firewall {
        firewall.names = listeners;
        firewall.advertised_names = advertised_names;
    }
    for ipv6 in [false, true] {
        let (rule, route) = (rule(context, ipv6), route(ipv6));
        if is_needed && (context.frame.ipv6 || !ipv6) {
            desired.rules.insert(rule);
            desired.routes.insert(route);
        } else {
            desired.rules.remove(&rule);
            desired.routes.remove(&route);
        }
    }
}

/// The addresses with TLS names whose port 80 leads to no device and is no other program's.
fn redirects(
    context: &Context<'_>,
    desired: &Desired,
    sockets: &BTreeSet<Port<IpAddr>>,
) -> BTreeSet<IpAddr> {
    let facts = context.inputs.facts;
    let is_free = |address: IpAddr| {
        let is_forwarded = desired
            .firewall
            .as_ref()
            .is_some_and(|firewall| match address {
                IpAddr::V4(address) => holds(&firewall.translations4, address),
                IpAddr::V6(address) => holds(&firewall.translations6, address),
            });
        let mut listeners = facts.listeners.iter().filter(|it| !it.is_front());
        let is_taken = listeners.any(|listener| {
            (listener.protocol, listener.port) == (Protocol::Tcp, HTTP)
                && (listener.address == address || listener.address.is_unspecified())
        });
        !is_forwarded && !is_taken
    };
    let secure = sockets
        .iter()
        .filter(|socket| (socket.protocol, socket.port) == (Protocol::Tcp, HTTPS));
    secure
        .map(|socket| socket.address)
        .filter(|address| {
            sockets.contains(&socket(*address, Protocol::Tcp, HTTP)) || is_free(*address)
        })
        .collect()
}

/// Whether port 80 of an address leads to a device.
fn holds<A: Ord + Copy>(translations: &Translations<A>, address: A) -> bool {
    let single = Port {
        address,
        protocol: Protocol::Tcp,
        port: HTTP,
    };
    let Some(ports) = PortRange::new(HTTP, HTTP) else {
        return false;
    };
    let highest = Endpoint {
        address,
        protocol: Protocol::Tcp,
        ports: PortRange::new(HTTP, u16::MAX).unwrap_or(ports),
    };
    let before = translations.forward_ranges.range(..=highest).next_back();
    translations.forwards.contains_key(&single)
        || before.is_some_and(|(range, _)| {
            range.address == address
                && range.protocol == Protocol::Tcp
                && range.ports.overlaps(ports)
        })
}

fn target(context: &Context<'_>, forward: &Forward, way: &Way<'_>) -> Option<(IpAddr, Target)> {
    let member = context.member_of(forward.device)?;
    let (local, address) = way.place.ends();
    let device = SocketAddr::new(address, forward.target_port);
    Some((
        local,
        towards(context, &member, device, forward.proxy_protocol),
    ))
}

fn towards(
    context: &Context<'_>,
    member: &Member<'_>,
    device: SocketAddr,
    proxy_protocol: bool,
) -> Target {
    let own = member.addresses.iter().copied().map(IpNet::from);
    Target {
        device,
        near: own.chain(context.delegations_of(member.device)).collect(),
        mode: mode(member.device, proxy_protocol),
    }
}

fn mode(device: &Device, proxy_protocol: bool) -> Mode {
    if proxy_protocol {
        return Mode::ProxyProtocol;
    }
    match device.routing {
        Routing::Full | Routing::Inbound => Mode::Transparent,
        Routing::Split => Mode::Gateway,
    }
}

const fn socket(address: IpAddr, protocol: Protocol, port: u16) -> Port<IpAddr> {
    Port {
        address,
        protocol,
        port,
    }
}

fn rule(context: &Context<'_>, ipv6: bool) -> Rule {
    Rule {
        priority: FRONT,
        source: default_destination(ipv6),
        destination: None,
        input_interface: Some(context.inputs.interface.to_owned()),
        mark: Some(FRONT_MARK),
        table: FRONT,
        suppress_prefix_length: None,
    }
}

fn route(ipv6: bool) -> Route {
    Route {
        table: FRONT,
        destination: default_destination(ipv6),
        metric: METRIC,
        target: RouteTarget::Local {
            interface: LOOPBACK.to_owned(),
        },
    }
}
