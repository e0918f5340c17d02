//! The way from what the kernel holds to what it shall hold, as steps of one kernel object each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet, ordset};
use ipnet::IpNet;

use crate::desired::Desired;
use crate::desired::address::Address;
use crate::desired::firewall::{Firewall, Sources, SubnetPolicy, Translations};
use crate::desired::link::Link;
use crate::desired::neighbor::ProxyNeighbor;
use crate::desired::route::Route;
use crate::desired::rule::Rule;
use crate::desired::sysctl::Sysctls;
use crate::desired::wireguard::{Peer, WireGuard};
use crate::key::{PrivateKey, PublicKey};

mod step;
#[cfg(test)]
mod tests;

pub use step::{Step, Sweep};

/// What this host holds of ours, as far as it was observed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// The tunnel interface, if there is one.
    pub link: Option<ActualLink>,
    /// What the tunnel interface carries; none when there is no interface, or it could not be read.
    pub wireguard: Option<ActualWireGuard>,
    /// Addresses on the tunnel interface.
    pub addresses: BTreeSet<Address>,
    /// Routes with our protocol number.
    pub routes: OrdSet<Route>,
    /// Rules with our protocol number.
    pub rules: OrdSet<Rule>,
    /// Proxy neighbour entries with our protocol number.
    pub neighbors: OrdSet<ProxyNeighbor>,
    /// The present values of the settings that are wanted, and of those that were changed by us.
    pub sysctls: Sysctls,
    /// The settings that were changed by us, whose prior values are on record.
    pub changed_sysctls: BTreeSet<String>,
    /// Our nftables table.
    pub firewall: ActualFirewall,
}

/// The tunnel interface as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActualLink {
    /// Name and MTU.
    pub link: Link,
    /// Administratively up.
    pub up: bool,
}

/// What the WireGuard interface carries; the private key cannot be read everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActualWireGuard {
    /// The key that belongs to its private key; none before one is set.
    pub public_key: Option<PublicKey>,
    /// UDP port it listens on.
    pub listen_port: u16,
    /// Peers by public key.
    pub peers: OrdMap<PublicKey, Peer>,
}

/// Our nftables table as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ActualFirewall {
    /// There is no such table.
    #[default]
    Absent,
    /// There is one, of a content that we do not know.
    Unknown,
    /// There is one that translates and lets in what is wanted, but its rules may not be ours.
    Unsure,
    /// It is the rendering of this.
    Holds(Box<Firewall>),
}

/// The steps from what was observed to what is desired.
pub fn plan(desired: &Desired, actual: &Actual) -> Vec<Step> {
    steps(&View::of_actual(actual, &OrdMap::new()), desired)
}

/// The steps from one desired content to the next, where the first is known to be in place.
pub fn plan_change(from: &Desired, to: &Desired) -> Vec<Step> {
    steps(&View::of_desired(from, &OrdMap::new()), to)
}

impl Actual {
    /// What would be observed if all of this were in place.
    pub fn of(desired: &Desired) -> Self {
        Self {
            link: desired
                .link
                .clone()
                .map(|link| ActualLink { link, up: true }),
            wireguard: desired.wireguard.as_ref().map(ActualWireGuard::of),
            addresses: desired.addresses.clone(),
            routes: desired.routes.clone(),
            rules: desired.rules.clone(),
            neighbors: desired.neighbors.clone(),
            sysctls: desired.sysctls.clone(),
            changed_sysctls: desired.sysctls.keys().cloned().collect(),
            firewall: match &desired.firewall {
                Some(firewall) => ActualFirewall::Holds(Box::new(firewall.clone())),
                None => ActualFirewall::Absent,
            },
        }
    }
}

impl ActualWireGuard {
    fn of(wireguard: &WireGuard) -> Self {
        Self {
            public_key: Some(wireguard.private_key.public_key()),
            listen_port: wireguard.listen_port,
            peers: wireguard.peers.clone(),
        }
    }
}

