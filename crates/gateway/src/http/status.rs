//! The state of the whole gateway.

use std::sync::Arc;

use adit_api::types::status::Status;
use axum::Json;
use axum::extract::State;

use super::answer::Failure;
use super::view;
use crate::control::Control;

/// What is up, and what is wrong.
#[utoipa::path(
    get,
    path = "/status",
    operation_id = "show_status",
    tag = "gateway",
    responses((status = 200, description = "The state", body = Status), Failure)
)]
pub(super) async fn show(State(control): State<Arc<Control>>) -> Json<Status> {
    Json(view::status(&control.refreshed().await))
}
