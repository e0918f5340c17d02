//! The hooks of an inbound server for `wg-quick`: what came in through the tunnel is answered through it, and nothing
//! else changes.
//!
//! Routes and rules bear protocol 173, and everything but rules and the nftables table dies with the interface.

use super::Configuration;
use super::policy::{CHAINS, Family, Lookup, Rule, Selector, Slot, short};

const PROTOCOL: &str = "protocol 173";

/// The lines of `[Interface]` that route replies, `Table = off` included.
pub(super) fn lines(configuration: &Configuration) -> Vec<String> {
    let slot = Slot::new(configuration.slot);
    let mut lines = vec![
        "# Only what came in through the tunnel is answered through it; this host's own traffic stays where it was.".to_owned(),
        "Table = off".to_owned(),
        "# An interrupted start may have left rules behind.".to_owned(),
        format!("PreUp = {}", withdraw(slot)),
    ];
    lines.extend(marks(slot));
    for family in Family::all(configuration) {
        if family.ipv6 {
            lines.push("# The same for IPv6. Its address is not above, because wg-quick would fail where IPv6 is off.".to_owned());
            let addresses = family
                .addresses
                .iter()
                .map(|address| format!("ip -6 address add {address}/128 dev %i"));
            let commands: Vec<String> = addresses.chain(routes(&family, slot)).collect();
            lines.push(format!("PostUp = {}", unless_off(&commands.join("; "))));
            lines.push(format!("PostUp = {}", unless_off(&rules(&family, slot))));
        } else {
            lines.push(
                "# The subnet is behind the tunnel; a table of its own leads everything into it."
                    .to_owned(),
            );
            lines.push(format!("PostUp = {}", routes(&family, slot).join("; ")));
            lines.push(
                "# Replies use that table; so does what we send from the tunnel's address, except to networks that this host is part of."
                    .to_owned(),
            );
            lines.push(format!("PostUp = {}", rules(&family, slot)));
        }
    }
    lines.push("# Addresses, routes and src_valid_mark disappear with the interface.".to_owned());
    lines.push(format!("PreDown = {}", withdraw(slot)));
    lines
}

/// The interface's setting is the host's default; without IPv6 in the kernel there is none.
fn unless_off(commands: &str) -> String {
    format!("if grep -qs 0 /proc/sys/net/ipv6/conf/%i/disable_ipv6; then {commands}; fi")
}

fn marks(slot: Slot) -> Vec<String> {
    let mut lines = vec![
        "# The priority is after other programs' marks and before address translation.".to_owned(),
        "PostUp = nft add table inet adit-%i".to_owned(),
    ];
    for (name, head) in CHAINS {
        lines.push(format!(
            "PostUp = nft add chain inet adit-%i {name} '{{ {head} }}'"
        ));
    }
    for rule in slot.marks("%i") {
        if !rule.comment.is_empty() {
            lines.push(format!("# {}", rule.comment));
        }
        lines.push(format!(
            "PostUp = nft add rule inet adit-%i {} {}",
            rule.chain, rule.text
        ));
    }
    lines.push("PostUp = sysctl -q net/ipv4/conf/%i/src_valid_mark=1 || true".to_owned());
    lines
}

/// Tolerates absence of everything, since `wg-quick` stops at the first hook that fails.
fn withdraw(slot: Slot) -> String {
    let number = slot.number;
    format!(
        "for f in -4 -6; do while ip $f rule del table {number} {PROTOCOL} || ip $f rule del priority {number} {PROTOCOL}; do :; done; done \
         2>/dev/null; nft delete table inet adit-%i 2>/dev/null || true"
    )
}

fn flag(family: &Family) -> &'static str {
    if family.ipv6 { "-6" } else { "-4" }
}

fn routes(family: &Family, slot: Slot) -> Vec<String> {
    let flag = flag(family);
    let route = |route: &super::policy::Route| {
        if route.own_table {
            format!(
                "ip {flag} route add default dev %i table {} {PROTOCOL}",
                slot.number
            )
        } else {
            let destination = route.destination;
            format!("ip {flag} route add {destination} dev %i {PROTOCOL}")
        }
    };
    family.routes.iter().map(route).collect()
}

fn rules(family: &Family, slot: Slot) -> String {
    let rules: Vec<String> = family.rules.iter().map(|rule| words(rule, slot)).collect();
    format!(
        "for rule in '{}'; do ip {} rule add {PROTOCOL} priority $rule; done",
        rules.join("' '"),
        flag(family)
    )
}

fn words(rule: &Rule, slot: Slot) -> String {
    let mut words = vec![rule.priority.to_string()];
    words.push(match rule.selector {
        Selector::All => String::new(),
        Selector::From(source) => format!("from {}", short(source)),
        Selector::Unmarked => format!("not fwmark {}", slot.fwmark()),
        Selector::Out => "oif %i".to_owned(),
    });
    if rule.is_marked {
        words.push(format!("fwmark {}", slot.fwmark()));
    }
    words.push(match rule.lookup {
        Lookup::Tunnel => format!("table {}", slot.number),
        Lookup::Known => "table main suppress_prefixlength 0".to_owned(),
    });
    words.retain(|word| !word.is_empty());
    words.join(" ")
}