/// What is there, borrowed: comparing must not cost a copy of ten thousand objects.
struct View<'a> {
    link: Option<(&'a Link, bool)>,
    interface: Interface<'a>,
    peers: &'a OrdMap<PublicKey, Peer>,
    addresses: &'a BTreeSet<Address>,
    routes: &'a OrdSet<Route>,
    rules: &'a OrdSet<Rule>,
    neighbors: &'a OrdSet<ProxyNeighbor>,
    sysctls: &'a Sysctls,
    changed_sysctls: Vec<&'a String>,
    firewall: Table<'a>,
}

enum Interface<'a> {
    Absent,
    Seen {
        public_key: Option<PublicKey>,
        listen_port: u16,
    },
    Known {
        private_key: &'a PrivateKey,
        listen_port: u16,
    },
}

enum Table<'a> {
    Absent,
    Unknown,
    Unsure,
    Holds(&'a Firewall),
}

impl<'a> View<'a> {
    fn of_actual(actual: &'a Actual, no_peers: &'a OrdMap<PublicKey, Peer>) -> Self {
        let wireguard = actual.wireguard.as_ref();
        Self {
            link: actual.link.as_ref().map(|actual| (&actual.link, actual.up)),
            interface: wireguard.map_or(Interface::Absent, |wireguard| Interface::Seen {
                public_key: wireguard.public_key,
                listen_port: wireguard.listen_port,
            }),
            peers: wireguard.map_or(no_peers, |wireguard| &wireguard.peers),
            addresses: &actual.addresses,
            routes: &actual.routes,
            rules: &actual.rules,
            neighbors: &actual.neighbors,
            sysctls: &actual.sysctls,
            changed_sysctls: actual.changed_sysctls.iter().collect(),
            firewall: match &actual.firewall {
                ActualFirewall::Absent => Table::Absent,
                ActualFirewall::Unknown => Table::Unknown,
                ActualFirewall::Unsure => Table::Unsure,
                ActualFirewall::Holds(firewall) => Table::Holds(firewall),
            },
        }
    }

    fn of_desired(desired: &'a Desired, no_peers: &'a OrdMap<PublicKey, Peer>) -> Self {
        let wireguard = desired.wireguard.as_ref();
        Self {
            link: desired.link.as_ref().map(|link| (link, true)),
            interface: wireguard.map_or(Interface::Absent, |wireguard| Interface::Known {
                private_key: &wireguard.private_key,
                listen_port: wireguard.listen_port,
            }),
            peers: wireguard.map_or(no_peers, |wireguard| &wireguard.peers),
            addresses: &desired.addresses,
            routes: &desired.routes,
            rules: &desired.rules,
            neighbors: &desired.neighbors,
            sysctls: &desired.sysctls,
            changed_sysctls: desired.sysctls.keys().collect(),
            firewall: desired
                .firewall
                .as_ref()
                .map_or(Table::Absent, Table::Holds),
        }
    }
}

