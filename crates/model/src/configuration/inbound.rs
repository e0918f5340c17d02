//! The hooks of an inbound server: what came in through the tunnel is answered through it, and nothing else changes.
//!
//! Everything is recognisable as ours (rules and routes of protocol 173, priorities and tables 4200–4299, the mark's own
//! bits, one nftables table per interface), and everything but rules and the nftables table dies with the interface.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Configuration, is_ipv4};

const PROTOCOL: &str = "protocol 173";
/// Rules that must come before those of every other interface of ours on the host.
const FIRST_PRIORITY: u16 = 4200;
const MARK_MASK: u32 = 0x3f00_0000;
const OTHER_BITS: u32 = !MARK_MASK;

/// The lines of `[Interface]` that route replies, `Table = off` included.
pub(super) fn lines(configuration: &Configuration) -> Vec<String> {
    let slot = Slot::new(configuration.slot);
    let ipv4 = Family::of(configuration, true);
    let ipv6 = Family::of(configuration, false);

    let mut lines = vec![
        "# Only what came in through the tunnel is answered through it; this host's own traffic stays where it was.".to_owned(),
        "Table = off".to_owned(),
        "# An interrupted start may have left rules behind.".to_owned(),
        format!("PreUp = {}", slot.withdraw()),
    ];
    lines.extend(slot.marks());
    if !ipv4.sources.is_empty() {
        lines.push(
            "# The subnet is behind the tunnel; a table of its own leads everything into it."
                .to_owned(),
        );
        lines.push(format!("PostUp = {}", ipv4.routes(slot).join("; ")));
        lines.push(
            "# Replies use that table; so does what we send from the tunnel's address, except to networks that this host is part of."
                .to_owned(),
        );
        lines.push(format!("PostUp = {}", ipv4.rules(slot)));
    }
    if !ipv6.sources.is_empty() {
        lines.push("# The same for IPv6. Its address is not above, because wg-quick would fail where IPv6 is off.".to_owned());
        let addresses = ipv6
            .addresses
            .iter()
            .map(|address| format!("ip -6 address add {address}/128 dev %i"));
        let commands: Vec<String> = addresses.chain(ipv6.routes(slot)).collect();
        lines.push(format!("PostUp = {}", unless_off(&commands.join("; "))));
        lines.push(format!("PostUp = {}", unless_off(&ipv6.rules(slot))));
    }
    lines.push("# Addresses, routes and src_valid_mark disappear with the interface.".to_owned());
    lines.push(format!("PreDown = {}", slot.withdraw()));
    lines
}

/// The interface's setting is the host's default; without IPv6 in the kernel there is none.
fn unless_off(commands: &str) -> String {
    format!("if grep -qs 0 /proc/sys/net/ipv6/conf/%i/disable_ipv6; then {commands}; fi")
}

#[derive(Clone, Copy)]
struct Slot {
    /// The routing table, and the priority of the rules.
    number: u16,
    mark: u32,
}

impl Slot {
    fn new(slot: u8) -> Self {
        Self {
            number: FIRST_PRIORITY + u16::from(slot),
            mark: (u32::from(slot) << 24) & MARK_MASK,
        }
    }

    fn fwmark(self) -> String {
        format!("fwmark {:#010x}/{MARK_MASK:#010x}", self.mark)
    }

    fn set(self, mark: &str) -> String {
        format!(
            "{mark} set {mark} and {OTHER_BITS:#010x} or {:#010x}",
            self.mark
        )
    }

