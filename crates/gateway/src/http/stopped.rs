//! A daemon's inside without a daemon, for looking at routes alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use adit_model::facts::Facts;
use adit_model::key::PrivateKey;
use adit_model::state::State;
use tokio::sync::{mpsc, watch};

use crate::answers::Answers;
use crate::audit::Audit;
use crate::control::{Control, Progress};
use crate::events::Events;
use crate::metrics::Metrics;

/// A control whose daemon has stopped: it shows an empty state and takes no change.
pub(crate) fn stopped() -> Arc<Control> {
    let progress = Progress {
        dataplane: "kernel",
        revision: None,
        basis: None,
        failing: Vec::new(),
        problems: Vec::new(),
        healed: BTreeMap::new(),
    };
    let events = Events::new(0);
    events.close();
    let facts = Facts {
        gateway_key: Some(PrivateKey::from_random([7; 32]).public_key()),
        ..Facts::default()
    };
    Arc::new(Control {
        state_dir: "/nonexistent".into(),
        origin: None,
        holding: crate::names::Holding::default(),
        restart: Arc::default(),
        audit: Arc::new(Audit::new(mpsc::channel(1).0)),
        events: Arc::new(events),
        metrics: Arc::new(Metrics::new()),
        troubles: Arc::default(),
        promises: Arc::default(),
        exposition: tokio::sync::Mutex::default(),
        requests: mpsc::channel(1).0,
        awaits: mpsc::channel(1).0,
        peers: mpsc::channel(1).0,
        outlooks: mpsc::channel(1).0,
        seen: watch::Sender::default(),
        state: watch::channel(Arc::new(State::default())).1,
        facts: watch::channel(Arc::new(facts)).1,
        foreign: watch::channel(Arc::default()).1,
        progress: watch::channel(progress).1,
        storage: watch::channel(Vec::new()).1,
        interface: "adit0".to_owned(),
        answers: Answers::default(),
        api: watch::channel(None).1,
    })
}
