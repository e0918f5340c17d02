//! What the front has: connections, and sockets of this host. It may have rights that this process has not, and then the kernel
//! does not tell whose these are.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use adit_front::{Failures, Status, Table};
use adit_model::facts::{Facts, Listener};
use adit_model::protocol::Protocol;

/// What the front said last that it has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holding(Arc<RwLock<Held>>);

#[derive(Debug, Default)]
struct Held {
    /// What it listens on, or is about to.
    sockets: BTreeSet<(Protocol, SocketAddr)>,
    counts: Option<Counts>,
}

/// How many connections the front has, and has refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) connections: u64,
    pub(crate) waiting: u64,
    pub(crate) flows: u64,
    pub(crate) failures: Failures,
}

impl Holding {
    /// Names the front as the process of its sockets.
    pub(crate) fn name(&self, facts: &mut Facts) {
        let held = &self.read().sockets;
        let is_held = |listener: &Listener| {
            let address = SocketAddr::new(listener.address, listener.port);
            listener.process.is_none() && held.contains(&(listener.protocol, address))
        };
        if !facts.listeners.iter().any(is_held) {
            return;
        }
        let named = facts.listeners.iter().cloned().map(|listener| Listener {
            process: if is_held(&listener) {
                Some(Listener::FRONT.to_owned())
            } else {
                listener.process
            },
            ..listener
        });
        facts.listeners = named.collect();
    }

    /// The front is about to listen where a table says.
    pub(super) fn expect(&self, table: &Table) {
        let wanted = table.listeners.iter();
        let sockets = &mut self.write().sockets;
        sockets.extend(wanted.map(|listener| (protocol(listener.service), listener.address)));
    }

    /// The front has said what it has.
    pub(super) fn take(&self, status: &Status) {
        let open = status.listeners.iter().filter(|it| it.problem.is_none());
        let open = open.map(|listener| (protocol(listener.service), listener.address));
        *self.write() = Held {
            sockets: open.collect(),
            counts: Some(Counts {
                connections: status.connections,
                waiting: status.waiting,
                flows: status.flows,
                failures: status.failures,
            }),
        };
    }

    /// There is no front, or nothing that it should do.
    pub(super) fn forget_counts(&self) {
        self.write().counts = None;
    }

    /// As the front said it a second ago; nothing where there is no front.
    pub(crate) fn counts(&self) -> Option<Counts> {
        self.read().counts
    }

    fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn protocol(service: adit_front::Service) -> Protocol {
    if service.is_tcp() {
        Protocol::Tcp
    } else {
        Protocol::Udp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_nobody_are_the_fronts_where_it_says_so() {
        let listener = |port, process: Option<&str>| Listener {
            protocol: Protocol::Tcp,
            address: [203, 0, 113, 10].into(),
            port,
            process: process.map(str::to_owned),
        };
        let mut facts = Facts {
            listeners: [
                listener(80, None),
                listener(443, None),
                listener(22, Some("sshd")),
            ]
            .into(),
            ..Facts::default()
        };
        let holding = Holding::default();
        let table = Table {
            listeners: vec![adit_front::Listener {
                address: ([203, 0, 113, 10], 443).into(),
                service: adit_front::Service::Tls,
                names: [].into(),
                fallback: None,
            }],
            ..Table::default()
        };
        holding.expect(&table);
        holding.name(&mut facts);
        let fronts = facts.listeners.iter().filter(|it| it.is_front());
        assert_eq!(fronts.map(|it| it.port).collect::<Vec<_>>(), [443]);
    }
}
