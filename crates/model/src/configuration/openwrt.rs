//! OpenWrt (22.03 and later): a script of `uci` commands for the router's shell; it may run again.

use ipnet::IpNet;

use super::files::INTERFACE;
use super::policy::{CHAINS, Family, Lookup, Rule, Selector, Slot};
use super::{Configuration, PrivateKeySource, Routing, host_and_port, is_ipv4, one_line, quoted};

pub(super) fn text(configuration: &Configuration) -> String {
    let slot = Slot::new(configuration.slot);
    let is_inbound = configuration.routing == Routing::Inbound;
    let mut lines = vec![
        format!("# Adit: {}", one_line(&configuration.name)),
        "# For the shell of an OpenWrt router; it needs the packages wireguard-tools and kmod-wireguard.".to_owned(),
        "for section in $(uci -q show network | sed -n 's/^network\\.\\(adit\\(_[a-z0-9_]*\\)*\\)=.*/\\1/p'); do".to_owned(),
        "    uci delete network.$section".to_owned(),
        "done".to_owned(),
    ];
    lines.extend(interface(configuration));
    lines.extend(peer(configuration));
    for family in Family::all(configuration) {
        // With full and split routing netifd makes the routes, and keeps the tunnel's own packets out.
        if is_inbound {
            lines.extend(routing(&family, slot));
        }
    }
    lines.extend(firewall(configuration));
    lines.extend(marks(is_inbound.then_some(slot)));
    lines.push("uci commit".to_owned());
    lines.push("service network reload && service firewall restart".to_owned());
    lines.join("\n") + "\n"
}

fn set(option: &str, value: &str) -> String {
    format!("uci set {option}={}", quoted(value))
}

fn add(option: &str, value: &str) -> String {
    format!("uci add_list {option}={}", quoted(value))
}

fn interface(configuration: &Configuration) -> Vec<String> {
    let mut lines = vec![
        set("network.adit", "interface"),
        set("network.adit.proto", "wireguard"),
        match &configuration.private_key {
            PrivateKeySource::Inline(key) => set("network.adit.private_key", key),
            PrivateKeySource::File(path) => {
                format!(
                    "uci set network.adit.private_key=\"$(cat {})\"",
                    quoted(path)
                )
            }
            source @ PrivateKeySource::Missing { .. } => {
                format!(
                    "# uci set network.adit.private_key='' ({})",
                    source.absence()
                )
            }
        },
        set("network.adit.mtu", &configuration.mtu.to_string()),
    ];
    for address in &configuration.addresses {
        let address = IpNet::from(*address).to_string();
        lines.push(add("network.adit.addresses", &address));
    }
    if configuration.routing == Routing::Full {
        for server in &configuration.dns {
            lines.push(add("network.adit.dns", &server.to_string()));
        }
    }
    for prefix in &configuration.delegations {
        if is_ipv4(prefix) {
            lines.push(format!(
                "# {prefix} is delegated: give the router an address of it on the network's own interface."
            ));
        } else {
            lines.push(format!(
                "# {prefix} is handed on to networks whose ip6assign fits, 64 by default; from lan, ip6class can choose it."
            ));
            lines.push(add("network.adit.ip6prefix", &prefix.to_string()));
        }
    }
    lines
}

fn peer(configuration: &Configuration) -> Vec<String> {
    let peer = &configuration.peer;
    let (host, port) = host_and_port(&peer.endpoint);
    let routes = match configuration.routing {
        Routing::Full | Routing::Split => "1",
        Routing::Inbound => "0",
    };
    let mut lines = vec![
        set("network.adit_gateway", "wireguard_adit"),
        set("network.adit_gateway.public_key", &peer.public_key),
        set("network.adit_gateway.endpoint_host", &host),
        set("network.adit_gateway.endpoint_port", &port),
        set("network.adit_gateway.persistent_keepalive", "25"),
        set("network.adit_gateway.route_allowed_ips", routes),
    ];
    if let Some(key) = &peer.preshared_key {
        lines.push(set("network.adit_gateway.preshared_key", key));
    }
    for prefix in configuration.allowed_ips() {
        lines.push(add("network.adit_gateway.allowed_ips", &prefix.to_string()));
    }
    lines
}

