//! Pinholes.

use std::sync::Arc;

use adit_api::types::Removed;
use adit_api::types::page::PortPageQuery;
use adit_api::types::pinhole::{AddPinhole, Pinhole, Pinholes, SetPinhole};
use adit_model::change::Change;
use adit_model::edit::Key;
use adit_model::refusal::Refusal;
use adit_model::state;
use axum::Json;
use axum::extract::State;
use axum::response::Response;

use super::answer::{Answer, Failure};
use super::kind::{self, Kind, Page};
use super::request::{Body, Query, Reference, Terms};
use super::view;
use crate::caller::Caller;
use crate::control::{Control, Snapshot};

impl Kind for state::Pinhole {
    type View = Pinhole;

    const NAME: &'static str = "pinhole";
    const PATH: &'static str = "/pinholes";

    fn find<'a>(state: &'a state::State, reference: &str) -> Result<&'a Self, Refusal> {
        state.pinhole(reference)
    }

    fn all(state: &state::State) -> impl Iterator<Item = &Self> {
        state.pinholes.values()
    }

    fn key(&self) -> Key {
        Key::Pinhole(self.id)
    }

    fn view(&self, snapshot: &Snapshot) -> Pinhole {
        view::pinhole(snapshot, self)
    }

    fn others(&self, state: &state::State) -> Vec<Key> {
        view::keys_of_device(state, self.device)
    }
}

/// All pinholes, or a part of them.
#[utoipa::path(
    get,
    path = "/pinholes",
    operation_id = "list_pinholes",
    tag = "pinholes",
    params(PortPageQuery),
    responses((status = 200, description = "The pinholes", body = Pinholes), Failure)
)]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Query(query): Query<PortPageQuery>,
) -> Result<Json<Pinholes>, Failure> {
    let snapshot = control.snapshot();
    let state = &snapshot.state;
    let device = query.device.as_deref();
    let owner = device.map(|device| kind::visible_device(state, &caller, device));
    let owner = owner.transpose()?;
    let page = Page {
        limit: query.limit,
        after: query.after,
        filter: owner.map(|owner| ("device", owner.id.0)),
    };
    let (pinholes, further) = page.cut(state, |pinhole: &state::Pinhole| {
        caller.sees(pinhole.device) && owner.is_none_or(|owner| pinhole.device == owner.id)
    })?;
    let views = pinholes.into_iter();
    let views = views.map(|pinhole| (pinhole.id.0, pinhole.view(&snapshot)));
    let leases = state.leases.values().filter(|lease| {
        caller.sees(lease.device) && owner.is_none_or(|owner| lease.device == owner.id)
    });
    let leases =
        leases.filter_map(|lease| Some((lease.id.0, view::pinhole_of_lease(&snapshot, lease)?)));
    let path = <state::Pinhole as Kind>::PATH;
    let (pinholes, next) = kind::merged(&page, path, (views.collect(), further), leases);
    Ok(Json(Pinholes { pinholes, next }))
}

/// One pinhole.
#[utoipa::path(
    get,
    path = "/pinholes/{id}",
    operation_id = "show_pinhole",
    tag = "pinholes",
    params(("id" = String, Path, description = "Id", example = "12")),
    responses((status = 200, description = "The pinhole", body = Pinhole), Failure)
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(reference): Reference,
) -> Result<Response, Failure> {
    kind::show::<state::Pinhole>(&control.snapshot(), &terms, &reference)
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
    terms: Terms,
    Body(request): Body<AddPinhole>,
) -> Result<Answer, Failure> {
    kind::add::<state::Pinhole>(&control, terms, Change::AddPinhole(request.into())).await
}

/// Changes a pinhole.
#[utoipa::path(
    patch,
    path = "/pinholes/{id}",
    operation_id = "set_pinhole",
    tag = "pinholes",
    params(("id" = String, Path, description = "Id", example = "12")),
    request_body = SetPinhole,
    responses((status = 200, description = "The pinhole", body = Pinhole), Failure)
)]
pub(super) async fn set(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(reference): Reference,
    Body(request): Body<SetPinhole>,
) -> Result<Answer, Failure> {
    let change = Change::SetPinhole(reference.clone(), request.into());
    let base = control.snapshot();
    kind::set::<state::Pinhole>(&control, terms, &reference, change, base).await
}

/// Removes a pinhole.
#[utoipa::path(
    delete,
    path = "/pinholes/{id}",
    operation_id = "remove_pinhole",
    tag = "pinholes",
    params(("id" = String, Path, description = "Id", example = "12")),
    responses((status = 200, description = "Removed", body = Removed), Failure)
)]
pub(super) async fn remove(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(reference): Reference,
) -> Result<Answer, Failure> {
    let change = Change::RemovePinhole(reference.clone());
    kind::remove::<state::Pinhole>(&control, terms, &reference, change).await
}
