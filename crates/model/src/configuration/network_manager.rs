//! NetworkManager: a connection as a key file, and for an inbound server the service that marks replies.

use ipnet::IpNet;

use super::files::{INTERFACE, begin, reply_service};
use super::policy::{Family, Lookup, Rule, SINK_METRIC, Selector, Slot, short};
use super::{Configuration, PrivateKeySource, Routing, is_ipv4, list, one_line};

pub(super) fn text(configuration: &Configuration) -> String {
    let slot = Slot::new(configuration.slot);
    let mut files = vec![connection(configuration, slot)];
    if configuration.routing == Routing::Inbound {
        files.push(reply_service(slot));
    }
    files.join("\n")
}

fn connection(configuration: &Configuration, slot: Slot) -> String {
    let peer = &configuration.peer;
    let is_inbound = configuration.routing == Routing::Inbound;
    let mut lines = vec![
        begin("/etc/NetworkManager/system-connections/adit.nmconnection"),
        "# There are keys in it: chmod 600, then nmcli connection reload".to_owned(),
        format!("# Adit: {}", one_line(&configuration.name)),
        "[connection]".to_owned(),
        format!("id={INTERFACE}"),
        "type=wireguard".to_owned(),
        format!("interface-name={INTERFACE}"),
        String::new(),
        "[wireguard]".to_owned(),
        match &configuration.private_key {
            PrivateKeySource::Inline(key) => format!("private-key={}", one_line(key)),
            source @ (PrivateKeySource::File(_) | PrivateKeySource::Missing { .. }) => {
                format!("# private-key=({})", source.absence())
            }
        },
        format!("mtu={}", configuration.mtu),
    ];
    if is_inbound {
        lines.extend(
            [
                "# Only replies take the tunnel: the routes are below.",
                "peer-routes=false",
                "ip4-auto-default-route=0",
                "ip6-auto-default-route=0",
            ]
            .map(str::to_owned),
        );
    }
    lines.extend([
        String::new(),
        format!("[wireguard-peer.{}]", one_line(&peer.public_key)),
        format!("endpoint={}", one_line(&peer.endpoint)),
    ]);
    if let Some(key) = &peer.preshared_key {
        lines.push(format!("preshared-key={}", one_line(key)));
        lines.push("preshared-key-flags=0".to_owned());
    }
    lines.extend([
        format!("allowed-ips={};", list(&configuration.allowed_ips(), ";")),
        "persistent-keepalive=25".to_owned(),
    ]);
    let families = Family::all(configuration);
    for ipv6 in [false, true] {
        let family = families.iter().find(|family| family.ipv6 == ipv6);
        lines.extend(section(configuration, family, ipv6, slot));
    }
    lines.join("\n") + "\n"
}

fn section(
    configuration: &Configuration,
    family: Option<&Family>,
    ipv6: bool,
    slot: Slot,
) -> Vec<String> {
    let mut lines = vec![String::new(), format!("[ipv{}]", if ipv6 { 6 } else { 4 })];
    let Some(family) = family else {
        lines.push("method=disabled".to_owned());
        return lines;
    };
    lines.push("method=manual".to_owned());
    for (index, address) in family.addresses.iter().enumerate() {
        lines.push(format!("address{}={}", index + 1, IpNet::from(*address)));
    }
    if configuration.routing == Routing::Full {
        let servers: Vec<_> = configuration
            .dns
            .iter()
            .filter(|server| server.is_ipv6() == ipv6)
            .collect();
        if !servers.is_empty() {
            lines.push(format!("dns={};", list(&servers, ";")));
            lines.push("dns-search=~;".to_owned());
        }
    }
    let mut number = 0;
    // With full and split routing they follow from the peer, and NetworkManager keeps the tunnel's own packets out.
    if configuration.routing == Routing::Inbound {
        for route in &family.routes {
            number += 1;
            lines.push(format!("route{number}={}", route.destination));
            if route.own_table {
                lines.push(format!("route{number}_options=table={}", slot.number));
            }
        }
    }
    for prefix in &configuration.delegations {
        if is_ipv4(prefix) == ipv6 {
            continue;
        }
        number += 1;
        lines.push(format!(
            "# What nobody behind this device has of {prefix} ends here. Give the interface of its network an address of it."
        ));
        lines.push(format!("route{number}={prefix},,{SINK_METRIC}"));
        lines.push(format!("route{number}_options=type=unreachable"));
    }
    if configuration.routing == Routing::Inbound {
        for (index, rule) in family.rules.iter().enumerate() {
            lines.push(format!(
                "routing-rule{}={}",
                index + 1,
                words(*rule, ipv6, slot)
            ));
        }
    }
    lines
}

fn words(rule: Rule, ipv6: bool, slot: Slot) -> String {
    let mut words = vec![format!("priority {}", rule.sole_priority())];
    let everything = if ipv6 { "::/0" } else { "0.0.0.0/0" };
    match rule.selector {
        Selector::All => words.push(format!("from {everything}")),
        Selector::From(source) => words.push(format!("from {}", short(source))),
        Selector::Unmarked => words.push(format!("not fwmark {}", slot.fwmark())),
        Selector::Out => words.push(format!("from {everything} oif {INTERFACE}")),
    }
    if rule.is_marked {
        words.push(format!("fwmark {}", slot.fwmark()));
    }
    words.push(match rule.lookup {
        Lookup::Tunnel => format!("table {}", slot.number),
        Lookup::Known => "table 254 suppress_prefixlength 0".to_owned(),
    });
    words.join(" ")
}
