//! Subnets.

use std::sync::Arc;

use adit_api::types::Removed;
use adit_api::types::subnet::{AddSubnet, SetSubnet, Subnet, Subnets};
use adit_model::change::Change;
use adit_model::edit::{Edit, Key, Object};
use adit_model::state::SubnetId;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;

use super::answer::{Failure, removed, vanished};
use super::request::{Body, Query, Reference};
use super::view;
use crate::caller::Caller;
use crate::control::Control;

/// How a subnet is to be removed.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveQuery {
    /// Takes its devices along.
    #[serde(default)]
    force: bool,
}

/// All subnets.
#[utoipa::path(
    get,
    path = "/subnets",
    operation_id = "list_subnets",
    tag = "subnets",
    responses((status = 200, description = "All subnets", body = Subnets), Failure)
)]
pub(super) async fn list(State(control): State<Arc<Control>>) -> Json<Subnets> {
    let snapshot = control.snapshot();
    let subnets = snapshot.state.subnets.values();
    let subnets = subnets
        .map(|subnet| view::subnet(&snapshot, subnet))
        .collect();
    Json(Subnets { subnets })
}

/// One subnet.
#[utoipa::path(
    get,
    path = "/subnets/{reference}",
    operation_id = "show_subnet",
    tag = "subnets",
    params(("reference" = String, Path, description = "Id or name")),
    responses((status = 200, description = "The subnet", body = Subnet), Failure)
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    Reference(reference): Reference,
) -> Result<Json<Subnet>, Failure> {
    let snapshot = control.snapshot();
    let subnet = snapshot.state.subnet(&reference)?;
    Ok(Json(view::subnet(&snapshot, subnet)))
}

/// Adds a subnet.
#[utoipa::path(
    post,
    path = "/subnets",
    operation_id = "add_subnet",
    tag = "subnets",
    request_body = AddSubnet,
    responses((status = 201, description = "The subnet", body = Subnet), Failure)
)]
pub(super) async fn add(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Body(request): Body<AddSubnet>,
) -> Result<(StatusCode, Json<Subnet>), Failure> {
    let committed = control
        .change(Change::AddSubnet(request.into()), caller, None)
        .await?;
    let id = committed.edits.iter().find_map(|edit| match edit {
        Edit::Set(Object::Subnet(subnet)) => Some(subnet.id),
        Edit::Set(_) | Edit::Remove(_) => None,
    });
    Ok((StatusCode::CREATED, find(&control, id)?))
}

/// Changes a subnet.
#[utoipa::path(
    patch,
    path = "/subnets/{reference}",
    operation_id = "set_subnet",
    tag = "subnets",
    params(("reference" = String, Path, description = "Id or name")),
    request_body = SetSubnet,
    responses((status = 200, description = "The subnet", body = Subnet), Failure)
)]
pub(super) async fn set(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Reference(reference): Reference,
    Body(request): Body<SetSubnet>,
) -> Result<Json<Subnet>, Failure> {
    let id = control.snapshot().state.subnet(&reference)?.id;
    let change = Change::SetSubnet(reference, request.into());
    control.change(change, caller, None).await?;
    find(&control, Some(id))
}

/// Removes a subnet; with its devices and all that depends on them if forced.
#[utoipa::path(
    delete,
    path = "/subnets/{reference}",
    operation_id = "remove_subnet",
    tag = "subnets",
    params(("reference" = String, Path, description = "Id or name"), RemoveQuery),
    responses((status = 200, description = "Removed", body = Removed), Failure)
)]
pub(super) async fn remove(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Reference(reference): Reference,
    Query(query): Query<RemoveQuery>,
) -> Result<Json<Removed>, Failure> {
    let force = query.force;
    let committed = control
        .change(Change::RemoveSubnet { reference, force }, caller, None)
        .await?;
    Ok(removed(&committed, |key| matches!(key, Key::Subnet(_))))
}

fn find(control: &Control, id: Option<SubnetId>) -> Result<Json<Subnet>, Failure> {
    let snapshot = control.snapshot();
    let subnet = id
        .and_then(|id| snapshot.state.subnets.get(&id))
        .ok_or_else(|| vanished("subnet"))?;
    Ok(Json(view::subnet(&snapshot, subnet)))
}
