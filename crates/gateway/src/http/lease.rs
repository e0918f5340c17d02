//! Leases.

use std::sync::Arc;

use adit_api::types::Removed;
use adit_api::types::lease::{Lease, Leases};
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
use super::request::{Query, Reference, Terms};
use super::view;
use crate::caller::Caller;
use crate::control::{Control, Snapshot};

impl Kind for state::Lease {
    type View = Lease;

    const NAME: &'static str = "lease";
    const PATH: &'static str = "/leases";

    fn find<'a>(state: &'a state::State, reference: &str) -> Result<&'a Self, Refusal> {
        state.lease(reference)
    }

    fn all(state: &state::State) -> impl Iterator<Item = &Self> {
        state.leases.values().filter(|lease| lease.is_open())
    }

    fn key(&self) -> Key {
        Key::Lease(self.id)
    }

    fn view(&self, snapshot: &Snapshot) -> Lease {
        view::lease(snapshot, self)
    }

    fn others(&self, state: &state::State) -> Vec<Key> {
        let mut keys = view::keys_of_device(state, self.device);
        keys.extend(self.asking.map(Key::Device));
        keys
    }
}

/// All leases, or a part of them.
#[utoipa::path(
    get,
    path = "/leases",
    operation_id = "list_leases",
    tag = "leases",
    params(PortPageQuery),
    responses((status = 200, description = "The leases", body = Leases), Failure)
)]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Query(query): Query<PortPageQuery>,
) -> Result<Json<Leases>, Failure> {
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
    let (leases, next) = page.cut(state, |lease: &state::Lease| {
        caller.sees(lease.device) && owner.is_none_or(|owner| lease.device == owner.id)
    })?;
    let views = leases.into_iter().map(|lease| lease.view(&snapshot));
    Ok(Json(Leases {
        leases: views.collect(),
        next,
    }))
}

/// One lease.
#[utoipa::path(
    get,
    path = "/leases/{id}",
    operation_id = "show_lease",
    tag = "leases",
    params(("id" = String, Path, description = "Id", example = "12")),
    responses((status = 200, description = "The lease", body = Lease), Failure)
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(reference): Reference,
) -> Result<Response, Failure> {
    kind::show::<state::Lease>(&control.snapshot(), &terms, &reference)
}

/// Removes a lease. Its device may ask for the port again.
#[utoipa::path(
    delete,
    path = "/leases/{id}",
    operation_id = "remove_lease",
    tag = "leases",
    params(("id" = String, Path, description = "Id", example = "12")),
    responses((status = 200, description = "Removed", body = Removed), Failure)
)]
pub(super) async fn remove(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(reference): Reference,
) -> Result<Answer, Failure> {
    let change = Change::RemoveLease(reference.clone());
    kind::remove::<state::Lease>(&control, terms, &reference, change).await
}