/// The order is the point: what could lead a packet astray goes first, and nothing leads to a device before the
/// firewall denies what is not allowed to it.
fn steps(view: &View<'_>, desired: &Desired) -> Vec<Step> {
    let mut steps = Vec::new();
    let neighbors = differences(view.neighbors, &desired.neighbors);
    let rules = differences(view.rules, &desired.rules);
    let routes = differences(view.routes, &desired.routes);
    let addresses = Differences {
        obsolete: view.addresses.difference(&desired.addresses).collect(),
        missing: desired.addresses.difference(view.addresses).collect(),
    };
    steps.extend(neighbors.obsolete(Step::RemoveNeighbor));
    steps.extend(rules.obsolete(Step::RemoveRule));
    steps.extend(routes.obsolete(Step::RemoveRoute));
    steps.extend(addresses.obsolete(Step::RemoveAddress));
    let none = OrdMap::new();
    let wanted = desired.wireguard.as_ref();
    let wanted = wanted.map_or(&none, |wireguard| &wireguard.peers);
    let stays =
        desired.link.as_ref().map(|link| &link.name) == view.link.map(|(link, _)| &link.name);
    let lost = compare(view.peers, wanted);
    // A new interface has none of the old one's peers.
    let peers = if stays {
        lost.clone()
    } else {
        compare(&none, wanted)
    };
    steps.extend(peers.iter().filter_map(PeerDifference::shrinking));

    let (of_host, of_tunnel) = missing_sysctls(view, desired);
    steps.extend(of_host);
    if let (Some((link, _)), false) = (view.link, stays) {
        steps.push(Step::RemoveLink(link.name.clone()));
    }
    match (&desired.link, view.link) {
        (Some(link), Some((present, true))) if present == link => {}
        (Some(link), Some(_)) if stays => steps.push(Step::SetLink(link.clone())),
        (Some(link), _) => steps.push(Step::CreateLink(link.clone())),
        (None, _) => {}
    }
    steps.extend(of_tunnel);
    if let Some(wireguard) = &desired.wireguard {
        let interface = if stays {
            &view.interface
        } else {
            &Interface::Absent
        };
        steps.extend(set_interface(interface, wireguard));
    }
    if let Some(firewall) = &desired.firewall {
        match view.firewall {
            Table::Holds(present) if present == firewall => {}
            Table::Holds(_) => steps.push(Step::UpdateFirewall),
            Table::Absent | Table::Unknown | Table::Unsure => steps.push(Step::ReplaceFirewall),
        }
    }
    steps.extend(peers.iter().filter_map(PeerDifference::growing));
    steps.extend(addresses.missing(Step::AddAddress));
    steps.extend(routes.missing(Step::AddRoute));
    steps.extend(rules.missing(Step::AddRule));
    steps.extend(neighbors.missing(Step::AddNeighbor));

    let table_is_there = !matches!(view.firewall, Table::Absent);
    if desired.firewall.is_none() && table_is_there {
        steps.push(Step::RemoveFirewall);
    }
    let mut obsolete: Vec<_> = view
        .changed_sysctls
        .iter()
        .filter(|path| !desired.sysctls.contains_key(**path))
        .collect();
    obsolete.sort_by_key(|path| Reverse(sysctl_order(path)));
    steps.extend(
        obsolete
            .into_iter()
            .map(|path| Step::RestoreSysctl((*path).clone())),
    );

    let sweep = sweep(view, desired, &lost);
    if !sweep.is_empty() {
        steps.push(Step::SweepConntrack(sweep));
    }
    steps
}

/// What one set has and the other has not.
struct Differences<'a, T> {
    obsolete: Vec<&'a T>,
    missing: Vec<&'a T>,
}

/// What both share is not looked at; where they share nothing it is one pass over both.
fn differences<'a, T: Ord>(present: &'a OrdSet<T>, wanted: &'a OrdSet<T>) -> Differences<'a, T> {
    let mut differences = Differences {
        obsolete: Vec::new(),
        missing: Vec::new(),
    };
    for item in present.diff(wanted) {
        match item {
            ordset::DiffItem::Add(object) => differences.missing.push(object),
            ordset::DiffItem::Remove(object) => differences.obsolete.push(object),
        }
    }
    differences
}

impl<T: Clone> Differences<'_, T> {
    fn obsolete(&self, step: impl Fn(T) -> Step) -> impl Iterator<Item = Step> {
        self.obsolete
            .iter()
            .map(move |object| step((*object).clone()))
    }

    fn missing(&self, step: impl Fn(T) -> Step) -> impl Iterator<Item = Step> {
        self.missing
            .iter()
            .map(move |object| step((*object).clone()))
    }
}

/// A peer that is not as it shall be; none on one side where it is not there at all.
#[derive(Clone, Copy)]
struct PeerDifference<'a> {
    key: PublicKey,
    present: Option<&'a Peer>,
    wanted: Option<&'a Peer>,
}

