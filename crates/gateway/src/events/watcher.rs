//! Watches the network while somebody listens, and only then: what devices send and get, and which problems there are.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use adit_api::timestamp::Timestamp;
use adit_api::types::event::{DeviceTraffic, Event, Problems, Traffic};
use adit_api::types::status::StatusProblem;
use adit_model::key::PublicKey;
use adit_model::problem::Problem;
use tokio::time::{Instant, sleep};

use super::Events;
use crate::control::{Control, PeerStatus, Snapshot};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// Looking takes at most one part in so many of the time.
const SHARE: u32 = 10;
/// Devices that one event tells of.
const DEVICES: usize = 500;

/// Works until the daemon ends.
pub(crate) async fn watch_network(control: Weak<Control>, events: Arc<Events>) {
    let mut stop = events.stop.subscribe();
    let work = async {
        loop {
            events.came.notified().await;
            let mut known = None;
            while events.listeners() > 0 {
                let started = Instant::now();
                let Some(control) = control.upgrade() else {
                    return;
                };
                let snapshot = control.refreshed().await;
                drop(control);
                look(&events, &snapshot, &mut known);
                sleep(INTERVAL.max(started.elapsed() * SHARE)).await;
            }
            events.lock().problems = None;
        }
    };
    tokio::select! {
        () = work => {}
        // An error says that the daemon is gone.
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// How a peer was when it was looked at, and whether it counted as connected.
type Known = BTreeMap<PublicKey, (PeerStatus, bool)>;

fn look(events: &Events, snapshot: &Snapshot, known: &mut Option<Known>) {
    let present: Known = snapshot
        .peers
        .iter()
        .map(|(key, peer)| (*key, (peer.clone(), peer.is_connected(snapshot.now))))
        .collect();
    if let Some(before) = known.as_ref() {
        let devices = snapshot.state.devices.values();
        let changed: Vec<DeviceTraffic> = devices
            .filter_map(|device| {
                let (peer, connected) = present.get(&device.public_key)?;
                let is_news = before.get(&device.public_key) != Some(&(peer.clone(), *connected));
                is_news.then(|| DeviceTraffic {
                    id: device.id.0,
                    name: device.name.clone(),
                    connected: *connected,
                    last_handshake: peer.last_handshake.map(Timestamp::from),
                    endpoint: peer.endpoint,
                    received_bytes: peer.received,
                    sent_bytes: peer.sent,
                })
            })
            .collect();
        for devices in changed.chunks(DEVICES) {
            events.tell(Event::Traffic(Traffic {
                devices: devices.to_vec(),
            }));
        }
    }
    // A dataplane that did not answer says nothing about its peers.
    if !present.is_empty() || known.is_none() {
        *known = Some(present);
    }
    tell_problems(events, &snapshot.all_problems());
}

fn tell_problems(events: &Events, present: &[Problem]) {
    let mut recent = events.lock();
    let before = recent.problems.get_or_insert_default();
    let missing = |these: &[Problem], from: &[Problem]| -> Vec<StatusProblem> {
        these
            .iter()
            .filter(|problem| !from.contains(problem))
            .map(StatusProblem::from)
            .collect()
    };
    let problems = Problems {
        appeared: missing(present, before),
        cleared: missing(before, present),
    };
    if problems.appeared.is_empty() && problems.cleared.is_empty() {
        return;
    }
    *before = present.to_vec();
    // Told under the lock: who subscribes meanwhile begins either before or after it.
    events.tell(Event::Problems(problems));
}
