//! The text of the chains and rules, which only a change of the subnets, the clamp, the SNAT range, the limit of
//! connections or the lengths of delegated prefixes alters.

mod sets;

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::protocol::PortRange;

use crate::desired::rule::{FRONT_MARK, MARK_MASK};

use super::{Firewall, SourceAddress, Sources, SubnetPolicy, TABLE};

/// Those that a table has while there are names.
const NAMES: &[(&str, &str, &str)] = &[
    ("set", "names4", "ipv4_addr . inet_proto . inet_service"),
    ("set", "names6", "ipv6_addr . inet_proto . inet_service"),
    (
        "map",
        "advertised_names4",
        "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
    ),
];

/// The types of a set or map whose keys are neither prefixes nor ranges, but for those of subnets, sources and packets.
pub(super) fn types_of(set: &str) -> Option<&'static str> {
    let plain = sets::SETS.iter().filter(|(.., interval)| !interval);
    let named = plain.map(|(_, name, types, _)| (*name, *types));
    let mut all = named.chain(NAMES.iter().map(|(_, name, types)| (*name, *types)));
    all.find_map(|(name, types)| (name == set).then_some(types))
}

pub(super) fn render(firewall: &Firewall) -> String {
    let mut text = format!(
        "table {TABLE} {{\n    comment \"Adit: packets from and to the tunnel {}\"\n\n",
        firewall.interface
    );
    for (kind, name, types, interval) in sets::SETS {
        push_set(&mut text, kind, name, types, *interval);
    }
    if !firewall.names.is_empty() {
        for (kind, name, types) in NAMES {
            push_set(&mut text, kind, name, types, false);
        }
    }
    for (name, types) in COUNTED {
        text.push_str(&format!(
            "    set {name} {{ type {types}; size {COUNTED_SIZE}; flags dynamic; }}\n"
        ));
    }
    for id in firewall.subnets.keys() {
        push_set(&mut text, "set", &networks4_of(*id), "ipv4_addr", true);
        push_set(&mut text, "set", &networks6_of(*id), "ipv6_addr", true);
    }
    push_sources(&mut text, firewall);
    push_counting(&mut text, firewall);
    for (id, policy) in &firewall.subnets {
        push_subnet(&mut text, *id, policy, firewall.snat_ports);
    }
    push_evidence(&mut text, firewall);
    text.push_str(&render_replies(firewall));
    text.push_str(&render_names(firewall));
    text.push_str(&render_chains(firewall));
    text.push_str("}\n");
    text
}

/// Sets of devices and delegated prefixes, each with the connections that it has; packets fill them.
pub const COUNTED: [(&str, &str); 4] = [
    ("outgoing4", "ipv4_addr"),
    ("outgoing6", "ipv6_addr"),
    ("incoming4", "ipv4_addr"),
    ("incoming6", "ipv6_addr"),
];

/// What packets show of the watched prefixes, by their first addresses; packets fill these.
pub const ASKED: &str = "asked6";
pub const HEARD: &str = "heard6";
pub const SPOKE: &str = "spoke6";

/// How long it is remembered that a prefix spoke.
pub const SPOKE_HOURS: u64 = 1;

/// More than there can be devices in a table that is loaded in reasonable time.
const COUNTED_SIZE: u32 = 65_536;

/// The chain that counts the connections of delegated IPv4 prefixes of a length.
pub(super) fn delegation4_of(length: u8) -> String {
    format!("delegation4_{length}")
}

pub(super) fn delegation6_of(length: u8) -> String {
    format!("delegation6_{length}")
}

pub(super) fn chain_of(subnet: u64) -> String {
    format!("subnet_{subnet}")
}

pub(super) fn snat_chain_of(subnet: u64) -> String {
    format!("snat_subnet_{subnet}")
}

/// The chain that gives a source address.
pub(super) fn egress_chain_of<A: Into<IpAddr>>(source: A) -> String {
    format!("egress_{}", in_name(source.into()))
}

