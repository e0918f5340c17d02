//! What the workers of a front and those who talk to it have in common.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::admission::Admission;
use crate::pairs::Pairs;
use crate::route::Names;
use crate::status::Failures;
use crate::table::{Route, Service};

/// A listener that is open.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) id: u64,
    pub(crate) socket: OwnedFd,
    pub(crate) entrance: Arc<Entrance>,
}

/// Where a listener is, and its names. Connections last longer than the socket by which they came.
#[derive(Debug)]
pub(crate) struct Entrance {
    pub(crate) address: SocketAddr,
    pub(crate) service: Service,
    names: RwLock<Arc<Names>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) admission: Arc<Admission>,
    pub(crate) counters: Counters,
    pub(crate) pairs: Arc<Pairs>,
    gates: RwLock<BTreeMap<u64, Arc<Gate>>>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections: AtomicU64,
    pub(crate) waiting: AtomicU64,
    pub(crate) flows: AtomicU64,
    pub(crate) unknown_name: AtomicU64,
    pub(crate) too_slow: AtomicU64,
    pub(crate) malformed: AtomicU64,
    pub(crate) limited: AtomicU64,
    pub(crate) unreachable: AtomicU64,
}

impl Gate {
    pub(crate) fn new(id: u64, socket: OwnedFd, entrance: Entrance) -> Self {
        Self {
            id,
            socket,
            entrance: Arc::new(entrance),
        }
    }
}

impl Deref for Gate {
    type Target = Entrance;

    fn deref(&self) -> &Entrance {
        &self.entrance
    }
}

impl Entrance {
    pub(crate) fn new(address: SocketAddr, service: Service, names: Names) -> Self {
        Self {
            address,
            service,
            names: RwLock::new(Arc::new(names)),
        }
    }

    pub(crate) fn names(&self) -> Arc<Names> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&names)
    }

    pub(crate) fn set_names(&self, names: Arc<Names>) {
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// Whether any that it had is gone.
    pub(crate) fn change_names(&self, changes: &BTreeMap<String, Option<Route>>) -> bool {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        // It is copied only if somebody looks a name up at this very moment.
        let names = Arc::make_mut(&mut names);
        let mut is_any_gone = false;
        for (name, route) in changes {
            is_any_gone |= names.change(name, route.as_ref());
        }
        is_any_gone
    }
}

impl Shared {
    pub(crate) fn new(admission: Arc<Admission>) -> Arc<Self> {
        Arc::new(Self {
            admission,
            counters: Counters::default(),
            pairs: Arc::default(),
            gates: RwLock::default(),
        })
    }

    pub(crate) fn gate(&self, id: u64) -> Option<Arc<Gate>> {
        let gates = self.gates.read().unwrap_or_else(PoisonError::into_inner);
        gates.get(&id).cloned()
    }

    pub(crate) fn add_gate(&self, gate: Arc<Gate>) {
        let mut gates = self.gates.write().unwrap_or_else(PoisonError::into_inner);
        gates.insert(gate.id, gate);
    }

    pub(crate) fn remove_gate(&self, id: u64) {
        let mut gates = self.gates.write().unwrap_or_else(PoisonError::into_inner);
        gates.remove(&id);
    }
}

impl Counters {
    pub(crate) fn failures(&self) -> Failures {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Failures {
            unknown_name: value(&self.unknown_name),
            too_slow: value(&self.too_slow),
            malformed: value(&self.malformed),
            limited: value(&self.limited),
            unreachable: value(&self.unreachable),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// One of those that there are, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    shared: Arc<Shared>,
    what: fn(&Counters) -> &AtomicU64,
}

impl Counted {
    pub(crate) fn connection(shared: &Arc<Shared>) -> Self {
        Self::new(shared, |counters| &counters.connections)
    }

    pub(crate) fn waiting(shared: &Arc<Shared>) -> Self {
        Self::new(shared, |counters| &counters.waiting)
    }

    pub(crate) fn flow(shared: &Arc<Shared>) -> Self {
        Self::new(shared, |counters| &counters.flows)
    }

    fn new(shared: &Arc<Shared>, what: fn(&Counters) -> &AtomicU64) -> Self {
        count(what(&shared.counters));
        let shared = Arc::clone(shared);
        Self { shared, what }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.what)(&self.shared.counters).fetch_sub(1, Ordering::Relaxed);
    }
}
