//! Problems of the host and its uplinks.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Problem, View, problem};
use crate::facts::RouteFact;
use crate::uplink::{self, Uplink};

pub(super) fn find(view: &View<'_>, problems: &mut Vec<Problem>) {
    if view.uplinks.is_empty() {
        problems.push(problem(
            "no-uplink",
            "host",
            "this host has no default route, so nothing of the tunnel reaches the Internet",
            "mend the host's network: `ip route show default` and `ip -6 route show default`",
        ));
    }
    find_ipv6(view, problems);
    find_routes(view, problems);
}

fn find_ipv6(view: &View<'_>, problems: &mut Vec<Problem>) {
    let prefixes: Vec<_> = view
        .state
        .subnets
        .values()
        .filter(|subnet| subnet.ipv6.is_some())
        .collect();
    if prefixes.is_empty() {
        return;
    }
    if !uplink::has_ipv6(view.facts) {
        let (message, fix) = if view.facts.ipv6 {
            (
                "IPv6 is switched off on this host, so the prefixes of the subnets are out of use",
                "`sysctl -w net.ipv6.conf.all.disable_ipv6=0`, and in the file below /etc/sysctl.d that sets it",
            )
        } else {
            (
                "this kernel has no IPv6, so the prefixes of the subnets are out of use",
                "start the kernel without `ipv6.disable=1`, or take the prefixes away: `adit subnet set NAME --ipv6 none`",
            )
        };
        problems.push(problem("ipv6-disabled", "host", message, fix));
        return;
    }
    if view.facts.default_interface(true).is_some() {
        return;
    }
    for subnet in prefixes {
        if let Some(prefix) = subnet.global_ipv6() {
            problems.push(problem(
                "no-ipv6-default-route",
                format!("subnet {}", subnet.name),
                format!("this host has no IPv6 default route, so nothing from {prefix} reaches the Internet"),
                "mend the host's IPv6: `ip -6 route show default`; where it came from router advertisements, `rdisc6 IFACE` shows whether the router still sends them",
            ));
        }
    }
}

fn find_routes(view: &View<'_>, problems: &mut Vec<Problem>) {
    let forwarding = view
        .facts
        .sysctls
        .get("net/ipv6/conf/all/forwarding")
        .is_some_and(|value| value.trim() != "0");
    for uplink in view.uplinks {
        let defaults = view.facts.routes.iter().filter(|route| {
            route.interface == uplink.name
                && route.destination.prefix_len() == 0
                && route.destination.addr().is_ipv6()
        });
        let (learnt, fixed): (Vec<&RouteFact>, Vec<&RouteFact>) =
            defaults.partition(|route| route.from_router_advertisement);
        let path = format!("net/ipv6/conf/{}/accept_ra", uplink.name);
        let deaf = view
            .facts
            .sysctls
            .get(&path)
            .is_some_and(|value| value.trim() == "1");
        if forwarding && deaf && !learnt.is_empty() {
            problems.push(problem(
                "accept-ra",
                format!("uplink {}", uplink.name),
                "its IPv6 default route came from a router advertisement, and with forwarding on and accept_ra=1 the kernel ignores the next ones: the route will be lost",
                format!("`sysctl -w net.ipv6.conf.{}.accept_ra=2`; look for what sets it back", uplink.name.replace('.', "/")),
            ));
        }
        for hop in fixed.iter().filter_map(|route| route.gateway) {
            if let Some(prefix) = ours(view, uplink, hop) {
                problems.push(problem(
                    "default-route-inside-prefix",
                    format!("uplink {}", uplink.name),
                    format!("the IPv6 default route leads through {hop}, which lies in {prefix} and is this gateway's own as soon as the prefix is"),
                    format!("use the router's link-local address: `ip -6 neigh show dev {0}` shows it, `ip -6 route replace default via fe80::… dev {0}` sets it; do the same in the host's network configuration", uplink.name),
                ));
            }
        }
    }
}

/// The prefix because of which a next hop is our own: it is the anycast address of a prefix that this host forwards
/// for (RFC 4291 section 2.6.1), or it lies in a prefix that is routed to us.
fn ours(view: &View<'_>, uplink: &Uplink, hop: IpAddr) -> Option<IpNet> {
    let anycast = view.facts.addresses.iter().find(|fact| {
        fact.interface == uplink.name
            && fact.address.addr().is_ipv6()
            && fact.address.prefix_len() <= 126
            && fact.address.network() == hop
    });
    if let Some(fact) = anycast {
        return Some(fact.address.trunc());
    }
    let subnets = view.state.subnets.values().filter_map(|subnet| {
        let prefix = IpNet::V6(subnet.global_ipv6()?);
        let routed = uplink::on_link_for(view.uplinks, subnet).is_none();
        (prefix.contains(&hop) && (routed || prefix.network() == hop)).then_some(prefix)
    });
    let delegations = view
        .state
        .delegations
        .values()
        .map(|delegation| delegation.prefix)
        .filter(|prefix| prefix.contains(&hop));
    subnets.chain(delegations).next()
}
