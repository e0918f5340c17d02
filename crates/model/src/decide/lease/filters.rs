//! Filters: the only remote peers that a lease lets in. What cannot be in force is refused, never granted without.

use std::collections::BTreeSet;

use super::refuse;
use crate::change::RequestLease;
use crate::refusal::{LeaseRefusal, Refusal};
use crate::state::{Filter, Lease, Mechanism};

/// The most filters of a lease.
const MOST: usize = 32;

/// The filters of a lease as they are wished for.
pub(super) fn set(lease: &mut Lease, wish: &RequestLease) -> Result<(), Refusal> {
    lease.filters = wished(&lease.filters, wish);
    if lease.filters.len() > MOST {
        return refuse(LeaseRefusal::Filters { limit: MOST });
    }
    Ok(())
}

/// What comes by names has passed the front, which lets in every peer.
pub(super) fn check_names(lease: &Lease) -> Result<(), Refusal> {
    if lease.is_named() && !lease.filters.is_empty() {
        return refuse(LeaseRefusal::Filters { limit: 0 });
    }
    Ok(())
}

/// Refuses to call that granted which lets in others than are wished for, and is not to be changed.
pub(super) fn check_held(held: &BTreeSet<Filter>, wish: &RequestLease) -> Result<(), Refusal> {
    let is_as_wished = match wish.mechanism {
        // All other traffic is to be dropped (RFC 6887 section 13.3).
        Mechanism::Pcp | Mechanism::NatPmp => wished(held, wish) == *held,
        // A pinhole of UPnP says who is to come in, whoever else does by another.
        Mechanism::Upnp => {
            let is_held = |filter: &Filter| held.iter().any(|other| other.covers(filter));
            let is_for_all = wish.clear_filters && wish.filters.is_empty();
            held.is_empty() || (!is_for_all && wish.filters.iter().all(is_held))
        }
    };
    if is_as_wished {
        Ok(())
    } else {
        refuse(LeaseRefusal::Filters { limit: 0 })
    }
}

fn wished(before: &BTreeSet<Filter>, wish: &RequestLease) -> BTreeSet<Filter> {
    let mut filters = if wish.clear_filters {
        BTreeSet::new()
    } else {
        before.clone()
    };
    for filter in &wish.filters {
        let filter = Filter {
            network: filter.network.trunc(),
            port: filter.port,
        };
        if filters.iter().any(|other| other.covers(&filter)) {
            continue;
        }
        filters.retain(|other| !filter.covers(other));
        filters.insert(filter);
    }
    filters
}
