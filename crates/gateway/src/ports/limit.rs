//! How much one device may ask, so that the others are heard.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit_model::state::{Device, DeviceId};

/// Requests of one device that may wait for the disk.
const WAITING: usize = 64;

/// After this long without a request a device is forgotten.
const IDLE: Duration = Duration::from_secs(60);

/// What each device asked lately.
#[derive(Debug, Default)]
pub(super) struct Limits(Mutex<HashMap<DeviceId, Bucket>>);

#[derive(Debug)]
struct Bucket {
    /// Requests that would be answered at once.
    tokens: f64,
    at: Instant,
    waiting: Arc<()>,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Turn {
    _counted: Arc<()>,
}

impl Limits {
    /// Whether a request is within what the device may ask in a second.
    pub(super) fn pass(&self, device: &Device) -> bool {
        let rate = f64::from(device.request_rate());
        let now = Instant::now();
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(device.id).or_insert_with(|| Bucket {
            tokens: rate,
            at: now,
            waiting: Arc::default(),
        });
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * rate).min(rate);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// A place among those that wait; none where the device has too many.
    pub(super) fn enter(&self, device: DeviceId) -> Option<Turn> {
        let buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = &buckets.get(&device)?.waiting;
        (Arc::strong_count(waiting) <= WAITING).then(|| Turn {
            _counted: Arc::clone(waiting),
        })
    }

    pub(super) fn forget_idle(&self) {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.retain(|_, bucket| {
            bucket.at.elapsed() < IDLE || Arc::strong_count(&bucket.waiting) > 1
        });
    }
}
