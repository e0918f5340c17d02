//! Problems of the host and its uplinks.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Problem, View, problem};
use crate::facts::RouteFact;
use crate::uplink::{self, Proof, Uplink};

pub(super) fn find(view: &View<'_>, problems: &mut Vec<Problem>) {
    if view.uplinks.is_empty() {
        problems.push(problem(
            "no-uplink",
            "host",
            "this host has no default route, so nothing of the tunnel reaches the Internet",
            "mend the host's network: `ip route show default` and `ip -6 route show default`",
        ));
    }
    find_unadvertised(view, problems);
    find_egresses(view, problems);
    find_deliveries(view, problems);
    find_ipv4(view, problems);
    find_ipv6(view, problems);
    find_routes(view, problems);
}

/// What is on the other side of a provider's 1:1 NAT cannot be seen from this one.
fn find_unadvertised(view: &View<'_>, problems: &mut Vec<Problem>) {
    for uplink in view.uplinks {
        if let Some(local) = uplink.unadvertised() {
            problems.push(problem(
                "advertised-unknown",
                format!("uplink {}", uplink.name),
                format!("its IPv4 address {local} is a private one, and nobody has said which one the Internet sees: configurations do not name it, and listings show the private one"),
                format!("look the VPS's public IPv4 address up in the provider's console, then `adit uplink set {} --advertised ADDR`; where devices do reach {local} itself, say that", uplink.name),
            ));
        }
    }
}

fn find_egresses(view: &View<'_>, problems: &mut Vec<Problem>) {
    let subnets = view.state.subnets.values();
    let subnets = subnets.filter_map(|it| Some(("subnet", &it.name, it.egress.as_ref()?)));
    let devices = view.state.devices.values();
    let devices = devices.filter_map(|it| Some(("device", &it.name, it.egress.as_ref()?)));
    for (kind, name, egress) in subnets.chain(devices) {
        if uplink::of_egress(view.uplinks, egress).is_none() {
            problems.push(problem(
                "egress-gone",
                format!("{kind} {name}"),
                format!("its egress {egress} is neither an uplink nor an address of one any more, so its traffic leaves as if there were none"),
                format!("give the host {egress} again, with a default route on its interface, or `adit {kind} set {name} --egress none`"),
            ));
        }
    }
}

/// What packets show to be otherwise than it was said.
fn find_deliveries(view: &View<'_>, problems: &mut Vec<Problem>) {
    for subnet in view.state.subnets.values() {
        let Some((prefix, proof)) =
            subnet
                .global_ipv6()
                .zip(uplink::proven(view.uplinks, view.facts, subnet))
        else {
            continue;
        };
        let is_routed = uplink::on_link_for(view.uplinks, subnet).is_none();
        let object = format!("subnet {}", subnet.name);
        match proof {
            Proof::OnLink if is_routed => problems.push(problem(
                "prefix-asked-for",
                object,
                format!("a router on an uplink asks by Neighbor Discovery for addresses of {prefix}, which counts as routed: nobody answers, and what is sent to its devices does not arrive"),
                format!("`adit subnet set {} --delivery on-link`, or have the provider route the prefix to this host", subnet.name),
            )),
            Proof::Nothing => {
                let own = view.uplinks.iter().find_map(Uplink::local_ipv6);
                problems.push(problem(
                    "prefix-unreached",
                    object,
                    format!("devices have sent from {prefix} to the Internet within the last hour, and nothing came back, nor did anybody ask for an address of it, while IPv6 works for this host itself: the provider does not deliver the prefix, or not all of it (of a reserved /64 often only a /127 is routed)"),
                    format!(
                        "have the provider route all of {prefix} to {}, and look for a firewall in its console that drops IPv6 for other addresses than the host's own",
                        own.map_or_else(|| "this host".to_owned(), |own| own.to_string())
                    ),
                ));
            }
            Proof::OnLink | Proof::Routed | Proof::Unknown => {}
        }
    }
}

/// The way of one family does not help the other. A host without an IPv4 address never had one.
fn find_ipv4(view: &View<'_>, problems: &mut Vec<Problem>) {
    let Some(uplink) = view.uplinks.iter().find(|uplink| !uplink.ipv4.is_empty()) else {
        return;
    };
    if !view.state.subnets.is_empty() && view.facts.default_interface(false).is_none() {
        problems.push(problem(
            "no-ipv4-default-route",
            "host",
            format!(
                "uplink {} has an IPv4 address, and this host has no IPv4 default route: devices do not reach the IPv4 Internet",
                uplink.name
            ),
            "mend the host's IPv4: `ip route show default`, and what should set it (the provider's DHCP, or a static route)",
        ));
    }
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
    let has_way = |uplink: &Uplink| {
        uplink.local_ipv6().is_some() && uplink.next_hops.iter().any(IpAddr::is_ipv6)
    };
    let is_private = prefixes.iter().all(|subnet| subnet.local_ipv6().is_some());
    if is_private && !view.uplinks.is_empty() && !view.uplinks.iter().any(has_way) {
        problems.push(problem(
            "no-ipv6",
            "host",
            "this host has no way to the IPv6 Internet: devices reach it over IPv4 alone, and IPv6 works between them; nothing is broken",
            "if the provider offers IPv6, switch it on in its console and on the host, and it is used from then on; to give devices no IPv6 addresses at all, `adit subnet set NAME --ipv6 none`",
        ));
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
