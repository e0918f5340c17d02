//! The text of the chains and rules, which only a change of the subnets, the clamp or the SNAT range alters.

use std::fmt::Display;

use crate::protocol::PortRange;

use crate::desired::rule::MARK_MASK;

use super::{Firewall, SourceAddress, SubnetPolicy, TABLE};

/// The maps and sets that every table has: kind, name, type, and whether keys are prefixes or ranges.
/// Ranges are kept apart because a concatenated interval map loads twenty times slower than a hash.
const SETS: &[(&str, &str, &str, bool)] = &[
    ("set", "uplinks", "ifname", false),
    ("set", "services", "inet_proto . inet_service", false),
    ("set", "networks4", "ipv4_addr", true),
    ("set", "networks6", "ipv6_addr", true),
    ("set", "own_prefixes6", "ipv6_addr", true),
    ("set", "host_networks4", "ipv4_addr", true),
    ("set", "host_networks6", "ipv6_addr", true),
    ("map", "peers4", "ipv4_addr : verdict", true),
    ("map", "peers6", "ipv6_addr : verdict", true),
    ("map", "snat4", "ipv4_addr : verdict", true),
    ("map", "snat6", "ipv6_addr : verdict", true),
    (
        "map",
        "forwards4",
        "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
        false,
    ),
    (
        "map",
        "forwards6",
        "ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service",
        false,
    ),
    (
        "map",
        "forward_ranges4",
        "ipv4_addr . inet_proto . inet_service : ipv4_addr",
        true,
    ),
    (
        "map",
        "forward_ranges6",
        "ipv6_addr . inet_proto . inet_service : ipv6_addr",
        true,
    ),
    (
        "map",
        "keeps4",
        "ifname . ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
        false,
    ),
    (
        "map",
        "keeps6",
        "ifname . ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service",
        false,
    ),
    (
        "map",
        "keep_ranges4",
        "ifname . ipv4_addr . inet_proto . inet_service : ipv4_addr",
        true,
    ),
    (
        "map",
        "keep_ranges6",
        "ifname . ipv6_addr . inet_proto . inet_service : ipv6_addr",
        true,
    ),
    (
        "map",
        "hairpins4",
        "ipv4_addr . ipv4_addr : ipv4_addr",
        false,
    ),
    (
        "map",
        "hairpins6",
        "ipv6_addr . ipv6_addr : ipv6_addr",
        false,
    ),
    (
        "set",
        "pinholes",
        "ipv6_addr . inet_proto . inet_service",
        false,
    ),
    (
        "set",
        "pinhole_ranges",
        "ipv6_addr . inet_proto . inet_service",
        true,
    ),
];

pub(super) fn render(firewall: &Firewall) -> String {
    let mut text = format!(
        "table {TABLE} {{\n    comment \"Adit: packets from and to the tunnel {}\"\n\n",
        firewall.interface
    );
    for (kind, name, types, interval) in SETS {
        push_set(&mut text, kind, name, types, *interval);
    }
    for id in firewall.subnets.keys() {
        push_set(&mut text, "set", &networks4_of(*id), "ipv4_addr", true);
        push_set(&mut text, "set", &networks6_of(*id), "ipv6_addr", true);
    }
    for (id, policy) in &firewall.subnets {
        push_subnet(&mut text, *id, policy, firewall.snat_ports);
    }
    text.push_str(&render_replies(firewall));
    text.push_str(&render_chains(firewall));
    text.push_str("}\n");
    text
}

pub(super) fn chain_of(subnet: u64) -> String {
    format!("subnet_{subnet}")
}

pub(super) fn snat_chain_of(subnet: u64) -> String {
    format!("snat_subnet_{subnet}")
}

pub(super) fn networks4_of(subnet: u64) -> String {
    format!("subnet_{subnet}_networks4")
}

pub(super) fn networks6_of(subnet: u64) -> String {
    format!("subnet_{subnet}_networks6")
}

fn push_set(text: &mut String, kind: &str, name: &str, types: &str, interval: bool) {
    let flags = if interval { "; flags interval" } else { "" };
    text.push_str(&format!("    {kind} {name} {{ type {types}{flags}; }}\n"));
}

