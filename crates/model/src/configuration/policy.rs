//! How a device routes with its tunnel, as data that each format writes in its own words.
//!
//! Everything is recognisable as ours: tables and priorities 4200–4299, the mark's own bits, one nftables table for each
//! interface.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Configuration, Routing, is_ipv4};

/// Rules that must come before those of every other interface of ours on the host.
const FIRST_PRIORITY: u16 = 4200;
/// Rules that lead into a tunnel, for programs that keep no order among rules of one priority: what they are for is told apart
/// by marks and sources.
const TUNNEL_PRIORITY: u16 = 4263;
/// Rules of a tunnel that takes everything come after those of the tunnels that only answer.
const LAST_PRIORITY: u16 = 4280;
/// Of routes that end what nobody has: above every route that leads somewhere.
pub(super) const SINK_METRIC: u32 = 0x7fff_0000;
const MARK_MASK: u32 = 0x3f00_0000;
const OTHER_BITS: u32 = !MARK_MASK;

/// The chains of the table, which bears the interface's name. The priority is after other programs' marks and before
/// address translation.
pub(super) const CHAINS: [(&str, &str); 2] = [
    ("prerouting", "type filter hook prerouting priority -140;"),
    ("output", "type route hook output priority -140;"),
];

/// The numbers of one tunnel on its host.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    /// The routing table, and the priority of the rules.
    pub(super) number: u16,
    pub(super) mark: u32,
}

/// A rule of the firewall, and what is to be said about it.
pub(super) struct MarkRule {
    pub(super) comment: &'static str,
    pub(super) chain: &'static str,
    pub(super) text: String,
}

/// What the configuration says about one family.
pub(super) struct Family {
    pub(super) ipv6: bool,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) routes: Vec<Route>,
    pub(super) rules: Vec<Rule>,
}

/// A route into the tunnel.
#[derive(Clone, Copy)]
pub(super) struct Route {
    pub(super) destination: IpNet,
    /// In the tunnel's own table rather than in the main one.
    pub(super) own_table: bool,
}

/// A routing rule.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    pub(super) priority: u16,
    pub(super) selector: Selector,
    /// Besides, only with the tunnel's mark.
    pub(super) is_marked: bool,
    pub(super) lookup: Lookup,
}

#[derive(Clone, Copy)]
pub(super) enum Selector {
    All,
    From(IpNet),
    /// What has another mark than that of the tunnel's own packets.
    Unmarked,
    /// Sockets that are bound to the tunnel.
    Out,
}

#[derive(Clone, Copy)]
pub(super) enum Lookup {
    Tunnel,
    /// What the main table knows more of than a default route.
    Known,
}

impl Slot {
    pub(super) fn new(slot: u8) -> Self {
        Self {
            number: FIRST_PRIORITY + u16::from(slot),
            mark: (u32::from(slot) << 24) & MARK_MASK,
        }
    }

    /// The mark with its mask.
    pub(super) fn fwmark(self) -> String {
        format!("{:#010x}/{MARK_MASK:#010x}", self.mark)
    }

    /// What marks the replies to what came in through the tunnel.
    pub(super) fn marks(self, interface: &str) -> Vec<MarkRule> {
        let is_ours = format!(
            "ct direction reply ct mark and {MARK_MASK:#010x} == {:#010x}",
            self.mark
        );
        let set = |mark: &str| {
            format!(
                "{mark} set {mark} and {OTHER_BITS:#010x} or {:#010x}",
                self.mark
            )
        };
        let rule = |comment, chain, text| MarkRule {
            comment,
            chain,
            text,
        };
        vec![
            rule(
                "A connection that comes in through the tunnel is remembered.",
                "prerouting",
                format!(
                    "iifname {interface} ct direction original {}",
                    set("ct mark")
                ),
            ),
            rule(
                "Its replies are marked: those of containers, whose address is translated only after routing, and of this host.",
                "prerouting",
                format!("iifname != {interface} {is_ours} {}", set("meta mark")),
            ),
            rule("", "output", format!("{is_ours} {}", set("meta mark"))),
            rule(
                "A strict rp_filter (only IPv4 has one) must ask with the mark where a reply would go; in IPv6 no other program's mark may stay.",
                "prerouting",
                format!("meta nfproto ipv4 iifname {interface} {}", set("meta mark")),
            ),
            rule(
                "",
                "prerouting",
                format!(
                    "meta nfproto ipv6 iifname {interface} meta mark set meta mark and {OTHER_BITS:#010x}"
                ),
            ),
        ]
    }
}

