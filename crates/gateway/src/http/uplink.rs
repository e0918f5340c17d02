//! Uplinks.

use std::sync::Arc;

use adit_api::types::uplink::{SetUplink, Uplink, Uplinks};
use adit_model::change::Change;
use adit_model::refusal::Refusal;
use axum::Json;
use axum::extract::State;

use super::answer::Failure;
use super::request::{Body, Reference};
use super::view;
use crate::caller::Caller;
use crate::control::Control;

/// All uplinks.
#[utoipa::path(
    get,
    path = "/uplinks",
    operation_id = "list_uplinks",
    tag = "uplinks",
    responses((status = 200, description = "All uplinks", body = Uplinks), Failure)
)]
pub(super) async fn list(State(control): State<Arc<Control>>) -> Json<Uplinks> {
    let snapshot = control.snapshot();
    let uplinks = snapshot
        .uplinks
        .iter()
        .map(|uplink| view::uplink(&snapshot, uplink))
        .collect();
    Json(Uplinks { uplinks })
}

/// One uplink.
#[utoipa::path(
    get,
    path = "/uplinks/{name}",
    operation_id = "show_uplink",
    tag = "uplinks",
    params(("name" = String, Path, description = "Its interface")),
    responses((status = 200, description = "The uplink", body = Uplink), Failure)
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    Reference(name): Reference,
) -> Result<Json<Uplink>, Failure> {
    find(&control, name)
}

/// Changes what was said about an uplink.
#[utoipa::path(
    patch,
    path = "/uplinks/{name}",
    operation_id = "set_uplink",
    tag = "uplinks",
    params(("name" = String, Path, description = "Its interface")),
    request_body = SetUplink,
    responses((status = 200, description = "The uplink", body = Uplink), Failure)
)]
pub(super) async fn set(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Reference(name): Reference,
    Body(request): Body<SetUplink>,
) -> Result<Json<Uplink>, Failure> {
    let change = Change::SetUplink(Some(name.clone()), request.into());
    control.change(change, caller, None).await?;
    find(&control, name)
}

fn find(control: &Control, name: String) -> Result<Json<Uplink>, Failure> {
    let snapshot = control.snapshot();
    let uplink = snapshot.uplinks.iter().find(|uplink| uplink.name == name);
    match uplink {
        Some(uplink) => Ok(Json(view::uplink(&snapshot, uplink))),
        None => Err(Refusal::UplinkUnknown { name }.into()),
    }
}
