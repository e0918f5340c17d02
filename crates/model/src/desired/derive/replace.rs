//! Puts what some objects contribute now in the place of what they contributed before.

use imbl::{OrdMap, OrdSet};

use super::Part;
use crate::desired::Desired;
use crate::desired::firewall::Translations;
use crate::desired::names::Names;

impl Part {
    /// What both contribute is not touched, so that it stays shared with what was desired before.
    pub(super) fn replace(self, before: &Self, desired: &mut Desired) {
        let Self {
            peers,
            routes,
            rules,
            neighbors,
            networks4,
            networks6,
            own_prefixes6,
            delegations4,
            delegations6,
            translations4,
            translations6,
            pinholes,
            open_addresses,
            names,
            filters,
        } = self;
        if let Some(wireguard) = &mut desired.wireguard {
            exchange(&mut wireguard.peers, &before.peers, peers);
        }
        exchange_all(&mut desired.routes, &before.routes, routes);
        exchange_all(&mut desired.rules, &before.rules, rules);
        exchange_all(&mut desired.neighbors, &before.neighbors, neighbors);
        let Names {
            routes,
            fallbacks,
            // It follows from all names together.
            redirects: _,
        } = names;
        exchange(&mut desired.names.routes, &before.names.routes, routes);
        exchange(
            &mut desired.names.fallbacks,
            &before.names.fallbacks,
            fallbacks,
        );
        let Some(firewall) = &mut desired.firewall else {
            return;
        };
        let none4 = OrdSet::new();
        let none6 = OrdSet::new();
        for (id, policy) in &mut firewall.subnets {
            let (before4, before6) = (before.networks4.get(id), before.networks6.get(id));
            let (after4, after6) = (networks4.get(id), networks6.get(id));
            exchange_all(
                &mut policy.networks4,
                before4.unwrap_or(&none4),
                after4.unwrap_or(&none4).clone(),
            );
            exchange_all(
                &mut policy.networks6,
                before6.unwrap_or(&none6),
                after6.unwrap_or(&none6).clone(),
            );
        }
        exchange_all(
            &mut firewall.own_prefixes6,
            &before.own_prefixes6,
            own_prefixes6,
        );
        exchange_all(
            &mut firewall.connections.delegations4,
            &before.delegations4,
            delegations4,
        );
        exchange_all(
            &mut firewall.connections.delegations6,
            &before.delegations6,
            delegations6,
        );
        translations4.replace(&before.translations4, &mut firewall.translations4);
        translations6.replace(&before.translations6, &mut firewall.translations6);
        exchange_all(&mut firewall.pinholes, &before.pinholes, pinholes);
        exchange_all(
            &mut firewall.open_addresses,
            &before.open_addresses,
            open_addresses,
        );
        exchange(&mut firewall.filters, &before.filters, filters);
    }
}

impl<A: Ord + Copy> Translations<A> {
    fn replace(self, before: &Self, translations: &mut Self) {
        let Self {
            forwards,
            forward_ranges,
            keeps,
            keep_ranges,
            hairpins,
            egresses,
        } = self;
        exchange(&mut translations.forwards, &before.forwards, forwards);
        exchange(
            &mut translations.forward_ranges,
            &before.forward_ranges,
            forward_ranges,
        );
        exchange(&mut translations.keeps, &before.keeps, keeps);
        exchange(
            &mut translations.keep_ranges,
            &before.keep_ranges,
            keep_ranges,
        );
        exchange(&mut translations.hairpins, &before.hairpins, hairpins);
        exchange(&mut translations.egresses, &before.egresses, egresses);
    }
}

fn exchange<K: Ord + Clone, V: PartialEq + Clone>(
    all: &mut OrdMap<K, V>,
    before: &OrdMap<K, V>,
    after: OrdMap<K, V>,
) {
    if all.is_empty() && before.is_empty() {
        *all = after;
        return;
    }
    for key in before.keys() {
        if !after.contains_key(key) {
            all.remove(key);
        }
    }
    for (key, value) in after {
        if before.get(&key) != Some(&value) {
            all.insert(key, value);
        }
    }
}

fn exchange_all<T: Ord + Clone>(all: &mut OrdSet<T>, before: &OrdSet<T>, after: OrdSet<T>) {
    if all.is_empty() && before.is_empty() {
        *all = after;
        return;
    }
    for item in before {
        if !after.contains(item) {
            all.remove(item);
        }
    }
    for item in after {
        if !before.contains(&item) {
            all.insert(item);
        }
    }
}