impl Rule {
    /// Its priority where the order among rules of one priority is not kept.
    pub(super) fn sole_priority(self) -> u16 {
        match self.lookup {
            Lookup::Tunnel if self.priority != FIRST_PRIORITY && self.priority < LAST_PRIORITY => {
                TUNNEL_PRIORITY
            }
            Lookup::Tunnel | Lookup::Known => self.priority,
        }
    }
}

impl Family {
    /// IPv4 and IPv6, as far as the device has them.
    pub(super) fn all(configuration: &Configuration) -> Vec<Self> {
        [false, true]
            .map(|ipv6| Self::of(configuration, ipv6))
            .into_iter()
            .filter(|family| !family.addresses.is_empty())
            .collect()
    }

    fn of(configuration: &Configuration, ipv6: bool) -> Self {
        let addresses: Vec<IpAddr> = configuration
            .addresses
            .iter()
            .copied()
            .filter(|address| address.is_ipv6() == ipv6)
            .collect();
        let of_family = |net: &IpNet| is_ipv4(net) != ipv6;
        let (routes, rules) = match configuration.routing {
            Routing::Inbound => inbound(configuration, &addresses, ipv6),
            Routing::Full | Routing::Split => {
                let allowed = configuration.allowed_ips().into_iter().filter(of_family);
                outbound(allowed.collect())
            }
        };
        Self {
            ipv6,
            addresses,
            routes,
            rules,
        }
    }
}

/// What the tunnel takes goes there. A default route must not take the tunnel's own packets along.
fn outbound(allowed: Vec<IpNet>) -> (Vec<Route>, Vec<Rule>) {
    let routes: Vec<Route> = allowed
        .into_iter()
        .map(|destination| Route {
            destination,
            own_table: destination.prefix_len() == 0,
        })
        .collect();
    let rule = |priority, selector, lookup| Rule {
        priority,
        selector,
        is_marked: false,
        lookup,
    };
    let rules = if routes.iter().any(|route| route.own_table) {
        vec![
            rule(LAST_PRIORITY, Selector::All, Lookup::Known),
            rule(LAST_PRIORITY + 1, Selector::Unmarked, Lookup::Tunnel),
        ]
    } else {
        Vec::new()
    };
    (routes, rules)
}

/// Arriving IPv4 packets bear the mark themselves (see [`Slot::marks`]), so there the way to a container has to be found
/// before the tunnel's table. In IPv6 they do not, and replies go back even to a source that this host knows a
/// shorter way to.
fn inbound(
    configuration: &Configuration,
    addresses: &[IpAddr],
    ipv6: bool,
) -> (Vec<Route>, Vec<Rule>) {
    let prefixes = |all: &[IpNet]| -> Vec<IpNet> {
        all.iter()
            .map(IpNet::trunc)
            .filter(|net| is_ipv4(net) != ipv6)
            .collect()
    };
    let own: Vec<IpNet> = addresses.iter().copied().map(IpNet::from).collect();
    // What leaves with one of them takes the tunnel.
    let mut sources = own.clone();
    sources.extend(prefixes(&configuration.delegations));
    if sources.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let mut routes: Vec<Route> = prefixes(&configuration.subnet)
        .into_iter()
        .map(|destination| Route {
            destination,
            own_table: false,
        })
        .collect();
    routes.push(Route {
        destination: everything(ipv6),
        own_table: true,
    });

    let number = Slot::new(configuration.slot).number;
    let rule = |priority, selector, is_marked, lookup| Rule {
        priority,
        selector,
        is_marked,
        lookup,
    };
    let mut rules = Vec::new();
    if ipv6 {
        rules.push(rule(FIRST_PRIORITY, Selector::All, true, Lookup::Tunnel));
    } else {
        for address in own {
            let selector = Selector::From(address);
            rules.push(rule(FIRST_PRIORITY, selector, true, Lookup::Tunnel));
        }
        rules.push(rule(number, Selector::All, true, Lookup::Known));
        rules.push(rule(number, Selector::All, true, Lookup::Tunnel));
    }
    for source in sources {
        rules.push(rule(number, Selector::From(source), false, Lookup::Known));
        rules.push(rule(number, Selector::From(source), false, Lookup::Tunnel));
    }
    rules.push(rule(number, Selector::Out, false, Lookup::Tunnel));
    (routes, rules)
}

/// The default route's destination.
pub(super) fn everything(ipv6: bool) -> IpNet {
    if ipv6 {
        IpNet::V6(ipnet::Ipv6Net::default())
    } else {
        IpNet::V4(ipnet::Ipv4Net::default())
    }
}

/// A prefix; a single address without its length.
pub(super) fn short(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}
