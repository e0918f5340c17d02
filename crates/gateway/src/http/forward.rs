//! Forwards.

use std::sync::Arc;

use adit_api::types::Removed;
use adit_api::types::forward::{AddForward, Forward, Forwards, SetForward};
use adit_api::types::page::PortPageQuery;
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

impl Kind for state::Forward {
    type View = Forward;

    const NAME: &'static str = "forward";
    const PATH: &'static str = "/forwards";

    fn find<'a>(state: &'a state::State, reference: &str) -> Result<&'a Self, Refusal> {
        state.forward(reference)
    }

    fn all(state: &state::State) -> impl Iterator<Item = &Self> {
        state.forwards.values()
    }

    fn key(&self) -> Key {
        Key::Forward(self.id)
    }

    fn view(&self, snapshot: &Snapshot) -> Forward {
        view::forward(snapshot, self)
    }

    fn others(&self, state: &state::State) -> Vec<Key> {
        let uplinks = state.uplinks.keys().copied().map(Key::Uplink);
        let mut others = view::keys_of_device(state, self.device);
        others.extend(uplinks);
        others
    }
}

/// All forwards, or a part of them.
#[utoipa::path(
    get,
    path = "/forwards",
    operation_id = "list_forwards",
    tag = "forwards",
    params(PortPageQuery),
    responses((status = 200, description = "The forwards", body = Forwards), Failure)
)]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Query(query): Query<PortPageQuery>,
) -> Result<Json<Forwards>, Failure> {
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
    let (forwards, further) = page.cut(state, |forward: &state::Forward| {
        caller.sees(forward.device) && owner.is_none_or(|owner| forward.device == owner.id)
    })?;
    let views = forwards.into_iter();
    let views = views.map(|forward| (forward.id.0, forward.view(&snapshot)));
    let leases = state.leases.values().filter(|lease| {
        caller.sees(lease.device) && owner.is_none_or(|owner| lease.device == owner.id)
    });
    let leases =
        leases.filter_map(|lease| Some((lease.id.0, view::forward_of_lease(&snapshot, lease)?)));
    let path = <state::Forward as Kind>::PATH;
    let (forwards, next) = kind::merged(&page, path, (views.collect(), further), leases);
    Ok(Json(Forwards { forwards, next }))
}

/// One forward.
#[utoipa::path(
    get,
    path = "/forwards/{id}",
    operation_id = "show_forward",
    tag = "forwards",
    params(("id" = String, Path, description = "Id", example = "12")),
    responses((status = 200, description = "The forward", body = Forward), Failure)
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(reference): Reference,
) -> Result<Response, Failure> {
    kind::show::<state::Forward>(&control.snapshot(), &terms, &reference)
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
    terms: Terms,
    Body(request): Body<AddForward>,
) -> Result<Answer, Failure> {
    kind::add::<state::Forward>(&control, terms, Change::AddForward(request.into())).await
}

/// Changes a forward.
#[utoipa::path(
    patch,
    path = "/forwards/{id}",
    operation_id = "set_forward",
    tag = "forwards",
    params(("id" = String, Path, description = "Id", example = "12")),
    request_body = SetForward,
    responses((status = 200, description = "The forward", body = Forward), Failure)
)]
pub(super) async fn set(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(reference): Reference,
    Body(request): Body<SetForward>,
) -> Result<Answer, Failure> {
    let change = Change::SetForward(reference.clone(), request.into());
    let base = control.snapshot();
    kind::set::<state::Forward>(&control, terms, &reference, change, base).await
}

/// Removes a forward.
#[utoipa::path(
    delete,
    path = "/forwards/{id}",
    operation_id = "remove_forward",
    tag = "forwards",
    params(("id" = String, Path, description = "Id", example = "12")),
    responses((status = 200, description = "Removed", body = Removed), Failure)
)]
pub(super) async fn remove(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(reference): Reference,
) -> Result<Answer, Failure> {
    let change = Change::RemoveForward(reference.clone());
    kind::remove::<state::Forward>(&control, terms, &reference, change).await
}