/// The chain that leads to the uplink of a source address.
pub(super) fn exit_chain_of<A: Into<IpAddr>>(source: A) -> String {
    format!("exit_{}", in_name(source.into()))
}

/// nftables takes neither dots nor colons in the name of a chain.
fn in_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{:08x}", u32::from(address)),
        IpAddr::V6(address) => format!("{:032x}", u128::from(address)),
    }
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
        meta nfproto ipv4 ip daddr @{networks4} goto admit comment "to a device of the same subnet"
        meta nfproto ipv6 ip6 daddr @{networks6} goto admit
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

/// Where there is a choice of addresses: a chain for each, which devices with an egress of their own are led through.
fn push_sources(text: &mut String, firewall: &Firewall) {
    let Sources { ipv4, ipv6 } = &firewall.sources;
    for (version, types, is_wanted) in [
        ("4", "ipv4_addr", !ipv4.is_empty()),
        ("6", "ipv6_addr", !ipv6.is_empty()),
    ] {
        if is_wanted {
            let types = format!("{types} : verdict");
            push_set(text, "map", &format!("egresses{version}"), &types, true);
            if !firewall.reply_marks.is_empty() {
                push_set(text, "map", &format!("exits{version}"), &types, true);
            }
        }
    }
    let sources4 = ipv4.iter().map(|(address, uplink)| {
        (
            IpAddr::V4(*address),
            uplink,
            "ipv4",
            "ip",
            address.to_string(),
        )
    });
    let sources6 = ipv6.iter().map(|(address, uplink)| {
        (
            IpAddr::V6(*address),
            uplink,
            "ipv6",
            "ip6",
            format!("[{address}]"),
        )
    });
    for (address, uplink, family, word, shown) in sources4.chain(sources6) {
        text.push_str(&format!("\n    chain {} {{\n", egress_chain_of(address)));
        let source = SourceAddress {
            uplink: uplink.clone(),
            address,
        };
        push_snat(text, family, word, &source, &shown, firewall.snat_ports);
        text.push_str("    }\n");
        if let Some(mark) = firewall.reply_marks.get(uplink) {
            text.push_str(&format!(
                "\n    chain {} {{\n        ct mark set ct mark and {:#010x} or {mark:#010x}\n    }}\n",
                exit_chain_of(address),
                !MARK_MASK
            ));
        }
    }
}

