//! What one device, and all together, may take up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use adit_model::state::DeviceId;

/// Connections that are open at a time: of one device, and of all.
const OF_DEVICE: usize = 8;
const OF_ALL: usize = 128;

/// Seconds of its rate that a device may use at once.
const BURST: f64 = 2.0;

/// How many devices are remembered before those that ask no more are forgotten.
const REMEMBERED: usize = 1024;

/// Counts connections and requests.
#[derive(Debug, Default)]
pub(super) struct Limits(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    open: HashMap<DeviceId, usize>,
    total: usize,
    buckets: HashMap<DeviceId, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

/// A connection that counts as long as this lives.
#[derive(Debug)]
pub(super) struct Place {
    limits: Arc<Limits>,
    device: DeviceId,
}

impl Limits {
    /// Whether a device may ask once more now, at a rate of requests each second.
    pub(super) fn admit(&self, device: DeviceId, rate: u32, now: Instant) -> bool {
        let rate = f64::from(rate);
        let full = (rate * BURST).max(1.0);
        let mut counts = self.lock();
        if counts.buckets.len() >= REMEMBERED {
            // A bucket that has had time to be full says nothing.
            counts
                .buckets
                .retain(|_, bucket| now.duration_since(bucket.filled).as_secs_f64() < BURST);
        }
        let bucket = counts.buckets.entry(device).or_insert(Bucket {
            tokens: full,
            filled: now,
        });
        let since = now.duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + since * rate).min(full);
        bucket.filled = now;
        let is_admitted = bucket.tokens >= 1.0;
        if is_admitted {
            bucket.tokens -= 1.0;
        }
        is_admitted
    }

    /// Room for a connection of a device, if there is any.
    pub(super) fn open(self: &Arc<Self>, device: DeviceId) -> Option<Place> {
        let mut counts = self.lock();
        if counts.total >= OF_ALL {
            return None;
        }
        let open = counts.open.entry(device).or_default();
        if *open >= OF_DEVICE {
            return None;
        }
        *open += 1;
        counts.total += 1;
        Some(Place {
            limits: Arc::clone(self),
            device,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.limits.lock();
        counts.total = counts.total.saturating_sub(1);
        if let Some(open) = counts.open.get_mut(&self.device) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                counts.open.remove(&self.device);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use adit_model::state::DeviceId;

    use super::{Limits, OF_ALL, OF_DEVICE};

    #[test]
    fn one_device_leaves_room_for_others() {
        let limits = Arc::new(Limits::default());
        let mut places: Vec<_> = (0..OF_DEVICE)
            .map(|_| limits.open(DeviceId(1)).unwrap())
            .collect();
        assert!(limits.open(DeviceId(1)).is_none());
        places.push(limits.open(DeviceId(2)).unwrap());
        places.remove(0);
        assert!(limits.open(DeviceId(1)).is_some());
        let others = (3..).take(OF_ALL - places.len());
        places.extend(others.map(|id| limits.open(DeviceId(id)).unwrap()));
        assert!(limits.open(DeviceId(1)).is_none());
        drop(places);
        assert!(limits.open(DeviceId(1)).is_some());
    }

    #[test]
    fn a_rate_is_kept() {
        let limits = Limits::default();
        let start = Instant::now();
        let admitted = |at: Instant| {
            (0..100)
                .filter(|_| limits.admit(DeviceId(1), 10, at))
                .count()
        };
        assert_eq!(admitted(start), 20);
        assert_eq!(admitted(start + Duration::from_secs(1)), 10);
        assert_eq!(admitted(start + Duration::from_secs(60)), 20);
        assert!(limits.admit(DeviceId(2), 10, start));
    }
}
