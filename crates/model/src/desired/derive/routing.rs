//! Routes, rules and proxy neighbours.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Context, Members, host, networks4, networks6};
use crate::desired::neighbor::ProxyNeighbor;
use crate::desired::route::{MAIN_TABLE, Route, RouteTarget};
use crate::desired::rule::Rule;
use crate::uplink::{self, SHORTEST_PROXIED, Uplink};

/// Metric of routes to devices.
const DEVICE_METRIC: u32 = 173;

/// Metric of the routes that end what no device has: above every route that leads somewhere.
const SINK_METRIC: u32 = 0x7fff_0000;

/// First of our tables and rule priorities.
const FIRST_TABLE: u32 = 4200;

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

/// Rules for subnets that leave by another uplink than the main table's default; adds the routes of their tables.
pub(super) fn rules(context: &Context<'_>, routes: &mut BTreeSet<Route>) -> BTreeSet<Rule> {
    let facts = context.inputs.facts;
    let mut rules = BTreeSet::new();
    for members in context.members.values() {
        for ipv6 in [false, true] {
            let Some(uplink) = leaves_by(context, members, ipv6) else {
                continue;
            };
            let best = facts
                .default_interface(ipv6)
                .map(|route| route.interface.as_str());
            if best == Some(uplink.name.as_str()) {
                continue;
            }
            let Some(position) = context
                .uplinks
                .iter()
                .position(|other| other.name == uplink.name)
            else {
                continue;
            };
            let Ok(position) = u32::try_from(position) else {
                continue;
            };
            let table = FIRST_TABLE + position;
            let defaults = facts.routes.iter().filter(|route| {
                route.interface == uplink.name
                    && route.destination.prefix_len() == 0
                    && route.destination.addr().is_ipv6() == ipv6
            });
            let Some(default) = defaults.min_by_key(|route| route.metric) else {
                continue;
            };
            routes.insert(Route {
                table,
                destination: default_destination(ipv6),
                metric: DEVICE_METRIC,
                target: RouteTarget::Interface {
                    interface: uplink.name.clone(),
                    gateway: default.gateway,
                },
            });
            let sources: Vec<IpNet> = if ipv6 {
                networks6(members).into_iter().map(IpNet::V6).collect()
            } else {
                networks4(members).into_iter().map(IpNet::V4).collect()
            };
            for source in sources {
                let rule = |priority, table, suppress_prefix_length| Rule {
                    priority,
                    source,
                    input_interface: Some(context.inputs.interface.to_owned()),
                    table,
                    suppress_prefix_length,
                };
                // What the main table knows better than by its default goes there: devices, the host's own links.
                rules.insert(rule(FIRST_TABLE, MAIN_TABLE, Some(0)));
                rules.insert(rule(FIRST_TABLE + 1, table, None));
            }
        }
    }
    rules
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
