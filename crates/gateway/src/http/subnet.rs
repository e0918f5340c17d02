//! Subnets.

use std::sync::Arc;

use adit_api::types::Removed;
use adit_api::types::page::PageQuery;
use adit_api::types::subnet::{AddSubnet, SetSubnet, Subnet, Subnets};
use adit_model::change::Change;
use adit_model::edit::Key;
use adit_model::refusal::Refusal;
use adit_model::state;
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;

use super::answer::{Answer, Failure};
use super::kind::{self, Kind, Page};
use super::request::{Body, Query, Reference, Terms};
use super::view;
use crate::control::{Control, Snapshot};

/// How a subnet is to be removed.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveQuery {
    /// Takes its devices along.
    #[serde(default)]
    force: bool,
}

impl Kind for state::Subnet {
    type View = Subnet;

    const NAME: &'static str = "subnet";
    const PATH: &'static str = "/subnets";

    fn find<'a>(state: &'a state::State, reference: &str) -> Result<&'a Self, Refusal> {
        state.subnet(reference)
    }

    fn all(state: &state::State) -> impl Iterator<Item = &Self> {
        state.subnets.values()
    }

    fn key(&self) -> Key {
        Key::Subnet(self.id)
    }

    fn view(&self, snapshot: &Snapshot) -> Subnet {
        view::subnet(snapshot, self)
    }

    fn others(&self, state: &state::State) -> Vec<Key> {
        state.uplinks.keys().copied().map(Key::Uplink).collect()
    }
}

/// All subnets, or a part of them.
#[utoipa::path(
    get,
    path = "/subnets",
    operation_id = "list_subnets",
    tag = "subnets",
    params(PageQuery),
    responses((status = 200, description = "The subnets", body = Subnets), Failure)
)]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Subnets>, Failure> {
    let snapshot = control.snapshot();
    let state = &snapshot.state;
    let page = Page {
        limit: query.limit,
        after: query.after,
        filter: None,
    };
    let (subnets, next) = page.cut(state, |_: &state::Subnet| true)?;
    let views = subnets.into_iter().map(|subnet| subnet.view(&snapshot));
    Ok(Json(Subnets {
        subnets: views.collect(),
        next,
    }))
}

/// One subnet.
#[utoipa::path(
    get,
    path = "/subnets/{reference}",
    operation_id = "show_subnet",
    tag = "subnets",
    params(("reference" = String, Path, description = "Id or name", example = "home")),
    responses((status = 200, description = "The subnet", body = Subnet), Failure)
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(reference): Reference,
) -> Result<Response, Failure> {
    kind::show::<state::Subnet>(&control.snapshot(), &terms, &reference)
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
    terms: Terms,
    Body(request): Body<AddSubnet>,
) -> Result<Answer, Failure> {
    kind::add::<state::Subnet>(&control, terms, Change::AddSubnet(request.into())).await
}

/// Changes a subnet.
#[utoipa::path(
    patch,
    path = "/subnets/{reference}",
    operation_id = "set_subnet",
    tag = "subnets",
    params(("reference" = String, Path, description = "Id or name", example = "home")),
    request_body = SetSubnet,
    responses((status = 200, description = "The subnet", body = Subnet), Failure)
)]
pub(super) async fn set(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(reference): Reference,
    Body(request): Body<SetSubnet>,
) -> Result<Answer, Failure> {
    let change = Change::SetSubnet(reference.clone(), request.into());
    let base = control.snapshot();
    kind::set::<state::Subnet>(&control, terms, &reference, change, base).await
}

/// Removes a subnet; with its devices and all that depends on them if forced.
#[utoipa::path(
    delete,
    path = "/subnets/{reference}",
    operation_id = "remove_subnet",
    tag = "subnets",
    params(("reference" = String, Path, description = "Id or name", example = "home"), RemoveQuery),
    responses((status = 200, description = "Removed", body = Removed), Failure)
)]
pub(super) async fn remove(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(reference): Reference,
    Query(query): Query<RemoveQuery>,
) -> Result<Answer, Failure> {
    let change = Change::RemoveSubnet {
        reference: reference.clone(),
        force: query.force,
    };
    kind::remove::<state::Subnet>(&control, terms, &reference, change).await
}
