//! The command that lets our packets through a packet filter, in the words of the program that made it.

use std::collections::BTreeSet;

use super::Purpose;
use crate::foreign::{Family, Hook, Name, Ruleset};
use crate::protocol::Protocol;

/// A base chain that drops packets of ours.
pub(super) struct Case<'a> {
    pub(super) ruleset: &'a Ruleset,
    pub(super) name: &'a Name,
    pub(super) hook: Hook,
    pub(super) purposes: &'a BTreeSet<Purpose>,
    /// The chains whose rules or policy do it.
    pub(super) dropped_in: &'a BTreeSet<String>,
    pub(super) interface: &'a str,
    pub(super) port: u16,
}

/// What is to be typed, and how it stays.
pub(super) fn of(case: &Case<'_>) -> String {
    let ways = Ways::of(case.purposes);
    match Program::of(case) {
        Program::Ufw => by_ufw(case, &ways),
        Program::Firewalld => by_firewalld(case, &ways),
        Program::Docker => by_iptables(case, &ways, "DOCKER-USER"),
        Program::Iptables => by_iptables(case, &ways, &case.name.name),
        Program::Nft => by_nft(case, &ways),
    }
}

/// Who wrote the rules.
enum Program {
    Ufw,
    Firewalld,
    Docker,
    Iptables,
    Nft,
}

/// Which ways are barred.
struct Ways {
    /// Ports of this host.
    to_ports: BTreeSet<(Protocol, u16)>,
    from_port: bool,
    from_tunnel: bool,
    to_tunnel: bool,
}

impl Program {
    fn of(case: &Case<'_>) -> Self {
        let has = |name: &str| {
            let table = case.name.table.clone();
            let name = name.to_owned();
            case.ruleset.chains.contains_key(&Name { table, name })
        };
        match case.name.table.family {
            Family::Inet if case.name.table.name == "firewalld" => Self::Firewalld,
            Family::Inet => Self::Nft,
            Family::Ip | Family::Ip6 => {
                if case.name.table.name == "firewalld" {
                    Self::Firewalld
                } else if has("ufw-before-forward") || has("ufw6-before-forward") {
                    Self::Ufw
                } else if case.hook == Hook::Forward && has("DOCKER-USER") {
                    Self::Docker
                } else if is_of_iptables(case.name) {
                    Self::Iptables
                } else {
                    Self::Nft
                }
            }
        }
    }
}

fn is_of_iptables(name: &Name) -> bool {
    const TABLES: [&str; 5] = ["filter", "mangle", "nat", "raw", "security"];
    const CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
    TABLES.contains(&name.table.name.as_str()) && CHAINS.contains(&name.name.as_str())
}

impl Ways {
    fn of(purposes: &BTreeSet<Purpose>) -> Self {
        let mut ways = Self {
            to_ports: BTreeSet::new(),
            from_port: false,
            from_tunnel: false,
            to_tunnel: false,
        };
        for purpose in purposes {
            match purpose {
                Purpose::Tunnel(port) => {
                    ways.to_ports.insert((Protocol::Udp, *port));
                }
                Purpose::Names(protocol, port) => {
                    ways.to_ports.insert((*protocol, *port));
                }
                Purpose::TunnelAnswers(_) => ways.from_port = true,
                Purpose::Departures | Purpose::Peers => ways.from_tunnel = true,
                Purpose::Answers
                | Purpose::Arrivals
                | Purpose::Forward(_)
                | Purpose::Pinhole(_) => ways.to_tunnel = true,
            }
        }
        ways
    }
}

/// What is not forwarded by decision stays dropped by the gateway's own table.
fn by_ufw(case: &Case<'_>, ways: &Ways) -> String {
    let (interface, port) = (case.interface, case.port);
    // Rules are tried in order: one of the user's own that denies is only overruled from before it, and ufw leaves a
    // rule that it has where it is.
    let is_denied = case.dropped_in.iter().any(|chain| chain.contains("-user-"));
    let allow = |route: &str, rule: &str| {
        if is_denied {
            format!("{{ ufw {route}delete {rule}; ufw {route}prepend {rule}; }}")
        } else {
            format!("ufw {route}{rule}")
        }
    };
    let mut commands = Vec::new();
    for (protocol, port) in &ways.to_ports {
        commands.push(allow("", &format!("allow {port}/{protocol}")));
    }
    if ways.from_port {
        commands.push(allow(
            "",
            &format!("allow out proto udp from any port {port}"),
        ));
    }
    if ways.from_tunnel {
        commands.push(allow("route ", &format!("allow in on {interface}")));
    }
    if ways.to_tunnel {
        commands.push(allow("route ", &format!("allow out on {interface}")));
    }
    format!(
        "`{}`; what no forward or pinhole lets in stays out",
        commands.join(" && ")
    )
}

