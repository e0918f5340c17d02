//! The gateway's firewall as data, and its nftables text: a fixed skeleton of chains, with maps and sets for all that varies.
//!
//! The table decides only about what comes from or goes to the tunnel interface; other traffic of the host passes
//! every chain with `accept`. Each rule that reads an address names its family: nftables drops a dependency that it
//! can infer from the listing, but not from the rule, and a concatenated map adds none by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::protocol::{PortRange, Protocol};
use crate::state::Filter;
use imbl::ordmap;
use imbl::ordset;
use imbl::{OrdMap, OrdSet};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

mod difference;
mod elements;
mod skeleton;

pub use elements::{Delta, Elements};
pub use skeleton::{ASKED, COUNTED, HEARD, SPOKE, SPOKE_HOURS};

/// The nftables family and name of the only table that is ours.
pub const TABLE: &str = "inet adit";

/// All that the gateway's firewall does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firewall {
    /// The tunnel interface.
    pub interface: String,
    pub uplinks: BTreeSet<String>,
    /// Where there are several uplinks: the mark of connections that came in by each, in the bits of
    /// [`MARK_MASK`](super::rule::MARK_MASK). Replies carry it, so that rules can lead them back.
    pub reply_marks: BTreeMap<String, u32>,
    /// Every address that packets can leave with, where there is a choice.
    pub sources: Sources,
    /// The subnets' global prefixes, and the uplinks' own addresses to compare with: packets show how they are delivered.
    pub watched: BTreeSet<Ipv6Net>,
    /// The external ports for what devices send; forwards stay out of this range.
    pub snat_ports: PortRange,
    pub clamp: Clamp,
    pub connections: Connections,
    /// By subnet id. The networks of different subnets do not overlap.
    pub subnets: BTreeMap<u64, SubnetPolicy>,
    /// Global prefixes of the tunnel; what a device sends there must not leave by an uplink when no device has it.
    pub own_prefixes6: OrdSet<Ipv6Net>,
    /// Ports of the gateway's own services that devices reach.
    pub services: BTreeSet<(Protocol, u16)>,
    pub translations4: Translations<Ipv4Addr>,
    pub translations6: Translations<Ipv6Addr>,
    /// Inbound permissions for untranslated IPv6 addresses.
    pub pinholes: OrdSet<Endpoint<Ipv6Addr>>,
    /// Untranslated IPv6 addresses to which everything is let in, of whatever protocol.
    pub open_addresses: OrdSet<Ipv6Addr>,
    /// Public sockets of this host on which the front takes connections for names.
    pub names: BTreeSet<Port<IpAddr>>,
    /// How devices reach them that know a local address by its advertised one.
    pub advertised_names: BTreeMap<Port<Ipv4Addr>, Ipv4Addr>,
    /// Ports that are open to some remote peers only; no two of them overlap.
    pub filters: OrdMap<Endpoint<IpAddr>, BTreeSet<Filter>>,
}

/// What one subnet may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubnetPolicy {
    /// The tunnel CIDR and the prefixes delegated to its devices.
    pub networks4: OrdSet<Ipv4Net>,
    pub networks6: OrdSet<Ipv6Net>,
    /// Devices inside reach each other.
    pub peers_allowed: bool,
    /// Devices reach the gateway host itself, and the networks behind its other interfaces.
    pub host_access: bool,
    pub snat4: Option<SourceAddress<Ipv4Addr>>,
    /// Only for a subnet whose IPv6 prefix is a ULA.
    pub snat6: Option<SourceAddress<Ipv6Addr>>,
}

/// The address that a subnet's packets get when they leave by an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceAddress<A> {
    pub uplink: String,
    pub address: A,
}

/// How many connections one device may have, so that none fills the host's table of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// For each address of a device and each delegated prefix; what the device opens and what others open to it count
    /// apart, or strangers could silence it.
    pub limit: u32,
    /// Each counts as a whole, however many addresses it has.
    pub delegations4: OrdSet<Ipv4Net>,
    pub delegations6: OrdSet<Ipv6Net>,
}

/// The largest TCP segment size let through, by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clamp {
    pub ipv4: u16,
    pub ipv6: u16,
}

/// The translations of one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translations<A: Ord> {
    /// Public address and port, and the device's.
    pub forwards: OrdMap<Port<A>, (A, u16)>,
    /// Public address and range, and the device's address; the port numbers stay.
    pub forward_ranges: OrdMap<Endpoint<A>, A>,
    /// What a device sends from a port that is forwarded to it keeps the public address and port.
    pub keeps: OrdMap<Keep<Port<A>>, (A, u16)>,
    pub keep_ranges: OrdMap<Keep<Endpoint<A>>, A>,
    /// By device: the gateway's address in the subnet, as which a device appears that reaches itself by a forward.
    pub hairpins: OrdMap<A, A>,
    /// What leaves with another address than its subnet: a network, as its first address and length, and the source, which
    /// is among [`Firewall::sources`].
    pub egresses: OrdMap<(A, u8), A>,
}

