//! Sockets that are there for a moment only: a resolver opens one for each question. What depends on the services of this
//! host must not follow them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use adit_model::facts::Listener;
use adit_model::protocol::Protocol;

/// Where the kernel takes the ports of sockets that name none (`ip_local_port_range`), and beyond.
const EPHEMERAL: u16 = 32_768;

/// What was there for so long is a service.
const SETTLED: Duration = Duration::from_secs(10);

/// Sockets that may be gone soon, and when each was seen first.
#[derive(Debug, Default)]
pub(crate) struct Fleeting(BTreeMap<Listener, Instant>);

impl Fleeting {
    /// The listeners without those that have been there for a moment only.
    pub(crate) fn sift(
        &mut self,
        listeners: &BTreeSet<Listener>,
        now: Instant,
    ) -> BTreeSet<Listener> {
        self.0.retain(|listener, _| listeners.contains(listener));
        let mut settled = BTreeSet::new();
        for listener in listeners {
            let is_settled = listener.protocol == Protocol::Tcp || listener.port < EPHEMERAL || {
                let since = *self.0.entry(listener.clone()).or_insert(now);
                now.saturating_duration_since(since) >= SETTLED
            };
            if is_settled {
                settled.insert(listener.clone());
            }
        }
        settled
    }

    /// When one of them will have been there for long enough.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let dues = self.0.values().map(|since| *since + SETTLED);
        dues.filter(|due| *due > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_counts_when_it_stays() {
        let socket = |protocol, port| Listener {
            protocol,
            address: "0.0.0.0".parse().unwrap(),
            port,
            process: None,
        };
        let service = socket(Protocol::Udp, 53);
        let web = socket(Protocol::Tcp, 50_000);
        let question = socket(Protocol::Udp, 50_000);
        let other = socket(Protocol::Udp, 50_001);
        let start = Instant::now();
        let mut fleeting = Fleeting::default();
        let all = |more: &Listener| [service.clone(), web.clone(), more.clone()].into();
        let certain: BTreeSet<_> = [service.clone(), web.clone()].into();
        assert_eq!(fleeting.sift(&all(&question), start), certain);
        assert_eq!(fleeting.due(start), Some(start + SETTLED));
        let later = start + Duration::from_secs(6);
        assert_eq!(fleeting.sift(&all(&other), later), certain);
        let settled = later + SETTLED;
        assert_eq!(fleeting.due(later), Some(settled));
        assert_eq!(fleeting.sift(&all(&other), settled), all(&other));
        assert_eq!(fleeting.due(settled), None);
    }
}
