//! Until when devices were told that their leases last. What is stored may be later, so that renewals need no write; after a
//! restart only that is known, and nothing ends before it was to.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use adit_model::decide::lease::Grant;
use adit_model::state::{Lease, LeaseId, State};

/// Promised ends of leases, in seconds since 1970.
#[derive(Debug, Default)]
pub(crate) struct Promises(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    ends: HashMap<LeaseId, u64>,
    order: BTreeSet<(u64, LeaseId)>,
    /// Those that are being ended: who renews one of them has to wait.
    ending: HashSet<LeaseId>,
}

impl Promises {
    /// A device is about to be told that its lease lasts on; false where it is being ended, and must not be told.
    pub(crate) fn renew(&self, grant: &Grant, now: u64) -> bool {
        let Some(lease) = grant.lease else {
            return true;
        };
        let mut kept = self.lock();
        if kept.ending.contains(&lease) {
            return false;
        }
        let until = now + u64::from(grant.lifetime);
        // Who obtained it otherwise is only told, and must not shorten it.
        let until = match kept.ends.get(&lease) {
            Some(before) if !grant.is_own => until.max(*before),
            Some(_) | None => until,
        };
        kept.set(lease, until);
        true
    }

    /// A device is about to be told of a lease that was just written.
    pub(crate) fn begin(&self, grant: &Grant, now: u64) {
        if let Some(lease) = grant.lease {
            self.lock().set(lease, now + u64::from(grant.lifetime));
        }
    }

    /// When a lease ends, as far as is known.
    pub(crate) fn expiry(&self, lease: &Lease) -> u64 {
        let promised = self.lock().ends.get(&lease.id).copied();
        promised.map_or(lease.expires, |promised| promised.min(lease.expires))
    }

    /// The leases that are over at a time, each with the end that is stored.
    pub(crate) fn take_due(&self, state: &State, now: u64) -> Vec<(LeaseId, u64)> {
        let mut kept = self.lock();
        let later = kept.order.split_off(&(now.saturating_add(1), LeaseId(0)));
        let due = std::mem::replace(&mut kept.order, later);
        let mut over = Vec::new();
        for (_, id) in due {
            kept.ends.remove(&id);
            if let Some(lease) = state.leases.get(&id).filter(|lease| lease.is_open()) {
                kept.ending.insert(id);
                over.push((id, lease.expires));
            }
        }
        over
    }

    /// They were ended, or written anew in the meantime.
    pub(crate) fn ended(&self, over: &[(LeaseId, u64)]) {
        let mut kept = self.lock();
        for (lease, _) in over {
            kept.ending.remove(lease);
        }
    }

    /// They could not be ended, which is to be tried again.
    pub(crate) fn put_back(&self, over: &[(LeaseId, u64)], now: u64) {
        let mut kept = self.lock();
        for (lease, _) in over {
            kept.ending.remove(lease);
            kept.set(*lease, now);
        }
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

impl Kept {
    fn set(&mut self, lease: LeaseId, until: u64) {
        if let Some(before) = self.ends.insert(lease, until) {
            self.order.remove(&(before, lease));
        }
        self.order.insert((until, lease));
    }
}