/// The addresses of the host that packets can leave with, and the uplink of each; empty where a family has but one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    pub ipv4: BTreeMap<Ipv4Addr, String>,
    pub ipv6: BTreeMap<Ipv6Addr, String>,
}

impl Sources {
    /// Those that leave a choice; an address on two uplinks is the first one's.
    pub fn of_choice<A: Ord>(pairs: impl Iterator<Item = (A, String)>) -> BTreeMap<A, String> {
        let mut sources = BTreeMap::new();
        for (address, uplink) in pairs {
            sources.entry(address).or_insert(uplink);
        }
        if sources.len() < 2 {
            sources.clear();
        }
        sources
    }
}

/// One port of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port<A> {
    pub address: A,
    pub protocol: Protocol,
    pub port: u16,
}

/// A range of ports of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint<A> {
    pub address: A,
    pub protocol: Protocol,
    pub ports: PortRange,
}

/// The device's own ports, when it sends by this uplink.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Keep<P> {
    pub uplink: String,
    pub device: P,
}

impl Firewall {
    /// A complete `nft -f` script that replaces the table in one transaction, whatever was there before.
    pub fn render(&self) -> String {
        let mut text = render_removal();
        text.push_str(&self.render_skeleton());
        self.elements().render_additions(&mut text);
        text
    }

    /// The table without any element: chains, rules, empty maps and sets.
    pub fn render_skeleton(&self) -> String {
        skeleton::render(self)
    }

    /// The elements of every map and set, in the notation of nftables.
    pub fn elements(&self) -> Elements {
        Elements::of(self)
    }

    /// The types of the keys, and of a map's values, in the notation of nftables: of those maps and sets that every table
    /// has and whose keys are neither prefixes nor ranges.
    pub fn types_of(set: &str) -> Option<&'static str> {
        skeleton::types_of(set)
    }

    /// What turns the table of `from` into that of `to` by elements alone; `None` when the skeletons differ.
    pub fn delta(from: &Self, to: &Self) -> Option<Delta> {
        // The text is compared only where it might differ.
        let is_same = from.without_elements() == to.without_elements()
            && from.names.is_empty() == to.names.is_empty()
            && from.connections.has_same_lengths(&to.connections);
        if !is_same && from.render_skeleton() != to.render_skeleton() {
            return None;
        }
        Some(difference::delta(from, to))
    }

    /// The public endpoints whose meaning changes from `from` to `to` and the pinholes that close: connections that
    /// were tracked under the old meaning have to end.
    pub fn changed_endpoints(from: &Self, to: &Self) -> BTreeSet<Endpoint<IpAddr>> {
        let mut changed = BTreeSet::new();
        Translations::collect_changed(&from.translations4, &to.translations4, &mut changed);
        Translations::collect_changed(&from.translations6, &to.translations6, &mut changed);
        changed.extend(
            from.pinholes
                .diff(&to.pinholes)
                .filter_map(|item| match item {
                    ordset::DiffItem::Remove(pinhole) => Some(pinhole.any_family()),
                    ordset::DiffItem::Add(_) => None,
                }),
        );
        changed.extend(
            from.filters
                .diff(&to.filters)
                .map(|item| *changed_key(item)),
        );
        changed
    }

    /// Those of [`Self::changed_endpoints`] that led nowhere before: what was tracked there went to this host itself.
    pub fn opened_endpoints(from: &Self, to: &Self) -> BTreeSet<Endpoint<IpAddr>> {
        let mut opened = BTreeSet::new();
        Translations::collect_opened(&from.translations4, &to.translations4, &mut opened);
        Translations::collect_opened(&from.translations6, &to.translations6, &mut opened);
        opened
    }

    /// The addresses that are open no more: whatever came to them has to end.
    pub fn closed_addresses(from: &Self, to: &Self) -> BTreeSet<IpNet> {
        let changed = from.open_addresses.diff(&to.open_addresses);
        let closed = changed.filter_map(|item| match item {
            ordset::DiffItem::Remove(address) => Some(IpNet::from(IpAddr::V6(*address))),
            ordset::DiffItem::Add(_) => None,
        });
        closed.collect()
    }

    /// What the skeleton is made of, at the most, besides the lengths of delegated prefixes.
    fn without_elements(&self) -> Self {
        let policies = self.subnets.iter().map(|(id, policy)| {
            let policy = SubnetPolicy {
                networks4: OrdSet::new(),
                networks6: OrdSet::new(),
                ..policy.clone()
            };
            (*id, policy)
        });
        Self {
            connections: Connections {
                limit: self.connections.limit,
                ..Connections::default()
            },
            subnets: policies.collect(),
            own_prefixes6: OrdSet::new(),
            translations4: Translations::default(),
            translations6: Translations::default(),
            pinholes: OrdSet::new(),
            open_addresses: OrdSet::new(),
            names: BTreeSet::new(),
            advertised_names: BTreeMap::new(),
            filters: OrdMap::new(),
            ..self.clone()
        }
    }
}

