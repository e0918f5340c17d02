//! Everything that is kept, for a backup, and a backup put in its place. Both are the administrator's alone.

use std::sync::Arc;

use adit_api::problem::Problem;
use adit_api::types::backup::{Backup, Kept, Restoring};
use axum::extract::State;

use super::answer::{Answer, Failure};
use super::request::{Body, Terms};
use crate::backup;
use crate::control::Control;

/// Everything that is committed, with the secrets of devices. The gateway's private key is not part of any answer. Not a
/// GET, so that nothing on the way keeps it.
#[utoipa::path(
    post,
    path = "/backup",
    operation_id = "make_backup",
    tag = "gateway",
    responses((status = 200, description = "The whole state", body = Kept), Failure)
)]
pub(super) async fn make(
    State(control): State<Arc<Control>>,
    terms: Terms,
) -> Result<Answer, Failure> {
    let snapshot = control.snapshot();
    control.audit.backed_up(&terms.caller).await;
    let kept = backup::kept(&snapshot.state, &snapshot.facts, &control.state_dir);
    Answer::of(None, &kept)
}

/// Puts a backup in the place of the state, private key included. What was there is kept under other names in the state
/// directory. The daemon begins anew right after the answer.
#[utoipa::path(
    post,
    path = "/restore",
    operation_id = "restore_backup",
    tag = "gateway",
    request_body = Backup,
    responses((status = 200, description = "It is written down, and put in place now", body = Restoring), Failure)
)]
pub(super) async fn restore(
    State(control): State<Arc<Control>>,
    Body(backup): Body<Backup>,
) -> Result<Answer, Failure> {
    let revision = backup.revision.max(control.state.borrow().revision + 1);
    let directory = control.state_dir.clone();
    let staged = tokio::task::spawn_blocking(move || {
        backup::check(&backup)?;
        backup::stage(&directory, &backup)
    });
    let refuse = |reason: String| {
        Problem::new(
            422,
            "backup-unusable",
            format!("the backup was not restored: {reason}"),
            "mend what the message names; nothing was changed",
        )
    };
    let staged = staged.await.map_err(|error| refuse(error.to_string()))?;
    staged.map_err(|error| refuse(format!("{error:#}")))?;
    control.restart.notify_one();
    Answer::of(None, &Restoring { revision })
}
