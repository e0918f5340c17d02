//! What decisions know of this host's sockets: a listener may have come since the facts were observed, and sends no event.

use std::collections::BTreeSet;
use std::io;

use adit_host::listener::{self, Observer};
use adit_model::change::Change;
use adit_model::facts::{Facts, Listener};
use adit_model::protocol::Protocol;

use crate::names::Holding;

/// Facts with the listeners of this moment.
pub(crate) fn with_listeners(facts: &Facts, holding: &Holding) -> Facts {
    facts_with(facts, listener::observe(&facts.listeners), holding)
}

fn facts_with(
    facts: &Facts,
    listeners: io::Result<BTreeSet<Listener>>,
    holding: &Holding,
) -> Facts {
    match listeners {
        Ok(listeners) => {
            let mut fresh = Facts {
                listeners,
                ..facts.clone()
            };
            holding.name(&mut fresh);
            fresh
        }
        Err(error) => {
            tracing::warn!(%error, "cannot look for listeners");
            facts.clone()
        }
    }
}

/// Facts with the listeners of this moment beside those that are known, where there are others of the `protocols`.
pub(super) fn with_present(
    facts: &Facts,
    protocols: &BTreeSet<Protocol>,
    observer: &mut Observer,
    holding: &Holding,
) -> Option<Facts> {
    if protocols.is_empty() {
        return None;
    }
    let present = observer.observe(protocols, &facts.listeners);
    if matches!(&present, Ok(present) if present.is_subset(&facts.listeners)) {
        return None;
    }
    let fresh = facts_with(facts, present, holding);
    Some(Facts {
        listeners: facts.listeners.clone(),
        present: fresh.listeners,
        ..fresh
    })
}

/// The protocols of which a device asks for a port.
pub(super) fn protocols_of(change: &Change) -> Vec<Protocol> {
    let Change::RequestLease(wish) = change else {
        return Vec::new();
    };
    match wish.protocol {
        Some(protocol) => vec![protocol],
        None => Protocol::ALL.to_vec(),
    }
}