/// A script that deletes the table, and succeeds when there is none.
pub fn render_removal() -> String {
    format!("table {TABLE} {{}}\ndelete table {TABLE}\n")
}

impl<A: Ord + Copy + Into<IpAddr>> Translations<A> {
    fn collect_changed(from: &Self, to: &Self, changed: &mut BTreeSet<Endpoint<IpAddr>>) {
        let ports = from
            .forwards
            .diff(&to.forwards)
            .map(|item| *changed_key(item));
        changed.extend(ports.filter_map(|port| port.any_family()));
        let ranges = (from.forward_ranges.diff(&to.forward_ranges)).map(|item| *changed_key(item));
        changed.extend(ranges.map(|range| range.any_family()));
    }

    fn collect_opened(from: &Self, to: &Self, opened: &mut BTreeSet<Endpoint<IpAddr>>) {
        let ports = from.forwards.diff(&to.forwards).filter_map(added_key);
        opened.extend(ports.filter_map(|port| port.any_family()));
        let ranges = from.forward_ranges.diff(&to.forward_ranges);
        opened.extend(ranges.filter_map(added_key).map(|range| range.any_family()));
    }
}

fn added_key<'a, K, V>(item: ordmap::DiffItem<'a, 'a, K, V>) -> Option<&'a K> {
    match item {
        ordmap::DiffItem::Add(key, _) => Some(key),
        ordmap::DiffItem::Update { .. } | ordmap::DiffItem::Remove(..) => None,
    }
}

fn changed_key<'a, K, V>(item: ordmap::DiffItem<'a, 'a, K, V>) -> &'a K {
    match item {
        ordmap::DiffItem::Add(key, _)
        | ordmap::DiffItem::Update { new: (key, _), .. }
        | ordmap::DiffItem::Remove(key, _) => key,
    }
}

impl Connections {
    /// More than a household behind a delegated prefix needs, and a sixty-fourth of what the kernel tracks on a host
    /// with more than 4 GiB.
    pub const DEFAULT_LIMIT: u32 = 4096;

    /// Whether the delegated prefixes have the same lengths as others; only those are looked for that changed.
    fn has_same_lengths(&self, other: &Self) -> bool {
        fn is_same<N: Ord>(here: &OrdSet<N>, there: &OrdSet<N>, length: fn(&N) -> u8) -> bool {
            let changed: BTreeSet<u8> = (here.diff(there))
                .map(|item| {
                    let (ordset::DiffItem::Add(net) | ordset::DiffItem::Remove(net)) = item;
                    length(net)
                })
                .collect();
            let has = |nets: &OrdSet<N>, wanted| nets.iter().any(|net| length(net) == wanted);
            let mut changed = changed.into_iter();
            changed.all(|length| has(here, length) == has(there, length))
        }
        is_same(&self.delegations4, &other.delegations4, Ipv4Net::prefix_len)
            && is_same(&self.delegations6, &other.delegations6, Ipv6Net::prefix_len)
    }

    /// The lengths of the delegated prefixes, of both families.
    fn lengths(&self) -> (BTreeSet<u8>, BTreeSet<u8>) {
        let ipv4 = self.delegations4.iter().map(Ipv4Net::prefix_len);
        let ipv6 = self.delegations6.iter().map(Ipv6Net::prefix_len);
        (ipv4.collect(), ipv6.collect())
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            limit: Self::DEFAULT_LIMIT,
            delegations4: OrdSet::new(),
            delegations6: OrdSet::new(),
        }
    }
}

impl<A: Ord> Default for Translations<A> {
    fn default() -> Self {
        Self {
            forwards: OrdMap::new(),
            forward_ranges: OrdMap::new(),
            keeps: OrdMap::new(),
            keep_ranges: OrdMap::new(),
            hairpins: OrdMap::new(),
            egresses: OrdMap::new(),
        }
    }
}

impl<A: Copy + Into<IpAddr>> Port<A> {
    fn any_family(&self) -> Option<Endpoint<IpAddr>> {
        let ports = PortRange::new(self.port, self.port)?;
        Some(Endpoint {
            address: self.address.into(),
            protocol: self.protocol,
            ports,
        })
    }
}

impl<A: Copy + Into<IpAddr>> Endpoint<A> {
    fn any_family(&self) -> Endpoint<IpAddr> {
        Endpoint {
            address: self.address.into(),
            protocol: self.protocol,
            ports: self.ports,
        }
    }
}

#[cfg(test)]
mod tests;
