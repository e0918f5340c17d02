//! Forwards.

use std::sync::Arc;

use adit_api::types::Removed;
use adit_api::types::forward::{AddForward, Forward, Forwards, SetForward};
use adit_model::change::Change;
use adit_model::edit::{Edit, Key, Object};
use adit_model::state::ForwardId;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::answer::{Failure, removed, vanished};
use super::request::{Body, Reference};
use super::view;
use crate::caller::Caller;
use crate::control::Control;

/// All forwards.
#[utoipa::path(
    get,
    path = "/forwards",
    operation_id = "list_forwards",
    tag = "forwards",
    responses((status = 200, description = "All forwards", body = Forwards), Failure)
)]
pub(super) async fn list(State(control): State<Arc<Control>>) -> Json<Forwards> {
    let snapshot = control.snapshot();
    let forwards = snapshot.state.forwards.values();
    let forwards = forwards
        .map(|forward| view::forward(&snapshot, forward))
        .collect();
    Json(Forwards { forwards })
}

/// One forward.
#[utoipa::path(
    get,
    path = "/forwards/{id}",
    operation_id = "show_forward",
    tag = "forwards",
    params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "The forward", body = Forward), Failure)
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    Reference(reference): Reference,
) -> Result<Json<Forward>, Failure> {
    let id = control.snapshot().state.forward(&reference)?.id;
    find(&control, Some(id))
}

/// Adds a forward.
#[utoipa::path(
    post,
    path = "/forwards",
    operation_id = "add_forward",
    tag = "forwards",
    request_body = AddForward,
    responses((status = 201, description = "The forward", body = Forward), Failure)
)]
pub(super) async fn add(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Body(request): Body<AddForward>,
) -> Result<(StatusCode, Json<Forward>), Failure> {
    let committed = control
        .change(Change::AddForward(request.into()), caller, None)
        .await?;
    let id = committed.edits.iter().find_map(|edit| match edit {
        Edit::Set(Object::Forward(forward)) => Some(forward.id),
        Edit::Set(_) | Edit::Remove(_) => None,
    });
    Ok((StatusCode::CREATED, find(&control, id)?))
}

/// Changes a forward.
#[utoipa::path(
    patch,
    path = "/forwards/{id}",
    operation_id = "set_forward",
    tag = "forwards",
    params(("id" = String, Path, description = "Id")),
    request_body = SetForward,
    responses((status = 200, description = "The forward", body = Forward), Failure)
)]
pub(super) async fn set(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Reference(reference): Reference,
    Body(request): Body<SetForward>,
) -> Result<Json<Forward>, Failure> {
    let id = control.snapshot().state.forward(&reference)?.id;
    let change = Change::SetForward(reference, request.into());
    control.change(change, caller, None).await?;
    find(&control, Some(id))
}

/// Removes a forward.
#[utoipa::path(
    delete,
    path = "/forwards/{id}",
    operation_id = "remove_forward",
    tag = "forwards",
    params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Removed", body = Removed), Failure)
)]
pub(super) async fn remove(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Reference(reference): Reference,
) -> Result<Json<Removed>, Failure> {
    let committed = control
        .change(Change::RemoveForward(reference), caller, None)
        .await?;
    Ok(removed(&committed, |key| matches!(key, Key::Forward(_))))
}

fn find(control: &Control, id: Option<ForwardId>) -> Result<Json<Forward>, Failure> {
    let snapshot = control.snapshot();
    let forward = id
        .and_then(|id| snapshot.state.forwards.get(&id))
        .ok_or_else(|| vanished("forward"))?;
    Ok(Json(view::forward(&snapshot, forward)))
}
