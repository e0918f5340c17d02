//! Until when devices were told that their leases last. What is stored may be later, so that renewals need no write; after a
//! restart only that is known, and nothing ends before it was to.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use adit_model::state::{Lease, LeaseId, State};

/// Promised ends of leases, in seconds since 1970.
#[derive(Debug, Default)]
pub(crate) struct Promises(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    ends: HashMap<LeaseId, u64>,
    order: BTreeSet<(u64, LeaseId)>,
}

impl Promises {
    /// A device is told that its lease lasts until then.
    pub(crate) fn promise(&self, lease: LeaseId, until: u64) {
        let mut kept = self.lock();
        if let Some(before) = kept.ends.insert(lease, until) {
            kept.order.remove(&(before, lease));
        }
        kept.order.insert((until, lease));
    }

    /// When a lease ends, as far as is known.
    pub(crate) fn expiry(&self, lease: &Lease) -> u64 {
        let promised = self.lock().ends.get(&lease.id).copied();
        promised.map_or(lease.expires, |promised| promised.min(lease.expires))
    }

    /// The leases that end until a time. They are forgotten, so that who renews one of them now has it written.
    pub(crate) fn take_due(&self, now: u64) -> Vec<LeaseId> {
        let mut kept = self.lock();
        let later = kept.order.split_off(&(now.saturating_add(1), LeaseId(0)));
        let due = std::mem::replace(&mut kept.order, later);
        for (_, lease) in &due {
            kept.ends.remove(lease);
        }
        due.into_iter().map(|(_, lease)| lease).collect()
    }

    /// The first end.
    pub(crate) fn next(&self) -> Option<u64> {
        self.lock().order.first().map(|(until, _)| *until)
    }

    /// Forgets leases that are gone.
    pub(crate) fn retain(&self, state: &State) {
        let mut kept = self.lock();
        let gone: Vec<(u64, LeaseId)> = (kept.order.iter())
            .filter(|(_, lease)| !state.leases.get(lease).is_some_and(Lease::is_open))
            .copied()
            .collect();
        for (until, lease) in gone {
            kept.order.remove(&(until, lease));
            kept.ends.remove(&lease);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