/// What leaves by another uplink than its own, since the main table knows better, has that one's address.
fn render_elsewhere(firewall: &Firewall) -> String {
    let mut text = String::new();
    let mut push = |family: &str, condition: &str, uplink: &str, address: IpAddr| {
        text.push_str(&format!(
            "        oifname \"{uplink}\" meta nfproto {family} {condition} jump {}\n",
            egress_chain_of(address)
        ));
    };
    let Sources { ipv4, ipv6 } = &firewall.sources;
    for uplink in &firewall.uplinks {
        if let Some((address, _)) = ipv4.iter().find(|(_, name)| *name == uplink) {
            push("ipv4", "ip saddr @networks4", uplink, (*address).into());
        }
        if let Some((address, _)) = ipv6.iter().find(|(_, name)| *name == uplink) {
            let condition = "ip6 saddr fc00::/7 ip6 saddr @networks6";
            push("ipv6", condition, uplink, (*address).into());
        }
    }
    text
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

/// What a new connection passes that the rules allow. It is counted here, after all that could deny it, and only once:
/// its later packets find it confirmed. A device is counted by its address, a delegated prefix as a whole: nftables takes
/// no map for the key of a set, so the prefixes of a length share a chain that knows their mask.
fn push_counting(text: &mut String, firewall: &Firewall) {
    let tunnel = &firewall.interface;
    let limit = firewall.connections.limit;
    let (lengths4, lengths6) = firewall.connections.lengths();
    let mut push = |chain: &str, family: &str, word: &str, version: u8, mask: &dyn Display| {
        text.push_str(&format!(
            r#"
    chain {chain} {{
        iifname "{tunnel}" meta nfproto {family} add @outgoing{version} {{ {word} saddr & {mask} ct count over {limit} }} drop
        iifname != "{tunnel}" meta nfproto {family} add @incoming{version} {{ {word} daddr & {mask} ct count over {limit} }} drop
    }}
"#
        ));
    };
    for length in lengths4 {
        let mask = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, length).netmask();
        push(&delegation4_of(length), "ipv4", "ip", 4, &mask);
    }
    for length in lengths6 {
        let mask = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, length).netmask();
        push(&delegation6_of(length), "ipv6", "ip6", 6, &mask);
    }
    text.push_str(&format!(
        r#"
    chain count {{
        iifname "{tunnel}" meta nfproto ipv4 ip saddr vmap @delegations4
        iifname "{tunnel}" meta nfproto ipv6 ip6 saddr vmap @delegations6
        iifname "{tunnel}" meta nfproto ipv4 add @outgoing4 {{ ip saddr ct count over {limit} }} drop comment "what a device opened"
        iifname "{tunnel}" meta nfproto ipv6 add @outgoing6 {{ ip6 saddr ct count over {limit} }} drop
        iifname != "{tunnel}" meta nfproto ipv4 ip daddr vmap @delegations4
        iifname != "{tunnel}" meta nfproto ipv6 ip6 daddr vmap @delegations6
        iifname != "{tunnel}" meta nfproto ipv4 add @incoming4 {{ ip daddr ct count over {limit} }} drop comment "what others opened to it"
        iifname != "{tunnel}" meta nfproto ipv6 add @incoming6 {{ ip6 daddr ct count over {limit} }} drop
    }}

    chain admit {{
        ct state new ct status & confirmed == 0 jump count comment "one device does not fill the table of connections"
        accept
    }}
"#
    ));
}

/// Looks at what shows how the watched prefixes are delivered: once a connection has been answered for a while it is not
/// looked at any more. nft has no name for the target of a Neighbor Solicitation (RFC 4861 section 4.3): it begins 64 bits
/// into the message.
fn push_evidence(text: &mut String, firewall: &Firewall) {
    if firewall.watched.is_empty() {
        return;
    }
    // A device speaks before it hears, so what it said is forgotten first.
    for (name, hours) in [(ASKED, 1), (HEARD, 2), (SPOKE, SPOKE_HOURS)] {
        text.push_str(&format!(
            "    set {name} {{ type ipv6_addr; size 1024; flags dynamic,timeout; timeout {hours}h; }}\n"
        ));
    }
    let (mut asked, mut heard, mut spoke) = (String::new(), String::new(), String::new());
    // A host's own address may lie in a prefix that it hands on.
    let (own, prefixes): (Vec<&Ipv6Net>, Vec<&Ipv6Net>) =
        (firewall.watched.iter()).partition(|prefix| prefix.prefix_len() == 128);
    for prefix in own.into_iter().chain(prefixes) {
        let (mask, network) = (prefix.netmask(), prefix.network());
        let shown = Ipv6Net::new_assert(network, prefix.prefix_len());
        heard.push_str(&format!(
            "        ip6 daddr {shown} update @{HEARD} {{ ip6 daddr & {mask} }} return\n"
        ));
        if prefix.prefix_len() < 128 {
            let (mask_bits, bits) = (u128::from(mask), u128::from(network));
            asked.push_str(&format!(
                "        @th,64,128 & {mask_bits:#034x} == {bits:#034x} update @{ASKED} {{ @th,64,128 & {mask_bits:#034x} }}\n"
            ));
            spoke.push_str(&format!(
                "        ip6 saddr {shown} add @{SPOKE} {{ ip6 saddr & {mask} }} return\n"
            ));
        }
    }
    text.push_str(&format!(
        r#"
    chain asked {{
{asked}    }}

    chain heard {{
{heard}    }}

    chain spoke {{
{spoke}    }}
"#
    ));
}

