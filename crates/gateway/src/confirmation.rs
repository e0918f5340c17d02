//! Changes that are taken back unless somebody confirms them: what a caller wants of it, and who watches the time.

use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use adit_model::change::Change;
use adit_model::state::State;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::caller::Caller;
use crate::control::{ChangeError, Control};
use crate::writer::seconds_since_1970;

/// How soon a change that could not be taken back is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What a caller wants confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// Nothing.
    Never,
    /// A change that may cut off whoever comes from this address.
    Usual(IpAddr),
    /// Its change, within so many seconds.
    Within(u64),
}

/// Takes back what is not confirmed in time. What a former run of the daemon left unconfirmed is taken back at once: it ended
/// in between, and nobody knows for how long; the clock may be another, too.
pub(crate) async fn watch(
    control: Weak<Control>,
    mut state: watch::Receiver<Arc<State>>,
    inherited: Option<u64>,
) {
    // The clock of the deadline may be set in the meantime.
    let mut due: Option<(u64, Instant)> = inherited.map(|revision| (revision, Instant::now()));
    loop {
        let awaiting = state.borrow_and_update().confirmation.clone();
        let Some(confirmation) = awaiting else {
            due = None;
            if state.changed().await.is_err() {
                return;
            }
            continue;
        };
        let revision = confirmation.revision;
        let at = match due {
            Some((known, at)) if known == revision => at,
            Some(_) | None => {
                let left = confirmation.deadline.saturating_sub(seconds_since_1970());
                Instant::now() + Duration::from_secs(left)
            }
        };
        due = Some((revision, at));
        tokio::select! {
            () = sleep_until(at) => {
                let Some(control) = control.upgrade() else {
                    return;
                };
                if !take_back(&control, revision).await {
                    due = Some((revision, Instant::now() + AGAIN));
                }
            }
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Whether it is taken back, or was settled otherwise.
async fn take_back(control: &Control, revision: u64) -> bool {
    tracing::warn!(revision, "the change was not confirmed, and is taken back");
    let change = Change::TakeBack(revision);
    match control.change(change, Caller::Gateway, None).await {
        Ok(_) | Err(ChangeError::Apply { .. }) => true,
        Err(error) => {
            tracing::error!(?error, revision, "the change could not be taken back yet");
            false
        }
    }
}