fn compare<'a>(
    present: &'a OrdMap<PublicKey, Peer>,
    wanted: &'a OrdMap<PublicKey, Peer>,
) -> Vec<PeerDifference<'a>> {
    let differences = present.diff(wanted).map(|item| match item {
        DiffItem::Add(key, wanted) => PeerDifference {
            key: *key,
            present: None,
            wanted: Some(wanted),
        },
        DiffItem::Update {
            old: (key, present),
            new: (_, wanted),
        } => PeerDifference {
            key: *key,
            present: Some(present),
            wanted: Some(wanted),
        },
        DiffItem::Remove(key, present) => PeerDifference {
            key: *key,
            present: Some(present),
            wanted: None,
        },
    });
    differences.collect()
}

impl PeerDifference<'_> {
    fn shrinking(&self) -> Option<Step> {
        match (self.present, self.wanted) {
            (Some(_), None) => Some(Step::RemovePeer(self.key)),
            (Some(present), Some(wanted)) => {
                shrunk(present, wanted).map(|peer| Step::ShrinkPeer(self.key, peer))
            }
            (None, _) => None,
        }
    }

    fn growing(&self) -> Option<Step> {
        let wanted = self.wanted?;
        let is_reached = self
            .present
            .is_some_and(|present| shrunk(present, wanted).as_ref() == Some(wanted));
        (!is_reached).then(|| Step::SetPeer(self.key, wanted.clone()))
    }
}

/// The wanted peer without what it has yet to get; none when nothing is to be taken from it.
fn shrunk(present: &Peer, wanted: &Peer) -> Option<Peer> {
    if present.allowed_ips.is_subset(&wanted.allowed_ips) {
        return None;
    }
    Some(Peer {
        preshared_key: wanted.preshared_key,
        allowed_ips: present
            .allowed_ips
            .intersection(&wanted.allowed_ips)
            .copied()
            .collect(),
    })
}

fn set_interface(present: &Interface<'_>, wanted: &WireGuard) -> Option<Step> {
    let (same_key, same_port) = match present {
        Interface::Absent => (false, false),
        Interface::Seen {
            public_key,
            listen_port,
        } => (
            *public_key == Some(wanted.private_key.public_key()),
            *listen_port == wanted.listen_port,
        ),
        Interface::Known {
            private_key,
            listen_port,
        } => (
            **private_key == wanted.private_key,
            *listen_port == wanted.listen_port,
        ),
    };
    if same_key && same_port {
        return None;
    }
    Some(Step::SetInterface {
        private_key: (!same_key).then_some(wanted.private_key),
        listen_port: (!same_port).then_some(wanted.listen_port),
    })
}

/// Settings to change: those of the host, and those that exist only once the tunnel interface does.
fn missing_sysctls(view: &View<'_>, desired: &Desired) -> (Vec<Step>, Vec<Step>) {
    let mut wanted: Vec<_> = desired
        .sysctls
        .iter()
        .filter(|(path, value)| view.sysctls.get(*path) != Some(value))
        .collect();
    wanted.sort_by_key(|(path, _)| sysctl_order(path));
    let tunnel = desired.link.as_ref().map(|link| link.name.as_str());
    let (of_host, of_tunnel): (Vec<_>, Vec<_>) = wanted
        .into_iter()
        .partition(|(path, _)| tunnel.is_none() || path.split('/').nth(3) != tunnel);
    let steps = |settings: Vec<(&String, &String)>| {
        settings
            .into_iter()
            .map(|(path, value)| Step::SetSysctl(path.clone(), value.clone()))
            .collect()
    };
    (steps(of_host), steps(of_tunnel))
}

/// Forwarding comes after all else: an interface whose `accept_ra` is still 1 then loses its default route.
fn sysctl_order(path: &str) -> (bool, &str) {
    let is_forwarding = path.ends_with("/forwarding") || path.ends_with("/ip_forward");
    (is_forwarding, path)
}

