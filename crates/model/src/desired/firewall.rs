//! The gateway's firewall as data, and its nftables text: a fixed skeleton of chains, with maps and sets for all that varies.
//!
//! The table decides only about what comes from or goes to the tunnel interface; other traffic of the host passes
//! every chain with `accept`. Each rule that reads an address names its family: nftables drops a dependency that it
//! can infer from the listing, but not from the rule, and a concatenated map adds none by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::protocol::{PortRange, Protocol};
use ipnet::{Ipv4Net, Ipv6Net};

mod elements;
mod skeleton;

pub use elements::Elements;
pub use skeleton::COUNTED;

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
    /// The external ports for what devices send; forwards stay out of this range.
    pub snat_ports: PortRange,
    pub clamp: Clamp,
    pub connections: Connections,
    /// By subnet id. The networks of different subnets do not overlap.
    pub subnets: BTreeMap<u64, SubnetPolicy>,
    /// Global prefixes of the tunnel; what a device sends there must not leave by an uplink when no device has it.
    pub own_prefixes6: BTreeSet<Ipv6Net>,
    /// Ports of the gateway's own services that devices reach.
    pub services: BTreeSet<(Protocol, u16)>,
    pub translations4: Translations<Ipv4Addr>,
    pub translations6: Translations<Ipv6Addr>,
    /// Inbound permissions for untranslated IPv6 addresses.
    pub pinholes: BTreeSet<Endpoint<Ipv6Addr>>,
}

/// What one subnet may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubnetPolicy {
    /// The tunnel CIDR and the prefixes delegated to its devices.
    pub networks4: BTreeSet<Ipv4Net>,
    pub networks6: BTreeSet<Ipv6Net>,
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
    pub delegations4: BTreeSet<Ipv4Net>,
    pub delegations6: BTreeSet<Ipv6Net>,
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
    pub forwards: BTreeMap<Port<A>, (A, u16)>,
    /// Public address and range, and the device's address; the port numbers stay.
    pub forward_ranges: BTreeMap<Endpoint<A>, A>,
    /// What a device sends from a port that is forwarded to it keeps the public address and port.
    pub keeps: BTreeMap<Keep<Port<A>>, (A, u16)>,
    pub keep_ranges: BTreeMap<Keep<Endpoint<A>>, A>,
    /// By device: the gateway's address in the subnet, as which a device appears that reaches itself by a forward.
    pub hairpins: BTreeMap<A, A>,
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

    /// A script that turns the table of `from` into that of `to` by elements alone; `None` when the skeletons differ.
    /// It is empty when nothing differs.
    pub fn render_delta(from: &Self, to: &Self) -> Option<String> {
        if from.render_skeleton() != to.render_skeleton() {
            return None;
        }
        let (obsolete, missing) = elements::differences(from, to);
        Some(Elements::render_exchange(&obsolete, &missing))
    }

    /// The public endpoints whose meaning changes from `from` to `to` and the pinholes that close: connections that
    /// were tracked under the old meaning have to end.
    pub fn changed_endpoints(from: &Self, to: &Self) -> BTreeSet<Endpoint<IpAddr>> {
        let mut changed = BTreeSet::new();
        Translations::collect_changed(&from.translations4, &to.translations4, &mut changed);
        Translations::collect_changed(&from.translations6, &to.translations6, &mut changed);
        changed.extend(
            from.pinholes
                .difference(&to.pinholes)
                .map(Endpoint::any_family),
        );
        changed
    }
}

/// A script that deletes the table, and succeeds when there is none.
pub fn render_removal() -> String {
    format!("table {TABLE} {{}}\ndelete table {TABLE}\n")
}

impl<A: Ord + Copy + Into<IpAddr>> Translations<A> {
    fn collect_changed(from: &Self, to: &Self, changed: &mut BTreeSet<Endpoint<IpAddr>>) {
        for (here, there) in [(from, to), (to, from)] {
            let ports = here
                .forwards
                .iter()
                .filter(|(port, target)| there.forwards.get(port) != Some(target));
            changed.extend(ports.filter_map(|(port, _)| port.any_family()));
            let ranges = here
                .forward_ranges
                .iter()
                .filter(|(range, target)| there.forward_ranges.get(range) != Some(target));
            changed.extend(ranges.map(|(range, _)| range.any_family()));
        }
    }
}

impl Connections {
    /// More than a household behind a delegated prefix needs, and a sixty-fourth of what the kernel tracks on a host
    /// with more than 4 GiB.
    pub const DEFAULT_LIMIT: u32 = 4096;
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            limit: Self::DEFAULT_LIMIT,
            delegations4: BTreeSet::new(),
            delegations6: BTreeSet::new(),
        }
    }
}

impl<A: Ord> Default for Translations<A> {
    fn default() -> Self {
        Self {
            forwards: BTreeMap::new(),
            forward_ranges: BTreeMap::new(),
            keeps: BTreeMap::new(),
            keep_ranges: BTreeMap::new(),
            hairpins: BTreeMap::new(),
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
