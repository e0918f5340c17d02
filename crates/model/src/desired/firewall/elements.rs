//! The elements of the table's maps and sets, and the commands that add and delete them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write};
use std::net::{IpAddr, Ipv6Addr};

use imbl::{OrdMap, OrdSet};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::address;
use crate::protocol::PortRange;
use crate::state::Filter;

use super::{Connections, Endpoint, Firewall, Keep, Port, TABLE, Translations, skeleton};

/// Elements in one command: long enough to be quick, short enough to be read in an error message.
const CHUNK: usize = 200;

/// What the maps and sets of a table hold, by set name and key; the value is `None` in a plain set. Empty sets do not appear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elements(BTreeMap<String, BTreeMap<String, Option<String>>>);

/// The elements that lead from one table to another of the same skeleton.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// What goes; it goes first, so that a key may change its value in one transaction.
    pub obsolete: Elements,
    /// What comes.
    pub missing: Elements,
}

impl Delta {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.obsolete.is_empty() && self.missing.is_empty()
    }

    /// The script for `nft -f`.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (set, elements) in &self.obsolete.0 {
            let keys: Vec<String> = elements.keys().cloned().collect();
            push_commands(&mut text, "delete", set, &keys);
        }
        self.missing.render_additions(&mut text);
        text
    }
}

impl Elements {
    pub(super) fn of(firewall: &Firewall) -> Self {
        let mut elements = Self::default();
        elements.insert_policy(firewall);
        elements.insert_ports(firewall);
        elements
    }

    pub fn insert(&mut self, set: impl Into<String>, key: impl Display, value: Option<String>) {
        self.0
            .entry(set.into())
            .or_default()
            .insert(key.to_string(), value);
    }

    pub fn sets(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, Option<String>>)> {
        self.0
            .iter()
            .map(|(set, elements)| (set.as_str(), elements))
    }

    pub fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The elements that `other` has not, or has with another value.
    pub fn difference(&self, other: &Self) -> Self {
        let none = BTreeMap::new();
        let mut difference = Self::default();
        for (set, elements) in &self.0 {
            let missing = missing(elements, other.0.get(set).unwrap_or(&none));
            if !missing.is_empty() {
                difference.0.insert(set.clone(), missing);
            }
        }
        difference
    }

    /// What turns `self` into `other`.
    pub fn delta(&self, other: &Self) -> Delta {
        Delta {
            obsolete: self.difference(other),
            missing: other.difference(self),
        }
    }

    pub(super) fn render_additions(&self, text: &mut String) {
        for (set, elements) in &self.0 {
            let pairs: Vec<String> = elements
                .iter()
                .map(|(key, value)| match value {
                    Some(value) => format!("{key} : {value}"),
                    None => key.clone(),
                })
                .collect();
            push_commands(text, "add", set, &pairs);
        }
    }

    fn insert_policy(&mut self, firewall: &Firewall) {
        for uplink in &firewall.uplinks {
            self.insert("uplinks", format!("\"{uplink}\""), None);
        }
        for (protocol, port) in &firewall.services {
            self.insert("services", format!("{protocol} . {port}"), None);
        }
        for prefix in disjoint6(&firewall.own_prefixes6) {
            self.insert("own_prefixes6", network6(prefix), None);
        }
        let Connections {
            limit: _,
            delegations4,
            delegations6,
        } = &firewall.connections;
        for network in delegations4 {
            let chain = skeleton::delegation4_of(network.prefix_len());
            self.insert(
                "delegations4",
                network4(*network),
                Some(format!("goto {chain}")),
            );
        }
        for network in delegations6 {
            let chain = skeleton::delegation6_of(network.prefix_len());
            self.insert(
                "delegations6",
                network6(*network),
                Some(format!("goto {chain}")),
            );
        }
        for (id, policy) in &firewall.subnets {
            let peers = policy
                .peers_allowed
                .then(|| format!("jump {}", skeleton::chain_of(*id)));
            let snat = format!("jump {}", skeleton::snat_chain_of(*id));
            for network in disjoint4(&policy.networks4) {
                let key = network4(network);
                let snat = policy.snat4.is_some().then_some(&snat);
                self.insert_network(
                    "4",
                    &key,
                    &skeleton::networks4_of(*id),
                    peers.as_ref(),
                    snat,
                    policy.host_access,
                );
            }
            for network in disjoint6(&policy.networks6) {
                let key = network6(network);
                // A global prefix delegated to a device of such a subnet is not translated.
                let is_local = address::is_unique_local(network.network());
                let snat = (policy.snat6.is_some() && is_local).then_some(&snat);
                self.insert_network(
                    "6",
                    &key,
                    &skeleton::networks6_of(*id),
                    peers.as_ref(),
                    snat,
                    policy.host_access,
                );
            }
        }
        self.insert_filters(&firewall.filters);
        for range in disjoint_ranges(&firewall.pinholes) {
            self.insert("pinhole_ranges", endpoint(&range), None);
        }
    }

