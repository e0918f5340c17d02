//! Routes, rules and proxy neighbours.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Context, Members, host, networks4, networks6};
use crate::desired::neighbor::ProxyNeighbor;
use crate::desired::route::{MAIN_TABLE, Route, RouteTarget};
use crate::desired::rule::{MARK_MASK, Rule};
use crate::facts::RouteFact;
use crate::uplink::{self, SHORTEST_PROXIED, Uplink};

/// Metric of routes to devices.
const DEVICE_METRIC: u32 = 173;

/// Metric of the routes that end what no device has: above every route that leads somewhere.
const SINK_METRIC: u32 = 0x7fff_0000;

/// First of our tables.
const FIRST_TABLE: u32 = 4200;

/// First priority of the rules for replies: two for each uplink, before those for subnets.
const REPLIES: u32 = 4200;

/// Priorities of the rules for subnets: this and the next.
const SOURCES: u32 = 4298;

/// How far left the number of an uplink stands in a mark.
const MARK_SHIFT: u32 = MARK_MASK.trailing_zeros();

pub(super) fn routes(context: &Context<'_>) -> BTreeSet<Route> {
    let tunnel = || RouteTarget::Interface {
        interface: context.inputs.interface.to_owned(),
        gateway: None,
    };
    let to_device = |destination| Route {
        table: MAIN_TABLE,
        destination,
        metric: DEVICE_METRIC,
        target: tunnel(),
    };
    let to_sink = |destination| Route {
        table: MAIN_TABLE,
        destination,
        metric: SINK_METRIC,
        target: RouteTarget::Unreachable,
    };
    let mut routes = BTreeSet::new();
    for (_, member) in context.active() {
        let delegations = member.delegations.iter().copied();
        let hosts = member.addresses.iter().copied().map(host);
        routes.extend(hosts.chain(delegations).map(to_device));
    }
    for members in context.members.values() {
        let ipv4 = networks4(members).into_iter().map(IpNet::V4);
        let ipv6 = networks6(members).into_iter().map(IpNet::V6);
        let idle = members.idle.iter().copied();
        routes.extend(
            ipv4.chain(ipv6)
                .chain(idle)
                .filter(|net| !holds_next_hop(&context.uplinks, *net))
                .map(to_sink),
        );
    }
    if !context.ipv6 {
        routes.retain(|route| matches!(route.destination, IpNet::V4(_)));
    }
    routes
}

/// A sink over an uplink's own next hop would take the Internet away where the prefix is longer than the link's.
fn holds_next_hop(uplinks: &[Uplink], net: IpNet) -> bool {
    uplinks
        .iter()
        .any(|uplink| uplink.next_hops.iter().any(|hop| net.contains(hop)))
}

/// With several uplinks: a table for each, rules for the replies of connections that came in by one of them, and for subnets
/// that leave by another than the main table's default.
pub(super) fn rules(context: &Context<'_>, routes: &mut BTreeSet<Route>) -> BTreeSet<Rule> {
    let mut rules = BTreeSet::new();
    if context.members.is_empty() || context.uplinks.len() < 2 {
        return rules;
    }
    for (number, uplink) in (0..).zip(&context.uplinks) {
        for ipv6 in [false, true] {
            let Some(default) = default_of(context, uplink, ipv6) else {
                continue;
            };
            let table = FIRST_TABLE + number;
            routes.insert(Route {
                table,
                destination: default_destination(ipv6),
                metric: DEVICE_METRIC,
                target: RouteTarget::Interface {
                    interface: uplink.name.clone(),
                    gateway: default.gateway,
                },
            });
            let replies = reply_mark(&context.uplinks, &uplink.name);
            let from = pair(
                context,
                REPLIES + 2 * number,
                default_destination(ipv6),
                replies,
                table,
            );
            rules.extend(from);
            for members in context.members.values() {
                if leaves_beside_default(context, members, ipv6) != Some(uplink.name.as_str()) {
                    continue;
                }
                for source in networks(members, ipv6) {
                    rules.extend(pair(context, SOURCES, source, None, table));
                }
            }
        }
    }
    rules
}