fn push_subnet(text: &mut String, id: u64, policy: &SubnetPolicy, ports: PortRange) {
    text.push_str(&format!(
        r#"
    chain {chain} {{
        meta nfproto ipv4 ip daddr @{networks4} accept comment "to a device of the same subnet"
        meta nfproto ipv6 ip6 daddr @{networks6} accept
    }}

    chain {snat_chain} {{
"#,
        chain = chain_of(id),
        snat_chain = snat_chain_of(id),
        networks4 = networks4_of(id),
        networks6 = networks6_of(id),
    ));
    if let Some(source) = &policy.snat4 {
        push_snat(text, "ipv4", "ip", source, &source.address, ports);
    }
    if let Some(source) = &policy.snat6 {
        push_snat(
            text,
            "ipv6",
            "ip6",
            source,
            &format!("[{}]", source.address),
            ports,
        );
    }
    text.push_str("    }\n");
}

/// Ports come from a range of their own, so that a device cannot take over a port of the host by sending from it;
/// a range can only be given to protocols that have ports.
fn push_snat<A>(
    text: &mut String,
    family: &str,
    word: &str,
    source: &SourceAddress<A>,
    address: &dyn Display,
    ports: PortRange,
) {
    let uplink = &source.uplink;
    text.push_str(&format!(
        "        oifname \"{uplink}\" meta nfproto {family} meta l4proto {{ tcp, udp }} snat {word} to {address}:{}-{}\n",
        ports.first(), ports.last(),
    ));
    text.push_str(&format!(
        "        oifname \"{uplink}\" meta nfproto {family} snat {word} to {address}\n"
    ));
}

/// With one uplink there is no other way back, and no mark.
fn render_replies(firewall: &Firewall) -> String {
    if firewall.reply_marks.is_empty() {
        return String::new();
    }
    let (ours, others) = (MARK_MASK, !MARK_MASK);
    let tunnel = &firewall.interface;
    let mut remember = String::new();
    let mut recall = String::new();
    for (uplink, mark) in &firewall.reply_marks {
        remember.push_str(&format!(
            "        iifname \"{uplink}\" ct direction original ct mark set ct mark and {others:#010x} or {mark:#010x}\n"
        ));
        recall.push_str(&format!(
            "        iifname \"{tunnel}\" ct direction reply ct mark and {ours:#010x} == {mark:#010x} meta mark set meta mark and {others:#010x} or {mark:#010x}\n"
        ));
    }
    format!(
        r#"
    chain remember_uplink {{
{remember}    }}

    chain replies {{
        type filter hook prerouting priority mangle; policy accept;
{recall}    }}
"#
    )
}

fn render_chains(firewall: &Firewall) -> String {
    let remember = if firewall.reply_marks.is_empty() {
        ""
    } else {
        "\n        jump remember_uplink comment \"replies go back by the same uplink\""
    };
    format!(
        r#"
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "{tunnel}" jump from_tunnel
        oifname "{tunnel}" goto to_tunnel
    }}

    chain from_tunnel {{
        oifname "{tunnel}" return comment "decided in to_tunnel"
        meta nfproto ipv6 ip6 daddr @own_prefixes6 drop comment "no device has this address: keep it off the uplink's link"
        meta nfproto ipv4 ip daddr 169.254.0.0/16 drop comment "link-local is not forwarded (RFC 3927, 7), nor are the provider's services there"
        ct state established,related accept
        meta nfproto ipv4 ct state invalid drop comment "would leave untranslated"
        meta nfproto ipv6 ip6 saddr fc00::/7 ct state invalid drop
        meta nfproto ipv6 ip6 saddr != fc00::/7 tcp flags & (fin | syn | rst | ack) != syn ct state new jump resume
        oifname @uplinks accept
        meta nfproto ipv4 ip saddr @host_networks4 accept comment "subnets with host access"
        meta nfproto ipv6 ip6 saddr @host_networks6 accept
        drop comment "other networks of this host"
    }}

    chain resume {{
        meta nfproto ipv6 ip6 saddr . meta l4proto . th sport @pinholes return comment "its pinhole is open: it goes on although it is not tracked"
        meta nfproto ipv6 ip6 saddr . meta l4proto . th sport @pinhole_ranges return
        meta nfproto ipv6 meta l4proto tcp reject with tcp reset comment "a connection that was ended here does not begin again in the middle"
    }}

    chain to_tunnel {{{remember}
        meta nfproto ipv4 icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} accept
        meta nfproto ipv6 icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }} accept comment "RFC 4890, 4.3.1"
        iifname @uplinks meta nfproto ipv4 ip saddr @networks4 drop comment "our addresses do not come from outside (RFC 2827)"
        iifname @uplinks meta nfproto ipv6 ip6 saddr @networks6 drop
        ct state established,related accept
        ct state invalid drop
        ct status dnat accept comment "forwards"
        iifname != "{tunnel}" meta nfproto ipv6 icmpv6 type echo-request accept comment "RFC 4890, 4.3.1"
        iifname "{tunnel}" meta nfproto ipv4 ip saddr vmap @peers4
        iifname "{tunnel}" meta nfproto ipv6 ip6 saddr vmap @peers6
        meta nfproto ipv6 meta l4proto {{ tcp, udp }} ip6 daddr . meta l4proto . th dport @pinholes accept
        meta nfproto ipv6 meta l4proto {{ tcp, udp }} ip6 daddr . meta l4proto . th dport @pinhole_ranges accept
        drop
    }}

    chain input {{
        type filter hook input priority filter; policy accept;
        iifname "{tunnel}" goto to_gateway
    }}

    chain to_gateway {{
        ct state established,related accept
        meta l4proto {{ icmp, icmpv6 }} accept
        meta l4proto {{ tcp, udp }} meta l4proto . th dport @services accept comment "the gateway's own services"
        meta nfproto ipv4 ip saddr @host_networks4 accept comment "subnets with host access"
        meta nfproto ipv6 ip6 saddr @host_networks6 accept
        drop
    }}

    chain nat_in {{
        type nat hook prerouting priority dstnat; policy accept;
        meta nfproto ipv4 meta l4proto {{ tcp, udp }} dnat ip to ip daddr . meta l4proto . th dport map @forwards4
        meta nfproto ipv4 meta l4proto {{ tcp, udp }} dnat ip to ip daddr . meta l4proto . th dport map @forward_ranges4
        meta nfproto ipv6 meta l4proto {{ tcp, udp }} dnat ip6 to ip6 daddr . meta l4proto . th dport map @forwards6
        meta nfproto ipv6 meta l4proto {{ tcp, udp }} dnat ip6 to ip6 daddr . meta l4proto . th dport map @forward_ranges6
    }}

    chain nat_out {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{tunnel}" meta nfproto ipv4 snat ip to ip saddr . ip daddr map @hairpins4 comment "a device that reaches itself by its public address"
        oifname "{tunnel}" meta nfproto ipv6 snat ip6 to ip6 saddr . ip6 daddr map @hairpins6
        meta nfproto ipv4 meta l4proto {{ tcp, udp }} snat ip to oifname . ip saddr . meta l4proto . th sport map @keeps4 comment "a forwarded port stays itself outwards"
        meta nfproto ipv4 meta l4proto {{ tcp, udp }} snat ip to oifname . ip saddr . meta l4proto . th sport map @keep_ranges4
        meta nfproto ipv6 meta l4proto {{ tcp, udp }} snat ip6 to oifname . ip6 saddr . meta l4proto . th sport map @keeps6
        meta nfproto ipv6 meta l4proto {{ tcp, udp }} snat ip6 to oifname . ip6 saddr . meta l4proto . th sport map @keep_ranges6
        oifname @uplinks meta nfproto ipv4 ip saddr vmap @snat4
        oifname @uplinks meta nfproto ipv6 ip6 saddr vmap @snat6
    }}

    chain clamp_in {{
        type filter hook prerouting priority mangle; policy accept;
        iifname "{tunnel}" meta nfproto ipv4 tcp flags & (syn | rst) == syn tcp option maxseg size > {clamp4} tcp option maxseg size set {clamp4}
        iifname "{tunnel}" meta nfproto ipv6 tcp flags & (syn | rst) == syn tcp option maxseg size > {clamp6} tcp option maxseg size set {clamp6}
    }}

    chain clamp_out {{
        type filter hook postrouting priority mangle; policy accept;
        oifname "{tunnel}" meta nfproto ipv4 tcp flags & (syn | rst) == syn tcp option maxseg size > {clamp4} tcp option maxseg size set {clamp4}
        oifname "{tunnel}" meta nfproto ipv6 tcp flags & (syn | rst) == syn tcp option maxseg size > {clamp6} tcp option maxseg size set {clamp6}
    }}
"#,
        tunnel = firewall.interface,
        clamp4 = firewall.clamp.ipv4,
        clamp6 = firewall.clamp.ipv6,
    )
}
