//! Which client talks to which device from its own port over UDP: of two such sockets one would get the answers of both.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub(crate) struct Pairs {
    taken: Mutex<HashSet<(SocketAddr, SocketAddr)>>,
}

/// The only one that may talk from this client's port to this device, until it is dropped.
#[derive(Debug)]
pub(crate) struct Pair {
    pairs: Arc<Pairs>,
    addresses: (SocketAddr, SocketAddr),
}

impl Pairs {
    /// Nothing if it is taken.
    pub(crate) fn take(self: &Arc<Self>, client: SocketAddr, device: SocketAddr) -> Option<Pair> {
        let addresses = (client, device);
        self.lock().insert(addresses).then(|| Pair {
            pairs: Arc::clone(self),
            addresses,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<(SocketAddr, SocketAddr)>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.pairs.lock().remove(&self.addresses);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_one_s_until_it_is_given_back() {
        let pairs = Arc::new(Pairs::default());
        let [client, device, other] =
            [1, 2, 3].map(|port| SocketAddr::from(([10, 59, 0, 2], port)));
        let first = pairs.take(client, device).unwrap();
        assert!(pairs.take(client, device).is_none());
        assert!(pairs.take(client, other).is_some() && pairs.take(other, device).is_some());
        drop(first);
        assert!(pairs.take(client, device).is_some());
        assert!(pairs.lock().is_empty());
    }
}