fn sweep(view: &View<'_>, desired: &Desired, lost: &[PeerDifference<'_>]) -> Sweep {
    let endpoints = match (&view.firewall, &desired.firewall) {
        (Table::Holds(before), Some(after)) if *before == after => BTreeSet::new(),
        (Table::Holds(before), Some(after)) => Firewall::changed_endpoints(before, after),
        (Table::Holds(before), None) => {
            Firewall::changed_endpoints(before, &without_way_in(before))
        }
        // Without the table, streams went on untranslated, and would for as long as they live.
        (Table::Absent | Table::Unknown, Some(after)) => {
            Firewall::changed_endpoints(&without_way_in(after), after)
        }
        (Table::Absent | Table::Unknown, None) | (Table::Unsure, _) => BTreeSet::new(),
    };
    let opened = match (&view.firewall, &desired.firewall) {
        (Table::Holds(before), Some(after)) => Firewall::opened_endpoints(before, after),
        (Table::Absent | Table::Unknown | Table::Unsure | Table::Holds(_), _) => BTreeSet::new(),
    };
    let endpoints = endpoints.difference(&opened).copied().collect();
    let mut prefixes = match (&view.firewall, &desired.firewall) {
        (Table::Holds(before), Some(after)) => Firewall::closed_addresses(before, after),
        (Table::Holds(before), None) => Firewall::closed_addresses(before, &without_way_in(before)),
        (Table::Absent | Table::Unknown | Table::Unsure, _) => BTreeSet::new(),
    };
    for peer in lost {
        match (peer.present, peer.wanted) {
            (Some(present), Some(wanted)) => {
                prefixes.extend(present.allowed_ips.difference(&wanted.allowed_ips));
            }
            (Some(present), None) => prefixes.extend(&present.allowed_ips),
            (None, _) => {}
        }
    }
    let unguarded = match (&view.firewall, &desired.firewall) {
        (Table::Absent | Table::Unknown, Some(firewall)) if view.link.is_some() => {
            firewall.subnets.values().flat_map(networks).collect()
        }
        // What a subnet was allowed is not asked for again in the middle of a connection.
        (Table::Holds(before), Some(after)) => {
            let revoked = before.subnets.iter().filter(|(id, before)| {
                after.subnets.get(id).is_some_and(|after| {
                    before.peers_allowed && !after.peers_allowed
                        || before.host_access && !after.host_access
                })
            });
            revoked.flat_map(|(_, policy)| networks(policy)).collect()
        }
        (Table::Absent | Table::Unknown | Table::Unsure | Table::Holds(_), _) => BTreeSet::new(),
    };
    Sweep {
        endpoints,
        opened,
        prefixes,
        unguarded,
    }
}

fn networks(policy: &SubnetPolicy) -> impl Iterator<Item = IpNet> {
    let ipv4 = policy.networks4.iter().copied().map(IpNet::V4);
    ipv4.chain(policy.networks6.iter().copied().map(IpNet::V6))
}

fn without_way_in(firewall: &Firewall) -> Firewall {
    Firewall {
        interface: firewall.interface.clone(),
        uplinks: BTreeSet::new(),
        reply_marks: BTreeMap::new(),
        sources: Sources::default(),
        watched: BTreeSet::new(),
        snat_ports: firewall.snat_ports,
        clamp: firewall.clamp,
        connections: firewall.connections.clone(),
        subnets: BTreeMap::new(),
        own_prefixes6: OrdSet::new(),
        services: BTreeSet::new(),
        translations4: Translations::default(),
        translations6: Translations::default(),
        pinholes: OrdSet::new(),
        open_addresses: OrdSet::new(),
        names: BTreeSet::new(),
        advertised_names: BTreeMap::new(),
        filters: OrdMap::new(),
    }
}
