//! `systemd-networkd`: a `.netdev`, a `.network`, and for an inbound server the service that marks replies.

use ipnet::IpNet;

use super::files::{INTERFACE, begin, reply_service};
use super::policy::{Family, Lookup, Route, Rule, SINK_METRIC, Selector, Slot, short};
use super::{Configuration, PrivateKeySource, Routing, list, one_line};

pub(super) fn text(configuration: &Configuration) -> String {
    let slot = Slot::new(configuration.slot);
    let mut files = vec![netdev(configuration, slot), network(configuration, slot)];
    if configuration.routing == Routing::Inbound {
        files.push(reply_service(slot));
    }
    files.join("\n")
}

fn netdev(configuration: &Configuration, slot: Slot) -> String {
    let peer = &configuration.peer;
    let mut lines = vec![
        begin("/etc/systemd/network/50-adit.netdev"),
        "# There are keys in it: chown root:systemd-network, chmod 640".to_owned(),
        "[NetDev]".to_owned(),
        format!("Name={INTERFACE}"),
        "Kind=wireguard".to_owned(),
        format!("Description=Adit: {}", one_line(&configuration.name)),
        String::new(),
        "[WireGuard]".to_owned(),
        private_key(&configuration.private_key),
    ];
    let has_default = |family: &Family| family.routes.iter().any(|route| route.own_table);
    let is_outbound = configuration.routing != Routing::Inbound;
    if is_outbound && Family::all(configuration).iter().any(has_default) {
        lines.push("# The tunnel's own packets stay outside of it.".to_owned());
        lines.push(format!("FirewallMark={:#010x}", slot.mark));
    }
    lines.extend([
        String::new(),
        "[WireGuardPeer]".to_owned(),
        format!("PublicKey={}", one_line(&peer.public_key)),
    ]);
    if let Some(key) = &peer.preshared_key {
        lines.push(format!("PresharedKey={}", one_line(key)));
    }
    lines.extend([
        format!("Endpoint={}", one_line(&peer.endpoint)),
        format!("AllowedIPs={}", list(&configuration.allowed_ips(), ",")),
        "PersistentKeepalive=25".to_owned(),
    ]);
    lines.join("\n") + "\n"
}

fn private_key(source: &PrivateKeySource) -> String {
    match source {
        PrivateKeySource::Inline(key) => format!("PrivateKey={}", one_line(key)),
        // The whole line is the path; only a `%` means something else.
        PrivateKeySource::File(path) => {
            format!("PrivateKeyFile={}", one_line(path).replace('%', "%%"))
        }
        PrivateKeySource::Missing { .. } => format!("# PrivateKey=({})", source.absence()),
    }
}

fn network(configuration: &Configuration, slot: Slot) -> String {
    let mut lines = vec![
        begin("/etc/systemd/network/50-adit.network"),
        "[Match]".to_owned(),
        format!("Name={INTERFACE}"),
        String::new(),
        "[Link]".to_owned(),
        format!("MTUBytes={}", configuration.mtu),
        "RequiredForOnline=no".to_owned(),
        String::new(),
        "[Network]".to_owned(),
        "LinkLocalAddressing=no".to_owned(),
        "IPv6AcceptRA=no".to_owned(),
    ];
    for address in &configuration.addresses {
        lines.push(format!("Address={}", IpNet::from(*address)));
    }
    if configuration.routing == Routing::Full && !configuration.dns.is_empty() {
        lines.push(format!("DNS={}", list(&configuration.dns, " ")));
        lines.push("Domains=~.".to_owned());
    }
    for family in Family::all(configuration) {
        for route in &family.routes {
            lines.extend(route_section(*route, slot));
        }
        for rule in &family.rules {
            lines.extend(rule_section(*rule, family.ipv6, slot));
        }
    }
    for prefix in &configuration.delegations {
        lines.extend([
            String::new(),
            format!("# What nobody behind this device has of {prefix} ends here. Its network: an address of it in the .network of the"),
            "# interface there, with IPv6SendRA=yes for IPv6, and IPForward=yes.".to_owned(),
            "[Route]".to_owned(),
            format!("Destination={prefix}"),
            "Type=unreachable".to_owned(),
            format!("Metric={SINK_METRIC}"),
        ]);
    }
    lines.join("\n") + "\n"
}

fn route_section(route: Route, slot: Slot) -> Vec<String> {
    let mut lines = vec![
        String::new(),
        "[Route]".to_owned(),
        format!("Destination={}", route.destination),
    ];
    if route.own_table {
        lines.push(format!("Table={}", slot.number));
    }
    lines
}

fn rule_section(rule: Rule, ipv6: bool, slot: Slot) -> Vec<String> {
    let mut lines = vec![
        String::new(),
        "[RoutingPolicyRule]".to_owned(),
        format!("Family={}", if ipv6 { "ipv6" } else { "ipv4" }),
        format!("Priority={}", rule.sole_priority()),
    ];
    match rule.selector {
        Selector::All => {}
        Selector::From(source) => lines.push(format!("From={}", short(source))),
        Selector::Unmarked => {
            lines.push(format!("FirewallMark={}", slot.fwmark()));
            lines.push("InvertRule=yes".to_owned());
        }
        Selector::Out => lines.push(format!("OutgoingInterface={INTERFACE}")),
    }
    if rule.is_marked {
        lines.push(format!("FirewallMark={}", slot.fwmark()));
    }
    match rule.lookup {
        Lookup::Tunnel => lines.push(format!("Table={}", slot.number)),
        Lookup::Known => {
            lines.push("Table=main".to_owned());
            lines.push("SuppressPrefixLength=0".to_owned());
        }
    }
    lines
}
