//! Routes, rules and proxy neighbours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Context, Member, Part, host};
use crate::address;
use crate::desired::neighbor::ProxyNeighbor;
use crate::desired::route::{MAIN_TABLE, Route, RouteTarget};
use crate::desired::rule::{FRONT_MARK, MARK_MASK, Rule};
use crate::facts::{Facts, RouteFact};
use crate::state::Subnet;
use crate::uplink::{self, SHORTEST_PROXIED, Uplink};

/// Metric of routes to devices.
const DEVICE_METRIC: u32 = 173;

/// Metric of the routes that end what no device has: above every route that leads somewhere.
const SINK_METRIC: u32 = 0x7fff_0000;

/// First of our tables.
const FIRST_TABLE: u32 = 4200;

/// First priority of the rules for replies: two for each uplink, before those for subnets.
const REPLIES: u32 = 4200;

/// Priority of the rules that lead to our networks, whatever rules others have after it.
const DESTINATIONS: u32 = 4294;

/// Priorities of the rules for what the host itself sends from an address of an uplink: this and the next.
const OWN: u32 = 4296;

/// Priorities of the rules for subnets: this and the next.
const SOURCES: u32 = 4298;

/// Where the kernel says that the host's own packets come from.
pub(super) const LOOPBACK: &str = "lo";

/// How far left the number of an uplink stands in a mark.
const MARK_SHIFT: u32 = MARK_MASK.trailing_zeros();

/// What subnets and uplinks need, whatever devices there are.
pub(super) fn of_gateway(context: &Context<'_>, part: &mut Part) {
    let state = context.inputs.state;
    for subnet in state.subnets.values() {
        part.add_network(context, subnet, IpNet::V4(subnet.ipv4));
        if let Some(prefix) = subnet.ipv6 {
            part.add_network(context, subnet, IpNet::V6(prefix));
        }
        if let Some(address) = context.gateway_ipv6(subnet) {
            answer(context, subnet, address, part);
        }
    }
    if state.subnets.is_empty() {
        return;
    }
    for uplink in &context.frame.uplinks {
        for ipv6 in [false, true] {
            let Some((table, default)) = table_of(context, uplink, ipv6) else {
                continue;
            };
            part.routes.insert(Route {
                table,
                destination: default_destination(ipv6),
                metric: DEVICE_METRIC,
                target: RouteTarget::Interface {
                    interface: uplink.name.clone(),
                    gateway: default.gateway,
                },
            });
            let replies = reply_mark(&context.frame.uplinks, &uplink.name);
            let priority = REPLIES + 2 * (table - FIRST_TABLE);
            let source = default_destination(ipv6);
            let tunnel = context.inputs.interface;
            part.rules
                .extend(pair(priority, source, tunnel, replies, table));
            // Another provider drops what comes from this one's addresses (BCP 38).
            for address in own_addresses(uplink, ipv6) {
                part.rules
                    .extend(pair(OWN, host(address), LOOPBACK, None, table));
            }
        }
    }
}

/// The routes to a device, and the addresses that are answered for.
pub(super) fn of_device(
    context: &Context<'_>,
    member: &Member<'_>,
    delegations: &[IpNet],
    part: &mut Part,
) {
    let hosts = member.addresses.iter().copied().map(host);
    for destination in hosts.chain(delegations.iter().copied()) {
        if is_routed(context, destination) {
            part.routes.insert(Route {
                table: MAIN_TABLE,
                destination,
                metric: DEVICE_METRIC,
                target: RouteTarget::Interface {
                    interface: context.inputs.interface.to_owned(),
                    gateway: None,
                },
            });
        }
    }
    for address in &member.addresses {
        match address {
            IpAddr::V6(address) => answer(context, member.subnet, *address, part),
            IpAddr::V4(_) => {}
        }
    }
    for delegation in delegations {
        match delegation {
            IpNet::V6(net) => answer_all(context, member.subnet, *net, part),
            IpNet::V4(_) => {}
        }
    }
}

/// Where packets to a network end that no device of it takes.
pub(super) fn sink(context: &Context<'_>, net: IpNet, part: &mut Part) {
    if is_routed(context, net) && !holds_next_hop(&context.frame.uplinks, net) {
        part.routes.insert(Route {
            table: MAIN_TABLE,
            destination: net,
            metric: SINK_METRIC,
            target: RouteTarget::Unreachable,
        });
    }
}

fn is_routed(context: &Context<'_>, net: IpNet) -> bool {
    match net {
        IpNet::V4(_) => true,
        IpNet::V6(_) => context.frame.ipv6,
    }
}

/// A sink over an uplink's own next hop would take the Internet away where the prefix is longer than the link's.
fn holds_next_hop(uplinks: &[Uplink], net: IpNet) -> bool {
    uplinks
        .iter()
        .any(|uplink| uplink.next_hops.iter().any(|hop| net.contains(hop)))
}