    /// Peers with any port and peers with one are kept apart, since the intervals of one set must not overlap.
    fn insert_filters(&mut self, filters: &OrdMap<Endpoint<IpAddr>, BTreeSet<Filter>>) {
        for (ports, peers) in filters {
            let version = match ports.address {
                IpAddr::V4(_) => "4",
                IpAddr::V6(_) => "6",
            };
            let ports = endpoint(ports);
            self.insert(format!("filtered{version}"), &ports, None);
            for Filter { network: net, port } in peers {
                let net = network(net.network(), net.prefix_len());
                if *port == 0 {
                    let set = format!("peers_of_ports{version}");
                    self.insert(set, format!("{ports} . {net}"), None);
                } else {
                    let set = format!("peer_ports_of_ports{version}");
                    self.insert(set, format!("{ports} . {net} . {port}"), None);
                }
            }
        }
    }

    fn insert_network(
        &mut self,
        family: &str,
        key: &str,
        subnet_set: &str,
        peers: Option<&String>,
        snat: Option<&String>,
        host_access: bool,
    ) {
        self.insert(format!("networks{family}"), key, None);
        self.insert(subnet_set, key, None);
        if let Some(peers) = peers {
            self.insert(format!("peers{family}"), key, Some(peers.clone()));
        }
        if let Some(snat) = snat {
            self.insert(format!("snat{family}"), key, Some(snat.clone()));
        }
        if host_access {
            self.insert(format!("host_networks{family}"), key, None);
        }
    }

    fn insert_ports(&mut self, firewall: &Firewall) {
        let has_marks = !firewall.reply_marks.is_empty();
        self.insert_translations("4", &firewall.translations4, has_marks);
        self.insert_translations("6", &firewall.translations6, has_marks);
        self.insert_pinholes(firewall.pinholes.iter());
        for address in &firewall.open_addresses {
            self.insert("open_addresses", address.to_string(), None);
        }
        for name in &firewall.names {
            let family = if name.address.is_ipv4() { "4" } else { "6" };
            self.insert(format!("names{family}"), port(name), None);
        }
        let advertised = firewall.advertised_names.iter();
        let advertised = advertised.map(|(from, local)| (port(from), target(&(*local, from.port))));
        self.extend("advertised_names4".to_owned(), advertised);
    }

    fn insert_pinholes<'a>(&mut self, pinholes: impl Iterator<Item = &'a Endpoint<Ipv6Addr>>) {
        for pinhole in pinholes.filter(|pinhole| pinhole.ports.is_single()) {
            self.insert("pinholes", endpoint(pinhole), None);
        }
    }

    fn insert_translations<A: Ord + Display + Copy + Into<IpAddr>>(
        &mut self,
        family: &str,
        translations: &Translations<A>,
        has_marks: bool,
    ) {
        let Translations {
            forwards,
            forward_ranges,
            keeps,
            keep_ranges,
            hairpins,
            egresses,
        } = translations;
        self.extend(
            format!("forwards{family}"),
            forwards.iter().map(|(from, to)| (port(from), target(to))),
        );
        let ranges = forward_ranges
            .iter()
            .map(|(from, to)| (endpoint(from), to.to_string()));
        self.extend(format!("forward_ranges{family}"), ranges);
        let kept = keeps.iter().map(|(Keep { uplink, device }, to)| {
            (format!("\"{uplink}\" . {}", port(device)), target(to))
        });
        self.extend(format!("keeps{family}"), kept);
        let kept = keep_ranges.iter();
        let kept = kept.map(|(Keep { uplink, device }, to)| {
            (
                format!("\"{uplink}\" . {}", endpoint(device)),
                to.to_string(),
            )
        });
        self.extend(format!("keep_ranges{family}"), kept);
        let loops = hairpins
            .iter()
            .map(|(device, gateway)| (format!("{device} . {device}"), gateway.to_string()));
        self.extend(format!("hairpins{family}"), loops);
        let networks = |chain: fn(A) -> String| {
            egresses.iter().map(move |((address, length), source)| {
                (
                    network(*address, *length),
                    format!("jump {}", chain(*source)),
                )
            })
        };
        self.extend(
            format!("egresses{family}"),
            networks(skeleton::egress_chain_of),
        );
        if has_marks {
            self.extend(format!("exits{family}"), networks(skeleton::exit_chain_of));
        }
    }

    fn extend(&mut self, set: String, pairs: impl Iterator<Item = (String, String)>) {
        let pairs: BTreeMap<_, _> = pairs.map(|(key, value)| (key, Some(value))).collect();
        if !pairs.is_empty() {
            self.0.insert(set, pairs);
        }
    }
}

