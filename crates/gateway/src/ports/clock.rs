//! Ends leases when their time is over.

use std::sync::{Arc, Weak};
use std::time::Duration;

use adit_model::change::{Change, ExpireLeases};

use super::Promises;
use crate::control::{ChangeError, Control};
use crate::writer::seconds_since_1970;

/// How often it is looked whose time is over.
const TICK: Duration = Duration::from_secs(1);

/// How long after a disk that took nothing it is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// How many ticks pass until what is gone is forgotten.
const FORGETTING: u64 = 60;

/// Works until the daemon ends.
pub(super) async fn run(control: Weak<Control>, promises: Arc<Promises>) {
    // Devices may have expired while nobody looked.
    let mut since = 0;
    let mut ticks = 0_u64;
    loop {
        tokio::time::sleep(TICK).await;
        let Some(control) = control.upgrade() else {
            return;
        };
        let now = seconds_since_1970();
        let state = Arc::clone(&control.state.borrow());
        ticks += 1;
        if ticks.is_multiple_of(FORGETTING) {
            promises.retain(&state);
        }
        let over = promises.take_due(&state, now);
        let is_due = !over.is_empty()
            || state.leases_ended(now).next().is_some()
            || (!state.leases.is_empty() && state.next_expiry(since).is_some_and(|at| at <= now));
        if !is_due {
            since = now;
            continue;
        }
        let change = Change::ExpireLeases(ExpireLeases {
            over: over.clone(),
            since,
        });
        match control.lease(change).await {
            Ok(_) | Err(ChangeError::Apply { .. }) => {
                promises.ended(&over);
                since = now;
            }
            Err(error) => {
                tracing::warn!(?error, "leases that are over could not be ended");
                promises.put_back(&over, now);
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
