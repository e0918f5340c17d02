//! Problems of subnets and devices: addresses that the host itself has by now, delegations that nobody answers for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Problem, View, problem};
use crate::uplink::{self, SHORTEST_PROXIED};

pub(super) fn find(view: &View<'_>, problems: &mut Vec<Problem>) {
    let foreign = uplink::own_and_next_hops(view.uplinks, view.facts);
    find_collisions(view, &foreign, problems);
    for device in view.state.devices.values() {
        if device.enabled && !device.is_active(view.now) {
            problems.push(problem(
                "device-expired",
                format!("device {}", device.name),
                "its expiry date has passed, so it cannot connect",
                format!(
                    "`adit device remove {0}`, or give it another date: `adit device set {0} --expires DATE`",
                    device.name
                ),
            ));
        }
    }
    for delegation in view.state.delegations.values() {
        let Some(device) = view.state.devices.get(&delegation.device) else {
            continue;
        };
        let Some(subnet) = view.state.subnets.get(&device.subnet) else {
            continue;
        };
        let IpNet::V6(net) = delegation.prefix else {
            continue;
        };
        let Some(uplink) = uplink::proxied_on(view.uplinks, subnet, net) else {
            continue;
        };
        if net.prefix_len() < SHORTEST_PROXIED {
            problems.push(problem(
                "delegation-not-answered",
                format!("device {}", device.name),
                format!(
                    "{net} lies on the link of uplink {}, where the provider asks for each address by Neighbor Discovery; that cannot be answered for a prefix shorter than /{SHORTEST_PROXIED}",
                    uplink.name
                ),
                format!(
                    "ask the provider to route the prefix to this host, then `adit subnet set {} --delivery routed`; or delegate a /{SHORTEST_PROXIED} or longer",
                    subnet.name
                ),
            ));
        }
    }
}

fn find_collisions(
    view: &View<'_>,
    foreign: &BTreeMap<IpAddr, String>,
    problems: &mut Vec<Problem>,
) {
    let mut report = |object: String, what: IpNet, address: &IpAddr, owner: &str| {
        problems.push(problem(
            "address-collision",
            object,
            format!("{what} is out of use: {address} belongs to {owner} by now"),
            "give the device another address (`adit device set NAME --ipv4 A`, `--revoke PREFIX`), or change the host's",
        ));
    };
    let first_in = |net: IpNet| foreign.range(net.network()..=net.broadcast()).next();
    for subnet in view.state.subnets.values().filter(|it| it.gateway_address) {
        let own = |address: &IpAddr| view.facts.has_address(*address);
        let gateway = [
            Some(IpAddr::V4(subnet.gateway_ipv4())),
            subnet
                .gateway_ipv6()
                .map(IpAddr::V6)
                .filter(|address| !own(address)),
        ];
        for address in gateway.into_iter().flatten() {
            if let Some(owner) = foreign.get(&address) {
                report(
                    format!("subnet {}", subnet.name),
                    address.into(),
                    &address,
                    owner,
                );
            }
        }
    }
    for device in view.state.devices.values() {
        let ipv6 = view
            .state
            .subnets
            .get(&device.subnet)
            .and_then(|subnet| subnet.ipv6_of(device.ipv4));
        for address in [Some(IpAddr::V4(device.ipv4)), ipv6.map(IpAddr::V6)]
            .into_iter()
            .flatten()
        {
            if let Some(owner) = foreign.get(&address) {
                report(
                    format!("device {}", device.name),
                    address.into(),
                    &address,
                    owner,
                );
            }
        }
    }
    for delegation in view.state.delegations.values() {
        let Some(device) = view.state.devices.get(&delegation.device) else {
            continue;
        };
        if let Some((address, owner)) = first_in(delegation.prefix) {
            report(
                format!("device {}", device.name),
                delegation.prefix,
                address,
                owner,
            );
        }
    }
}