/// Only what came in through the tunnel is answered through it.
fn routing(family: &Family, slot: Slot) -> Vec<String> {
    let (digit, kind) = if family.ipv6 { ("6", "6") } else { ("4", "") };
    let mut lines = Vec::new();
    for (index, route) in family.routes.iter().enumerate() {
        let section = format!("network.adit_route{digit}_{index}");
        lines.push(set(&section, &format!("route{kind}")));
        lines.push(set(&format!("{section}.interface"), INTERFACE));
        let target = route.destination.to_string();
        lines.push(set(&format!("{section}.target"), &target));
        if route.own_table {
            lines.push(set(&format!("{section}.table"), &slot.number.to_string()));
        }
    }
    for (index, rule) in family.rules.iter().enumerate() {
        let section = format!("network.adit_rule{digit}_{index}");
        lines.push(set(&section, &format!("rule{kind}")));
        lines.extend(rule_options(&section, *rule, slot));
    }
    lines
}

fn rule_options(section: &str, rule: Rule, slot: Slot) -> Vec<String> {
    let option = |name: &str, value: &str| set(&format!("{section}.{name}"), value);
    let mut lines = vec![option("priority", &rule.sole_priority().to_string())];
    match rule.selector {
        Selector::All => {}
        Selector::From(source) => lines.push(option("src", &source.to_string())),
        Selector::Unmarked => {
            lines.push(option("mark", &slot.fwmark()));
            lines.push(option("invert", "1"));
        }
        Selector::Out => lines.push(option("out", INTERFACE)),
    }
    if rule.is_marked {
        lines.push(option("mark", &slot.fwmark()));
    }
    match rule.lookup {
        Lookup::Tunnel => lines.push(option("lookup", &slot.number.to_string())),
        Lookup::Known => {
            lines.push(option("lookup", "main"));
            lines.push(option("suppress_prefixlength", "0"));
        }
    }
    lines
}

/// A zone that lets nothing in: the gateway is not the only one who decides what is open behind the router.
fn firewall(configuration: &Configuration) -> Vec<String> {
    let mut lines = vec![
        "# What the gateway lets through ends here until the router's own firewall opens it too, for example".to_owned(),
        "# a redirect (src adit, dest lan) for a forward, or a rule (src adit, dest lan, family ipv6) for a pinhole.".to_owned(),
        "uci -q delete firewall.adit".to_owned(),
        "uci -q delete firewall.adit_lan".to_owned(),
        "uci -q delete firewall.adit_ping".to_owned(),
        set("firewall.adit", "zone"),
        set("firewall.adit.name", INTERFACE),
        add("firewall.adit.network", INTERFACE),
        set("firewall.adit.input", "REJECT"),
        set("firewall.adit.output", "ACCEPT"),
        set("firewall.adit.forward", "REJECT"),
        set("firewall.adit.mtu_fix", "1"),
        set("firewall.adit.masq", "1"),
    ];
    let delegated: Vec<&IpNet> = configuration
        .delegations
        .iter()
        .filter(|net| is_ipv4(net))
        .collect();
    for prefix in delegated {
        // What is delegated leaves as it is.
        lines.push(add("firewall.adit.masq_src", &format!("!{prefix}")));
    }
    lines.extend([
        set("firewall.adit_lan", "forwarding"),
        set("firewall.adit_lan.src", "lan"),
        set("firewall.adit_lan.dest", INTERFACE),
        set("firewall.adit_ping", "rule"),
        set("firewall.adit_ping.name", "Allow-Ping-adit"),
        set("firewall.adit_ping.src", INTERFACE),
        set("firewall.adit_ping.proto", "icmp"),
        add("firewall.adit_ping.icmp_type", "echo-request"),
        set("firewall.adit_ping.target", "ACCEPT"),
    ]);
    lines
}

/// Chains in the table of the router's firewall, which reads this folder.
fn marks(slot: Option<Slot>) -> Vec<String> {
    let path = "/etc/nftables.d/10-adit.nft";
    let Some(slot) = slot else {
        return vec![format!("rm -f {path}")];
    };
    let rules = slot.marks(INTERFACE);
    let mut lines = vec![format!("cat >{path} <<'END'")];
    for (name, head) in CHAINS {
        lines.push(format!("chain adit_{name} {{"));
        lines.push(format!("    {head}"));
        for rule in rules.iter().filter(|rule| rule.chain == name) {
            if !rule.comment.is_empty() {
                lines.push(format!("    # {}", rule.comment));
            }
            lines.push(format!("    {}", rule.text));
        }
        lines.push("}".to_owned());
    }
    lines.push("END".to_owned());
    lines
}
