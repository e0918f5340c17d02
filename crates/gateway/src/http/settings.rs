//! The settings.

use std::sync::Arc;

use adit_api::types::settings::{SetSettings, Settings};
use adit_model::change::Change;
use adit_model::edit::Key;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};

use super::answer::{Answer, Failure};
use super::kind;
use super::request::{Body, Terms};
use super::view;
use crate::control::{Control, Snapshot};

/// The settings.
#[utoipa::path(
    get,
    path = "/settings",
    operation_id = "show_settings",
    tag = "settings",
    responses((status = 200, description = "The settings", body = Settings), Failure)
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    terms: Terms,
) -> Result<Response, Failure> {
    let snapshot = control.snapshot();
    if let Some(expected) = terms.conditions.expected(Key::Settings) {
        expected.check(&snapshot.state)?;
    }
    let answer = answer(&snapshot)?;
    if terms
        .conditions
        .is_known(&snapshot.state, Key::Settings, &[])
    {
        return Ok(answer.unchanged());
    }
    Ok(answer.into_response())
}

/// Changes settings.
#[utoipa::path(
    patch,
    path = "/settings",
    operation_id = "set_settings",
    tag = "settings",
    request_body = SetSettings,
    responses((status = 200, description = "The settings", body = Settings), Failure)
)]
pub(super) async fn set(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Body(request): Body<SetSettings>,
) -> Result<Answer, Failure> {
    let change = Change::SetSettings(request.into());
    let key = Some(Key::Settings);
    let base = control.snapshot();
    kind::make(&control, terms, change, key, base, |snapshot, _, _| {
        answer(snapshot)
    })
    .await
}

fn answer(snapshot: &Snapshot) -> Result<Answer, Failure> {
    let version = snapshot.state.version(Key::Settings);
    Answer::of(version, &view::settings(snapshot))
}
