//! The settings.

use std::sync::Arc;

use adit_api::types::settings::{SetSettings, Settings};
use adit_model::change::Change;
use axum::Json;
use axum::extract::State;

use super::answer::Failure;
use super::request::Body;
use super::view;
use crate::caller::Caller;
use crate::control::Control;

/// The settings.
#[utoipa::path(
    get,
    path = "/settings",
    operation_id = "show_settings",
    tag = "settings",
    responses((status = 200, description = "The settings", body = Settings), Failure)
)]
pub(super) async fn show(State(control): State<Arc<Control>>) -> Json<Settings> {
    Json(view::settings(&control.snapshot()))
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
    caller: Caller,
    Body(request): Body<SetSettings>,
) -> Result<Json<Settings>, Failure> {
    control
        .change(Change::SetSettings(request.into()), caller, None)
        .await?;
    Ok(Json(view::settings(&control.snapshot())))
}