/// The front's sockets towards devices have the clients' addresses: what comes back to them is marked, and a rule delivers it
/// to this host. No device reaches a transparent socket of another program by that: datagrams have to be replies, and a segment
/// that does not begin a connection makes none. It need not be a reply: where tracking was lost, it begins with whoever speaks
/// first. The connection is marked, too: it is not one that slipped in while there were no rules.
fn render_names(firewall: &Firewall) -> String {
    if firewall.names.is_empty() {
        return String::new();
    }
    let (mark, others) = (FRONT_MARK, !MARK_MASK);
    let tunnel = &firewall.interface;
    let rules = ["ipv4", "ipv6"].map(|family| {
        format!(
            r#"        iifname "{tunnel}" meta nfproto {family} tcp flags & (syn | ack) != syn socket transparent 1 goto to_front
        iifname "{tunnel}" meta nfproto {family} meta l4proto udp ct direction reply socket transparent 1 goto to_front
"#
        )
    });
    format!(
        r#"
    chain to_front {{
        ct mark set ct mark and {others:#010x} or {mark:#010x}
        meta mark set meta mark and {others:#010x} or {mark:#010x}
    }}

    chain back_to_front {{
        type filter hook prerouting priority mangle + 1; policy accept;
{rules}    }}
"#,
        rules = rules.concat(),
    )
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
            "        iifname \"{tunnel}\" ct mark and {ours:#010x} == {mark:#010x} meta mark set meta mark and {others:#010x} or {mark:#010x}\n"
        ));
    }
    let mut choose = String::new();
    for (family, word, version, is_wanted) in [
        ("ipv4", "ip", 4, !firewall.sources.ipv4.is_empty()),
        ("ipv6", "ip6", 6, !firewall.sources.ipv6.is_empty()),
    ] {
        if is_wanted {
            choose.push_str(&format!(
                "        iifname \"{tunnel}\" meta nfproto {family} ct direction original ct state new {word} saddr vmap @exits{version}\n"
            ));
        }
    }
    format!(
        r#"
    chain remember_uplink {{
{remember}    }}

    chain uplink_of_connection {{
        type filter hook prerouting priority mangle; policy accept;
{choose}{recall}    }}
"#
    )
}