/// The mark of connections that came in by an uplink, where there are several.
pub(super) fn reply_mark(uplinks: &[Uplink], name: &str) -> Option<u32> {
    let number = uplinks.iter().position(|uplink| uplink.name == name)?;
    let number = u32::try_from(number).ok()? + 1;
    (uplinks.len() > 1 && number <= MARK_MASK >> MARK_SHIFT).then_some(number << MARK_SHIFT)
}

/// What the main table knows better than by its default goes there: devices, the host's own links. The rest goes by the table.
fn pair(
    context: &Context<'_>,
    priority: u32,
    source: IpNet,
    mark: Option<u32>,
    table: u32,
) -> [Rule; 2] {
    let rule = |priority, table, suppress_prefix_length| Rule {
        priority,
        source,
        input_interface: Some(context.inputs.interface.to_owned()),
        mark,
        table,
        suppress_prefix_length,
    };
    [
        rule(priority, MAIN_TABLE, Some(0)),
        rule(priority + 1, table, None),
    ]
}

fn default_of<'a>(context: &'a Context<'_>, uplink: &Uplink, ipv6: bool) -> Option<&'a RouteFact> {
    if ipv6 && !context.ipv6 {
        return None;
    }
    let defaults = context.inputs.facts.routes.iter().filter(|route| {
        route.interface == uplink.name
            && route.destination.prefix_len() == 0
            && route.destination.addr().is_ipv6() == ipv6
    });
    defaults.min_by_key(|route| route.metric)
}

fn networks(members: &Members<'_>, ipv6: bool) -> Vec<IpNet> {
    if ipv6 {
        networks6(members).into_iter().map(IpNet::V6).collect()
    } else {
        networks4(members).into_iter().map(IpNet::V4).collect()
    }
}

/// The uplink of a subnet, if it is not that of the main table's default.
fn leaves_beside_default<'a>(
    context: &'a Context<'_>,
    members: &Members<'_>,
    ipv6: bool,
) -> Option<&'a str> {
    let uplink = leaves_by(context, members, ipv6)?;
    let best = context.inputs.facts.default_interface(ipv6);
    let is_best = best.is_some_and(|route| route.interface == uplink.name);
    (!is_best).then_some(uplink.name.as_str())
}

fn leaves_by<'a>(
    context: &'a Context<'_>,
    members: &Members<'_>,
    ipv6: bool,
) -> Option<&'a Uplink> {
    if ipv6 && (!context.ipv6 || networks6(members).is_empty()) {
        return None;
    }
    uplink::of_subnet(&context.uplinks, context.inputs.facts, members.subnet, ipv6)
}

fn default_destination(ipv6: bool) -> IpNet {
    if ipv6 {
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0))
    } else {
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0))
    }
}

/// The addresses of on-link prefixes that the provider asks for by Neighbor Discovery.
pub(super) fn neighbors(context: &Context<'_>) -> BTreeSet<ProxyNeighbor> {
    let mut neighbors = BTreeSet::new();
    if !context.ipv6 {
        return neighbors;
    }
    let mut answer = |uplink: &Uplink, address: Ipv6Addr| {
        neighbors.insert(ProxyNeighbor {
            interface: uplink.name.clone(),
            address,
        });
    };
    for members in context.members.values() {
        if let Some(uplink) = uplink::on_link_for(&context.uplinks, members.subnet) {
            let devices = members.devices.iter().flat_map(|member| &member.addresses);
            let gateway = context.gateway_ipv6(members.subnet).map(IpAddr::V6);
            for address in devices.copied().chain(gateway) {
                match address {
                    IpAddr::V6(address) => answer(uplink, address),
                    IpAddr::V4(_) => {}
                }
            }
        }
        let delegations = members
            .devices
            .iter()
            .flat_map(|member| &member.delegations);
        for delegation in delegations {
            let IpNet::V6(net) = delegation else {
                continue;
            };
            if net.prefix_len() < SHORTEST_PROXIED {
                continue;
            }
            if let Some(uplink) = uplink::proxied_on(&context.uplinks, members.subnet, *net) {
                for address in net.hosts() {
                    answer(uplink, address);
                }
            }
        }
    }
    neighbors
}
