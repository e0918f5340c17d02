//! Uplinks.

use std::sync::Arc;

use adit_api::types::uplink::{SetUplink, Uplink, Uplinks};
use adit_model::change::Change;
use adit_model::edit::Key;
use adit_model::refusal::Refusal;
use adit_model::state::UplinkId;
use adit_model::uplink;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};

use super::answer::{Answer, Failure};
use super::kind;
use super::request::{Body, Reference, Terms};
use super::view;
use crate::control::{Control, Snapshot};

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
    params(("name" = String, Path, description = "Its interface", example = "eth0")),
    responses((status = 200, description = "The uplink", body = Uplink), Failure)
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(name): Reference,
) -> Result<Response, Failure> {
    let snapshot = control.snapshot();
    let uplink = find(&snapshot, &name)?;
    let (state, key) = (&snapshot.state, key(uplink));
    if let Some(expected) = terms.conditions.expected(key) {
        expected.check(state)?;
    }
    let answer = answer(&snapshot, uplink)?;
    if terms.conditions.is_known(state, key, &[]) {
        return Ok(answer.unchanged());
    }
    Ok(answer.into_response())
}

/// Changes what was said about an uplink.
#[utoipa::path(
    patch,
    path = "/uplinks/{name}",
    operation_id = "set_uplink",
    tag = "uplinks",
    params(("name" = String, Path, description = "Its interface", example = "eth0")),
    request_body = SetUplink,
    responses((status = 200, description = "The uplink", body = Uplink), Failure)
)]
pub(super) async fn set(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(name): Reference,
    Body(request): Body<SetUplink>,
) -> Result<Answer, Failure> {
    let change = Change::SetUplink(Some(name.clone()), request.into());
    let base = control.snapshot();
    let key = find(&base, &name).ok().map(key);
    kind::make(&control, terms, change, key, base, move |snapshot, _, _| {
        answer(snapshot, find(snapshot, &name)?)
    })
    .await
}

fn find<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a uplink::Uplink, Refusal> {
    let mut uplinks = snapshot.uplinks.iter();
    let found = uplinks.find(|uplink| uplink.name == name);
    found.ok_or_else(|| Refusal::UplinkUnknown {
        name: name.to_owned(),
    })
}

fn key(uplink: &uplink::Uplink) -> Key {
    Key::Uplink(UplinkId(uplink.id))
}

fn answer(snapshot: &Snapshot, uplink: &uplink::Uplink) -> Result<Answer, Failure> {
    let version = snapshot.state.version(key(uplink));
    Answer::of(version, &view::uplink(snapshot, uplink))
}