/// What is always there has one base chain a hook: each costs every packet of the host, whatever its rules say.
fn render_chains(firewall: &Firewall) -> String {
    let (spoke, evidence) = if firewall.watched.is_empty() {
        ("", "")
    } else {
        (
            "        oifname @uplinks meta nfproto ipv6 ct state new jump spoke\n",
            "        meta nfproto ipv6 icmpv6 type nd-neighbor-solicit jump asked
        meta nfproto ipv6 ct state new,established ct status & assured == 0 jump heard\n",
        )
    };
    let mut egresses = String::new();
    if !firewall.sources.ipv4.is_empty() {
        egresses.push_str("        oifname @uplinks meta nfproto ipv4 ip saddr vmap @egresses4 comment \"devices that chose an address\"\n");
    }
    if !firewall.sources.ipv6.is_empty() {
        egresses.push_str("        oifname @uplinks meta nfproto ipv6 ip6 saddr vmap @egresses6\n");
    }
    let (of_front, to_names, advertised_names) = if firewall.names.is_empty() {
        (String::new(), String::new(), String::new())
    } else {
        let of_front = format!(
            "        meta mark and {MARK_MASK:#010x} == {FRONT_MARK:#010x} accept comment \"connections of the front, tracked or not\"\n"
        );
        let to_names = [("ipv4", "ip", 4), ("ipv6", "ip6", 6)].map(|(family, word, version)| {
            format!("        meta nfproto {family} meta l4proto {{ tcp, udp }} {word} daddr . meta l4proto . th dport @names{version} goto admit comment \"names of devices\"\n")
        });
        let advertised = format!(
            "        iifname \"{}\" meta nfproto ipv4 meta l4proto {{ tcp, udp }} dnat ip to ip daddr . meta l4proto . th dport map @advertised_names4\n",
            firewall.interface
        );
        (of_front, to_names.concat(), advertised)
    };
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
{spoke}        oifname @uplinks goto admit
        meta nfproto ipv4 ip saddr @host_networks4 goto admit comment "subnets with host access"
        meta nfproto ipv6 ip6 saddr @host_networks6 goto admit
        drop comment "other networks of this host"
    }}

    chain resume {{
        meta nfproto ipv6 ip6 saddr . meta l4proto . th sport @pinholes return comment "its pinhole is open: it goes on although it is not tracked"
        meta nfproto ipv6 ip6 saddr . meta l4proto . th sport @pinhole_ranges return
        meta nfproto ipv6 ip6 saddr @open_addresses return
        meta nfproto ipv6 meta l4proto tcp reject with tcp reset comment "a connection that was ended here does not begin again in the middle"
    }}

    chain to_tunnel {{{remember}
        meta nfproto ipv4 icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} accept
        meta nfproto ipv6 icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }} accept comment "RFC 4890, 4.3.1"
        iifname @uplinks meta nfproto ipv4 ip saddr @networks4 drop comment "our addresses do not come from outside (RFC 2827)"
        iifname @uplinks meta nfproto ipv6 ip6 saddr @networks6 drop
        ct state established,related accept
        ct state invalid drop
        ct status dnat goto admit comment "forwards"
        iifname != "{tunnel}" meta nfproto ipv6 icmpv6 type echo-request goto admit comment "RFC 4890, 4.3.1"
        iifname "{tunnel}" meta nfproto ipv4 ip saddr vmap @peers4
        iifname "{tunnel}" meta nfproto ipv6 ip6 saddr vmap @peers6
        meta nfproto ipv6 meta l4proto {{ tcp, udp }} ip6 daddr . meta l4proto . th dport @filtered6 goto filtered_pinhole
        meta nfproto ipv6 meta l4proto {{ tcp, udp }} ip6 daddr . meta l4proto . th dport @pinholes goto admit
        meta nfproto ipv6 meta l4proto {{ tcp, udp }} ip6 daddr . meta l4proto . th dport @pinhole_ranges goto admit
        meta nfproto ipv6 ip6 daddr @open_addresses goto admit comment "devices that opened their whole address"
        drop
    }}

    chain input {{
        type filter hook input priority filter; policy accept;
        iifname "{tunnel}" goto to_gateway
    }}

    chain to_gateway {{
        ct state established,related accept
{of_front}        meta nfproto ipv6 icmpv6 type {{ mld-listener-query, mld-listener-report, mld-listener-done, nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect, mld2-listener-report }} drop comment "a tunnel has no neighbours"
        meta nfproto ipv4 icmp type redirect drop
        meta nfproto ipv4 icmp type echo-request goto admit
        meta nfproto ipv6 icmpv6 type echo-request goto admit
        fib daddr . iif type {{ local, multicast }} meta l4proto {{ tcp, udp }} meta l4proto . th dport @services goto admit comment "the gateway's own services, at its own addresses"
{to_names}        meta nfproto ipv4 ip saddr @host_networks4 goto admit comment "subnets with host access"
        meta nfproto ipv6 ip6 saddr @host_networks6 goto admit
        drop
    }}

    chain nat_in {{
        type nat hook prerouting priority dstnat; policy accept;
{advertised_names}        meta nfproto ipv4 meta l4proto {{ tcp, udp }} ip daddr . meta l4proto . th dport @filtered4 goto filtered comment "open to some peers only"
        meta nfproto ipv6 meta l4proto {{ tcp, udp }} ip6 daddr . meta l4proto . th dport @filtered6 goto filtered
        goto translate
    }}

    chain translate {{
        meta nfproto ipv4 meta l4proto {{ tcp, udp }} dnat ip to ip daddr . meta l4proto . th dport map @forwards4
        meta nfproto ipv4 meta l4proto {{ tcp, udp }} dnat ip to ip daddr . meta l4proto . th dport map @forward_ranges4
        meta nfproto ipv6 meta l4proto {{ tcp, udp }} dnat ip6 to ip6 daddr . meta l4proto . th dport map @forwards6
        meta nfproto ipv6 meta l4proto {{ tcp, udp }} dnat ip6 to ip6 daddr . meta l4proto . th dport map @forward_ranges6
    }}

    chain filtered {{
        meta nfproto ipv4 ip daddr . meta l4proto . th dport . ip saddr @peers_of_ports4 goto translate
        meta nfproto ipv4 ip daddr . meta l4proto . th dport . ip saddr . th sport @peer_ports_of_ports4 goto translate
        meta nfproto ipv6 ip6 daddr . meta l4proto . th dport . ip6 saddr @peers_of_ports6 goto translate
        meta nfproto ipv6 ip6 daddr . meta l4proto . th dport . ip6 saddr . th sport @peer_ports_of_ports6 goto translate
    }}

    chain filtered_pinhole {{
        meta nfproto ipv6 ip6 daddr . meta l4proto . th dport . ip6 saddr @peers_of_ports6 goto admit
        meta nfproto ipv6 ip6 daddr . meta l4proto . th dport . ip6 saddr . th sport @peer_ports_of_ports6 goto admit
        drop
    }}

    chain nat_out {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{tunnel}" meta nfproto ipv4 snat ip to ip saddr . ip daddr map @hairpins4 comment "a device that reaches itself by its public address"
        oifname "{tunnel}" meta nfproto ipv6 snat ip6 to ip6 saddr . ip6 daddr map @hairpins6
        meta nfproto ipv4 meta l4proto {{ tcp, udp }} snat ip to oifname . ip saddr . meta l4proto . th sport map @keeps4 comment "a forwarded port stays itself outwards"
        meta nfproto ipv4 meta l4proto {{ tcp, udp }} snat ip to oifname . ip saddr . meta l4proto . th sport map @keep_ranges4
        meta nfproto ipv6 meta l4proto {{ tcp, udp }} snat ip6 to oifname . ip6 saddr . meta l4proto . th sport map @keeps6
        meta nfproto ipv6 meta l4proto {{ tcp, udp }} snat ip6 to oifname . ip6 saddr . meta l4proto . th sport map @keep_ranges6
{egresses}        oifname @uplinks meta nfproto ipv4 ip saddr vmap @snat4
        oifname @uplinks meta nfproto ipv6 ip6 saddr vmap @snat6
{elsewhere}    }}

    chain arriving {{
        type filter hook prerouting priority mangle; policy accept;
        iifname "{tunnel}" goto clamp
        iifname @uplinks meta nfproto ipv6 goto from_uplink6
    }}

    chain from_uplink6 {{
{evidence}        meta nfproto ipv6 ip6 daddr @own_prefixes6 fib daddr type unreachable drop comment "whoever probes does not learn which addresses have a device"
    }}

    chain leaving {{
        type filter hook postrouting priority mangle; policy accept;
        oifname "{tunnel}" goto clamp
    }}

    chain clamp {{
        meta nfproto ipv4 tcp flags & (syn | rst) == syn tcp option maxseg size > {clamp4} tcp option maxseg size set {clamp4}
        meta nfproto ipv6 tcp flags & (syn | rst) == syn tcp option maxseg size > {clamp6} tcp option maxseg size set {clamp6}
    }}
"#,
        tunnel = firewall.interface,
        egresses = egresses,
        evidence = evidence,
        spoke = spoke,
        elsewhere = render_elsewhere(firewall),
        clamp4 = firewall.clamp.ipv4,
        clamp6 = firewall.clamp.ipv6,
    )
}
