//! How many connections one device, and all together, may have.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_model::state::DeviceId;

/// Connections that are open at a time: of one device, and of all.
const OF_DEVICE: usize = 8;
const OF_ALL: usize = 128;

/// Counts connections.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    of: HashMap<DeviceId, usize>,
    total: usize,
}

/// A connection that counts as long as this lives.
#[derive(Debug)]
pub(super) struct Place {
    connections: Arc<Connections>,
    device: DeviceId,
}

impl Connections {
    /// Room for one more of a device, if there is any.
    pub(super) fn open(self: &Arc<Self>, device: DeviceId) -> Option<Place> {
        let mut counts = self.lock();
        if counts.total >= OF_ALL {
            return None;
        }
        let open = counts.of.entry(device).or_default();
        if *open >= OF_DEVICE {
            return None;
        }
        *open += 1;
        counts.total += 1;
        Some(Place {
            connections: Arc::clone(self),
            device,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.connections.lock();
        counts.total = counts.total.saturating_sub(1);
        if let Some(open) = counts.of.get_mut(&self.device) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                counts.of.remove(&self.device);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use adit_model::state::DeviceId;

    use super::{Connections, OF_ALL, OF_DEVICE};

    #[test]
    fn one_device_leaves_room_for_others() {
        let connections = Arc::new(Connections::default());
        let own = (0..OF_DEVICE).map(|_| connections.open(DeviceId(1)).unwrap());
        let mut places: Vec<_> = own.collect();
        assert!(connections.open(DeviceId(1)).is_none());
        places.push(connections.open(DeviceId(2)).unwrap());
        places.remove(0);
        assert!(connections.open(DeviceId(1)).is_some());
        let others = (3..).take(OF_ALL - places.len());
        places.extend(others.map(|id| connections.open(DeviceId(id)).unwrap()));
        assert!(connections.open(DeviceId(1)).is_none());
        drop(places);
        assert!(connections.open(DeviceId(1)).is_some());
    }
}