fn by_firewalld(case: &Case<'_>, ways: &Ways) -> String {
    let (interface, port) = (case.interface, case.port);
    let mut commands = Vec::new();
    for (protocol, port) in &ways.to_ports {
        let zone = zone(case, "filter_IN_").map_or(String::new(), |zone| format!(" --zone={zone}"));
        commands.push(format!(
            "firewall-cmd --permanent{zone} --add-port={port}/{protocol}"
        ));
    }
    if ways.from_tunnel || ways.to_tunnel {
        commands.push(format!(
            "firewall-cmd --permanent --zone=trusted --change-interface={interface}"
        ));
    }
    if ways.to_tunnel {
        commands.extend([
            "firewall-cmd --permanent --new-policy=adit".to_owned(),
            "firewall-cmd --permanent --policy=adit --add-ingress-zone=ANY".to_owned(),
            "firewall-cmd --permanent --policy=adit --add-egress-zone=trusted".to_owned(),
            "firewall-cmd --permanent --policy=adit --set-target=ACCEPT".to_owned(),
        ]);
    }
    if commands.is_empty() {
        return format!(
            "let UDP port {port} out in the zone or policy that denies it: `firewall-cmd --list-all-policies`"
        );
    }
    commands.push("firewall-cmd --reload".to_owned());
    format!(
        "`{}`; what no forward or pinhole lets in stays out",
        commands.join(" && ")
    )
}

/// The zone whose chain drops.
fn zone<'a>(case: &Case<'a>, prefix: &str) -> Option<&'a str> {
    case.dropped_in
        .iter()
        .find_map(|chain| chain.strip_prefix(prefix))
        .map(|rest| {
            let ends = ["_pre", "_log", "_deny", "_allow", "_post"];
            let end = ends.iter().find_map(|end| rest.strip_suffix(end));
            end.unwrap_or(rest)
        })
}

fn by_iptables(case: &Case<'_>, ways: &Ways, chain: &str) -> String {
    let program = match case.name.table.family {
        Family::Ip6 => "ip6tables",
        Family::Ip | Family::Inet => "iptables",
    };
    let table = match case.name.table.name.as_str() {
        "filter" => String::new(),
        other => format!(" -t {other}"),
    };
    let (interface, port) = (case.interface, case.port);
    let mut commands = Vec::new();
    let mut insert = |matches: String| {
        commands.push(format!("{program}{table} -I {chain} {matches} -j ACCEPT"));
    };
    for (protocol, port) in &ways.to_ports {
        insert(format!("-p {protocol} --dport {port}"));
    }
    if ways.from_port {
        insert(format!("-p udp --sport {port}"));
    }
    if ways.from_tunnel && case.hook != Hook::Postrouting {
        insert(format!("-i {interface}"));
    }
    if ways.to_tunnel && case.hook != Hook::Prerouting {
        insert(format!("-o {interface}"));
    }
    if commands.is_empty() {
        return format!(
            "find the rule with `{program}{table} -S`, and let pass before it what comes from or goes to {interface}"
        );
    }
    format!(
        "`{}`; keep it across reboots with the program that loads these rules (on Debian `netfilter-persistent save`)",
        commands.join(" && ")
    )
}

fn by_nft(case: &Case<'_>, ways: &Ways) -> String {
    let (interface, port) = (case.interface, case.port);
    let place = format!("{} {}", case.name.table, case.name.name);
    let mut commands = Vec::new();
    let mut insert = |matches: String| {
        commands.push(format!("nft insert rule {place} {matches} accept"));
    };
    for (protocol, port) in &ways.to_ports {
        insert(format!("{protocol} dport {port}"));
    }
    if ways.from_port {
        insert(format!("udp sport {port}"));
    }
    if ways.from_tunnel && case.hook != Hook::Postrouting {
        insert(format!("iifname {interface}"));
    }
    if ways.to_tunnel && case.hook != Hook::Prerouting {
        insert(format!("oifname {interface}"));
    }
    if commands.is_empty() {
        return format!(
            "find the rule with `nft -a list table {}`, and let pass before it what comes from or goes to {interface}",
            case.name.table
        );
    }
    format!(
        "`{}`; and the same in the file that loads these rules (on Debian /etc/nftables.conf), or it is gone after a reboot",
        commands.join(" && ")
    )
}