    fn marks(self) -> Vec<String> {
        let is_ours = format!(
            "ct direction reply ct mark and {MARK_MASK:#010x} == {:#010x}",
            self.mark
        );
        vec![
            "# The priority is after other programs' marks and before address translation.".to_owned(),
            "PostUp = nft add table inet adit-%i".to_owned(),
            "PostUp = nft add chain inet adit-%i prerouting '{ type filter hook prerouting priority -140; }'".to_owned(),
            "PostUp = nft add chain inet adit-%i output '{ type route hook output priority -140; }'".to_owned(),
            "# A connection that comes in through the tunnel is remembered.".to_owned(),
            format!("PostUp = nft add rule inet adit-%i prerouting iifname %i ct direction original {}", self.set("ct mark")),
            "# Its replies are marked: those of containers, whose address is translated only after routing, and of this host.".to_owned(),
            format!("PostUp = nft add rule inet adit-%i prerouting iifname != %i {is_ours} {}", self.set("meta mark")),
            format!("PostUp = nft add rule inet adit-%i output {is_ours} {}", self.set("meta mark")),
            "# A strict rp_filter (only IPv4 has one) must ask with the mark where a reply would go; in IPv6 no other program's mark may stay.".to_owned(),
            format!("PostUp = nft add rule inet adit-%i prerouting meta nfproto ipv4 iifname %i {}", self.set("meta mark")),
            format!(
                "PostUp = nft add rule inet adit-%i prerouting meta nfproto ipv6 iifname %i meta mark set meta mark and {OTHER_BITS:#010x}"
            ),
            "PostUp = sysctl -q net/ipv4/conf/%i/src_valid_mark=1 || true".to_owned(),
        ]
    }

    /// Tolerates absence of everything, since `wg-quick` stops at the first hook that fails.
    fn withdraw(self) -> String {
        let number = self.number;
        format!(
            "for f in -4 -6; do while ip $f rule del table {number} {PROTOCOL} || ip $f rule del priority {number} {PROTOCOL}; do :; done; done \
             2>/dev/null; nft delete table inet adit-%i 2>/dev/null || true"
        )
    }
}

/// What the configuration says about one family.
struct Family {
    flag: &'static str,
    addresses: Vec<IpAddr>,
    /// Own addresses and delegated prefixes: what leaves with one of them takes the tunnel.
    sources: Vec<String>,
    subnets: Vec<IpNet>,
}

impl Family {
    fn of(configuration: &Configuration, ipv4: bool) -> Self {
        let addresses: Vec<IpAddr> = configuration
            .addresses
            .iter()
            .copied()
            .filter(|address| address.is_ipv4() == ipv4)
            .collect();
        let prefixes = |all: &[IpNet]| -> Vec<IpNet> {
            all.iter()
                .map(IpNet::trunc)
                .filter(|net| is_ipv4(net) == ipv4)
                .collect()
        };
        let delegations = prefixes(&configuration.delegations);
        Self {
            flag: if ipv4 { "-4" } else { "-6" },
            sources: addresses
                .iter()
                .map(ToString::to_string)
                .chain(delegations.iter().map(ToString::to_string))
                .collect(),
            addresses,
            subnets: prefixes(&configuration.subnet),
        }
    }

    fn routes(&self, slot: Slot) -> Vec<String> {
        let flag = self.flag;
        let subnets = self
            .subnets
            .iter()
            .map(|subnet| format!("ip {flag} route add {subnet} dev %i {PROTOCOL}"));
        let default = format!(
            "ip {flag} route add default dev %i table {} {PROTOCOL}",
            slot.number
        );
        subnets.chain([default]).collect()
    }

    /// Arriving IPv4 packets bear the mark themselves (see `marks`), so there the way to a container has to be found
    /// before the tunnel's table. In IPv6 they do not, and replies go back even to a source that this host knows a
    /// shorter way to.
    fn rules(&self, slot: Slot) -> String {
        let (number, fwmark) = (slot.number, slot.fwmark());
        let tunnel = format!("table {number}");
        let known = "table main suppress_prefixlength 0";

        let mut rules = Vec::new();
        if self.flag == "-4" {
            rules.extend(
                self.addresses
                    .iter()
                    .map(|address| format!("{FIRST_PRIORITY} from {address} {fwmark} {tunnel}")),
            );
            rules.push(format!("{number} {fwmark} {known}"));
            rules.push(format!("{number} {fwmark} {tunnel}"));
        } else {
            rules.push(format!("{FIRST_PRIORITY} {fwmark} {tunnel}"));
        }
        for source in &self.sources {
            rules.push(format!("{number} from {source} {known}"));
            rules.push(format!("{number} from {source} {tunnel}"));
        }
        rules.push(format!("{number} oif %i {tunnel}"));
        format!(
            "for rule in '{}'; do ip {} rule add {PROTOCOL} priority $rule; done",
            rules.join("' '"),
            self.flag
        )
    }
}
