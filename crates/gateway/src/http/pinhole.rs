//! Pinholes.

use std::sync::Arc;

use adit_api::types::Removed;
use adit_api::types::pinhole::{AddPinhole, Pinhole, Pinholes, SetPinhole};
use adit_model::change::Change;
use adit_model::edit::{Edit, Key, Object};
use adit_model::state::PinholeId;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::answer::{Failure, removed, vanished};
use super::request::{Body, Reference};
use super::view;
use crate::caller::Caller;
use crate::control::Control;

/// All pinholes.
#[utoipa::path(
    get,
    path = "/pinholes",
    operation_id = "list_pinholes",
    tag = "pinholes",
    responses((status = 200, description = "All pinholes", body = Pinholes), Failure)
)]
pub(super) async fn list(State(control): State<Arc<Control>>) -> Json<Pinholes> {
    let snapshot = control.snapshot();
    let pinholes = snapshot.state.pinholes.values();
    let pinholes = pinholes
        .map(|pinhole| view::pinhole(&snapshot, pinhole))
        .collect();
    Json(Pinholes { pinholes })
}

/// One pinhole.
#[utoipa::path(
    get,
    path = "/pinholes/{id}",
    operation_id = "show_pinhole",
    tag = "pinholes",
    params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "The pinhole", body = Pinhole), Failure)
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    Reference(reference): Reference,
) -> Result<Json<Pinhole>, Failure> {
    let id = control.snapshot().state.pinhole(&reference)?.id;
    find(&control, Some(id))
}

/// Adds a pinhole.
#[utoipa::path(
    post,
    path = "/pinholes",
    operation_id = "add_pinhole",
    tag = "pinholes",
    request_body = AddPinhole,
    responses((status = 201, description = "The pinhole", body = Pinhole), Failure)
)]
pub(super) async fn add(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Body(request): Body<AddPinhole>,
) -> Result<(StatusCode, Json<Pinhole>), Failure> {
    let committed = control
        .change(Change::AddPinhole(request.into()), caller, None)
        .await?;
    let id = committed.edits.iter().find_map(|edit| match edit {
        Edit::Set(Object::Pinhole(pinhole)) => Some(pinhole.id),
        Edit::Set(_) | Edit::Remove(_) => None,
    });
    Ok((StatusCode::CREATED, find(&control, id)?))
}

/// Changes a pinhole.
#[utoipa::path(
    patch,
    path = "/pinholes/{id}",
    operation_id = "set_pinhole",
    tag = "pinholes",
    params(("id" = String, Path, description = "Id")),
    request_body = SetPinhole,
    responses((status = 200, description = "The pinhole", body = Pinhole), Failure)
)]
pub(super) async fn set(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Reference(reference): Reference,
    Body(request): Body<SetPinhole>,
) -> Result<Json<Pinhole>, Failure> {
    let id = control.snapshot().state.pinhole(&reference)?.id;
    let change = Change::SetPinhole(reference, request.into());
    control.change(change, caller, None).await?;
    find(&control, Some(id))
}

/// Removes a pinhole.
#[utoipa::path(
    delete,
    path = "/pinholes/{id}",
    operation_id = "remove_pinhole",
    tag = "pinholes",
    params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Removed", body = Removed), Failure)
)]
pub(super) async fn remove(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Reference(reference): Reference,
) -> Result<Json<Removed>, Failure> {
    let committed = control
        .change(Change::RemovePinhole(reference), caller, None)
        .await?;
    Ok(removed(&committed, |key| matches!(key, Key::Pinhole(_))))
}

fn find(control: &Control, id: Option<PinholeId>) -> Result<Json<Pinhole>, Failure> {
    let snapshot = control.snapshot();
    let pinhole = id
        .and_then(|id| snapshot.state.pinholes.get(&id))
        .ok_or_else(|| vanished("pinhole"))?;
    Ok(Json(view::pinhole(&snapshot, pinhole)))
}
