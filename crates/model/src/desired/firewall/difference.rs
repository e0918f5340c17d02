//! What of a firewall another has not: only that is written as text, since there is a lot and changes are small.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use imbl::{OrdMap, OrdSet, ordmap, ordset};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::protocol::PortRange;

use super::{Connections, Delta, Elements, Endpoint, Firewall, SubnetPolicy, Translations};

/// The elements that lead from one table to another of the same skeleton.
pub(super) fn delta(from: &Firewall, to: &Firewall) -> Delta {
    Elements::of(&reduced(from, to)).delta(&Elements::of(&reduced(to, from)))
}

/// A firewall without most of the elements that another has as well.
fn reduced(here: &Firewall, there: &Firewall) -> Firewall {
    let policies = here.subnets.iter().filter_map(|(id, policy)| {
        let other = there.subnets.get(id);
        let policy = match other {
            Some(other) if other == policy => return None,
            Some(other) if has_same_elements(policy, other) => SubnetPolicy {
                networks4: touched_networks(&policy.networks4, &other.networks4),
                networks6: touched_networks(&policy.networks6, &other.networks6),
                ..policy.clone()
            },
            Some(_) | None => policy.clone(),
        };
        Some((*id, policy))
    });
    Firewall {
        subnets: policies.collect(),
        own_prefixes6: touched_networks(&here.own_prefixes6, &there.own_prefixes6),
        connections: Connections {
            limit: here.connections.limit,
            delegations4: missing_among(
                &here.connections.delegations4,
                &there.connections.delegations4,
            ),
            delegations6: missing_among(
                &here.connections.delegations6,
                &there.connections.delegations6,
            ),
        },
        translations4: translations_missing(&here.translations4, &there.translations4),
        translations6: translations_missing(&here.translations6, &there.translations6),
        pinholes: touched_pinholes(&here.pinholes, &there.pinholes),
        open_addresses: missing_among(&here.open_addresses, &there.open_addresses),
        filters: missing_in(&here.filters, &there.filters),
        ..here.clone()
    }
}

/// Whether one network becomes the same elements under both policies.
fn has_same_elements(policy: &SubnetPolicy, other: &SubnetPolicy) -> bool {
    let elements = |policy: &SubnetPolicy| {
        (
            policy.peers_allowed,
            policy.host_access,
            policy.snat4.is_some(),
            policy.snat6.is_some(),
        )
    };
    elements(policy) == elements(other)
}

/// The networks of a set around which it and another set may differ once networks are joined.
fn touched_networks<N: Network>(here: &OrdSet<N>, there: &OrdSet<N>) -> OrdSet<N> {
    let mut windows = BTreeSet::new();
    for item in there.diff(here) {
        let (ordset::DiffItem::Add(network) | ordset::DiffItem::Remove(network)) = item;
        let mut window = *network;
        // Networks join to one that is covered from end to end: as long as both ends are covered, that may be.
        while let Some(wider) = window.wider().filter(|wider| {
            [here, there].into_iter().any(|networks| {
                is_covered(networks, wider.first()) && is_covered(networks, wider.last())
            })
        }) {
            window = wider;
        }
        windows.insert(window);
    }
    let mut touched = OrdSet::new();
    for window in windows {
        let inside = here.range(window.first_of_all()..=window.last());
        touched.extend(inside.filter(|network| window.holds(network)).copied());
    }
    touched
}

/// Whether a network of a set holds a host.
fn is_covered<N: Network>(networks: &OrdSet<N>, host: N) -> bool {
    let mut around = Some(host);
    while let Some(network) = around {
        if networks.contains(&network) {
            return true;
        }
        around = network.wider();
    }
    false
}

/// A network of either family; networks are ordered by their first address, then the wider one first.
trait Network: Ord + Copy {
    /// The network that is twice as wide.
    fn wider(self) -> Option<Self>;
    /// Its first address, as a network of its own.
    fn first(self) -> Self;
    /// Its last address, as a network of its own.
    fn last(self) -> Self;
    /// The first of all networks that begin at its first address.
    fn first_of_all(self) -> Self;
    fn holds(self, other: &Self) -> bool;
}

impl Network for Ipv4Net {
    fn wider(self) -> Option<Self> {
        self.supernet()
    }

    fn first(self) -> Self {
        self.network().into()
    }

    fn last(self) -> Self {
        self.broadcast().into()
    }

    fn first_of_all(self) -> Self {
        Self::new_assert(self.network(), 0)
    }

    fn holds(self, other: &Self) -> bool {
        self.contains(other)
    }
}

impl Network for Ipv6Net {
    fn wider(self) -> Option<Self> {
        self.supernet()
    }

    fn first(self) -> Self {
        self.network().into()
    }

    fn last(self) -> Self {
        self.broadcast().into()
    }

    fn first_of_all(self) -> Self {
        Self::new_assert(self.network(), 0)
    }

    fn holds(self, other: &Self) -> bool {
        self.contains(other)
    }
}

fn translations_missing<A: Ord + Copy>(
    here: &Translations<A>,
    there: &Translations<A>,
) -> Translations<A> {
    Translations {
        forwards: missing_in(&here.forwards, &there.forwards),
        forward_ranges: missing_in(&here.forward_ranges, &there.forward_ranges),
        keeps: missing_in(&here.keeps, &there.keeps),
        keep_ranges: missing_in(&here.keep_ranges, &there.keep_ranges),
        hairpins: missing_in(&here.hairpins, &there.hairpins),
        egresses: missing_in(&here.egresses, &there.egresses),
    }
}

fn missing_in<K: Ord + Clone, V: PartialEq + Clone>(
    here: &OrdMap<K, V>,
    there: &OrdMap<K, V>,
) -> OrdMap<K, V> {
    let items = there.diff(here).filter_map(|item| match item {
        ordmap::DiffItem::Add(key, value)
        | ordmap::DiffItem::Update {
            new: (key, value), ..
        } => Some((key.clone(), value.clone())),
        ordmap::DiffItem::Remove(..) => None,
    });
    items.collect()
}

fn missing_among<T: Ord + Clone>(here: &OrdSet<T>, there: &OrdSet<T>) -> OrdSet<T> {
    let items = there.diff(here).filter_map(|item| match item {
        ordset::DiffItem::Add(item) => Some(item.clone()),
        ordset::DiffItem::Remove(_) => None,
    });
    items.collect()
}

/// The pinholes that another set has not. Ranges are joined where they touch, so all of an address and protocol are
/// among them where one differs.
fn touched_pinholes(
    here: &OrdSet<Endpoint<Ipv6Addr>>,
    there: &OrdSet<Endpoint<Ipv6Addr>>,
) -> OrdSet<Endpoint<Ipv6Addr>> {
    let mut touched = OrdSet::new();
    for item in there.diff(here) {
        let (ordset::DiffItem::Add(pinhole) | ordset::DiffItem::Remove(pinhole)) = item;
        if pinhole.ports.is_single() {
            touched.extend(here.get(pinhole).copied());
        } else {
            let of = |ports| Endpoint { ports, ..*pinhole };
            touched.extend(
                here.range(of(PortRange::FIRST)..=of(PortRange::LAST))
                    .copied(),
            );
        }
    }
    touched
}