fn missing<K: Ord + Clone, V: PartialEq + Clone>(
    here: &BTreeMap<K, V>,
    there: &BTreeMap<K, V>,
) -> BTreeMap<K, V> {
    here.iter()
        .filter(|(key, value)| there.get(*key) != Some(*value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn push_commands(text: &mut String, verb: &str, set: &str, elements: &[String]) {
    for chunk in elements.chunks(CHUNK) {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{verb} element {TABLE} {set} {{ {} }}",
            chunk.join(", ")
        );
    }
}

fn port<A: Display>(port: &Port<A>) -> String {
    format!("{} . {} . {}", port.address, port.protocol, port.port)
}

fn endpoint<A: Display>(endpoint: &Endpoint<A>) -> String {
    format!(
        "{} . {} . {}",
        endpoint.address, endpoint.protocol, endpoint.ports
    )
}

fn target<A: Display>((address, port): &(A, u16)) -> String {
    format!("{address} . {port}")
}

fn network<A: Copy + Into<IpAddr>>(address: A, length: u8) -> String {
    match (address.into(), length) {
        (address @ IpAddr::V4(_), 32) | (address @ IpAddr::V6(_), 128) => address.to_string(),
        (address, length) => format!("{address}/{length}"),
    }
}

/// The kernel lists a network of one address without its length.
fn network4(network: Ipv4Net) -> String {
    if network.prefix_len() == 32 {
        network.addr().to_string()
    } else {
        network.trunc().to_string()
    }
}

fn network6(network: Ipv6Net) -> String {
    if network.prefix_len() == 128 {
        network.addr().to_string()
    } else {
        network.trunc().to_string()
    }
}

/// An interval set refuses overlaps.
fn disjoint4(networks: &OrdSet<Ipv4Net>) -> Vec<Ipv4Net> {
    Ipv4Net::aggregate(&networks.iter().copied().collect())
}

fn disjoint6(networks: &OrdSet<Ipv6Net>) -> Vec<Ipv6Net> {
    Ipv6Net::aggregate(&networks.iter().copied().collect())
}

/// The ranges among `endpoints`, with those that overlap or touch joined.
fn disjoint_ranges<A: Ord + Copy>(endpoints: &OrdSet<Endpoint<A>>) -> Vec<Endpoint<A>> {
    let mut ranges: Vec<Endpoint<A>> = Vec::new();
    for next in endpoints
        .iter()
        .filter(|endpoint| !endpoint.ports.is_single())
    {
        let joined = ranges
            .last_mut()
            .and_then(|last| Some((join(last, next)?, last)));
        match joined {
            Some((ports, last)) => last.ports = ports,
            None => ranges.push(*next),
        }
    }
    ranges
}

/// The ports of two ranges of one address, the first of which starts first, if they overlap or touch.
fn join<A: PartialEq>(first: &Endpoint<A>, second: &Endpoint<A>) -> Option<PortRange> {
    let same = first.address == second.address && first.protocol == second.protocol;
    if !same || second.ports.first() > first.ports.last().saturating_add(1) {
        return None;
    }
    PortRange::new(
        first.ports.first(),
        first.ports.last().max(second.ports.last()),
    )
}