/// The rules for what a network of a subnet sends, where the subnet leaves by another uplink than the main table's default.
pub(super) fn source_rules(context: &Context<'_>, subnet: &Subnet, net: IpNet, part: &mut Part) {
    let ipv6 = matches!(net, IpNet::V6(_));
    let Some(uplink) = leaves_beside_default(context, subnet, ipv6) else {
        return;
    };
    if let Some((table, _)) = table_of(context, uplink, ipv6) {
        let tunnel = context.inputs.interface;
        part.rules.extend(pair(SOURCES, net, tunnel, None, table));
    }
}

/// The rule for what is sent to a network of a subnet. With one uplink there is no other way than the main table's.
pub(super) fn destination_rule(context: &Context<'_>, net: IpNet, part: &mut Part) {
    if context.frame.uplinks.len() > 1 && is_routed(context, net) {
        part.rules.insert(Rule {
            priority: DESTINATIONS,
            source: default_destination(net.addr().is_ipv6()),
            destination: Some(net),
            input_interface: None,
            mark: None,
            table: MAIN_TABLE,
            suppress_prefix_length: None,
        });
    }
}

/// The table of an uplink and the default route in it: where there are several uplinks, each has one for the replies of
/// connections that came in by it, and for subnets that leave by it.
fn table_of<'a>(
    context: &Context<'a>,
    uplink: &Uplink,
    ipv6: bool,
) -> Option<(u32, &'a RouteFact)> {
    let uplinks = &context.frame.uplinks;
    let number = uplinks.iter().position(|it| it.name == uplink.name)?;
    let number = u32::try_from(number).ok()?;
    let default = default_of(context, uplink, ipv6)?;
    (uplinks.len() > 1).then_some((FIRST_TABLE + number, default))
}

/// The mark of connections that came in by an uplink, where there are several.
pub(super) fn reply_mark(uplinks: &[Uplink], name: &str) -> Option<u32> {
    let number = uplinks.iter().position(|uplink| uplink.name == name)?;
    let number = u32::try_from(number).ok()? + 1;
    (uplinks.len() > 1 && number < FRONT_MARK >> MARK_SHIFT).then_some(number << MARK_SHIFT)
}

/// What the main table knows better than by its default goes there: devices, the host's own links. The rest goes by the table.
fn pair(
    priority: u32,
    source: IpNet,
    input_interface: &str,
    mark: Option<u32>,
    table: u32,
) -> [Rule; 2] {
    let rule = |priority, table, suppress_prefix_length| Rule {
        priority,
        source,
        destination: None,
        input_interface: Some(input_interface.to_owned()),
        mark,
        table,
        suppress_prefix_length,
    };
    [
        rule(priority, MAIN_TABLE, Some(0)),
        rule(priority + 1, table, None),
    ]
}

fn own_addresses(uplink: &Uplink, ipv6: bool) -> Vec<IpAddr> {
    if ipv6 {
        let global = uplink.ipv6.iter().copied();
        let global = global.filter(|address| !address::is_unique_local(*address));
        global.map(IpAddr::V6).collect()
    } else {
        uplink.ipv4.iter().copied().map(IpAddr::V4).collect()
    }
}

fn default_of<'a>(context: &Context<'a>, uplink: &Uplink, ipv6: bool) -> Option<&'a RouteFact> {
    if ipv6 && !context.frame.ipv6 {
        return None;
    }
    let facts: &'a Facts = context.inputs.facts;
    let defaults = facts.routes.iter().filter(|route| {
        route.interface == uplink.name
            && route.destination.prefix_len() == 0
            && route.destination.addr().is_ipv6() == ipv6
    });
    defaults.min_by_key(|route| route.metric)
}

/// The uplink of a subnet, if it is not that of the main table's default.
fn leaves_beside_default<'a>(
    context: &Context<'a>,
    subnet: &Subnet,
    ipv6: bool,
) -> Option<&'a Uplink> {
    if ipv6 && !context.frame.ipv6 {
        return None;
    }
    let facts = context.inputs.facts;
    let uplink = uplink::of_subnet(&context.frame.uplinks, facts, subnet, ipv6)?;
    let best = facts.default_interface(ipv6);
    let is_best = best.is_some_and(|route| route.interface == uplink.name);
    (!is_best).then_some(uplink)
}

pub(super) fn default_destination(ipv6: bool) -> IpNet {
    if ipv6 {
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0))
    } else {
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0))
    }
}

/// Answers for a host of a subnet, where the provider asks for it by Neighbor Discovery.
fn answer(context: &Context<'_>, subnet: &Subnet, address: Ipv6Addr, part: &mut Part) {
    if !context.frame.ipv6 {
        return;
    }
    if let Some(uplink) = uplink::on_link_for(&context.frame.uplinks, subnet) {
        part.neighbors.insert(ProxyNeighbor {
            interface: uplink.name.clone(),
            address,
        });
    }
}

/// Answers for every host of a small delegated prefix.
fn answer_all(context: &Context<'_>, subnet: &Subnet, net: Ipv6Net, part: &mut Part) {
    if !context.frame.ipv6 || net.prefix_len() < SHORTEST_PROXIED {
        return;
    }
    if let Some(uplink) = uplink::proxied_on(&context.frame.uplinks, subnet, net) {
        for address in net.hosts() {
            part.neighbors.insert(ProxyNeighbor {
                interface: uplink.name.clone(),
                address,
            });
        }
    }
}
