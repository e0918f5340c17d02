//! What has to be confirmed of a change, as requests say it, and the confirmation itself.

use std::net::IpAddr;
use std::sync::Arc;

use adit_api::types::confirmation::Confirmed;
use adit_model::change::Change;
use adit_model::confirmation::BOUNDS;
use axum::extract::State;
use axum::http::HeaderName;
use axum::http::request::Parts;

use super::answer::{Answer, Failure};
use super::kind;
use super::request::{Terms, invalid};
use crate::caller::Caller;
use crate::confirmation::Confirm;
use crate::control::Control;

pub(super) const CONFIRM_WITHIN: HeaderName = HeaderName::from_static("confirm-within");
/// Where a user of this host comes from, as its shell says.
const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("client-address");

/// Confirms the change that awaits it, which stays then.
#[utoipa::path(
    post,
    path = "/confirm",
    operation_id = "confirm_change",
    tag = "gateway",
    responses((status = 200, description = "The change stays", body = Confirmed), Failure)
)]
pub(super) async fn confirm(
    State(control): State<Arc<Control>>,
    terms: Terms,
) -> Result<Answer, Failure> {
    let base = control.snapshot();
    let confirmation = base.state.confirmation.as_ref();
    let confirmed = confirmation.map_or(0, |confirmation| confirmation.revision);
    let change = Change::Confirm;
    kind::make(
        &control,
        terms,
        change,
        None,
        base,
        move |_, committed, _| {
            let revision = committed.revision;
            let told = Confirmed {
                revision,
                confirmed,
            };
            Answer::of(None, &told)
        },
    )
    .await
}

/// What the headers of a request say about it; else it depends on where the caller comes from.
pub(super) fn wish(parts: &Parts, caller: &Caller) -> Result<Confirm, Failure> {
    let text = |name: &HeaderName| {
        let value = parts.headers.get(name);
        value.map(|value| value.to_str().unwrap_or_default())
    };
    let (least, most) = BOUNDS;
    match text(&CONFIRM_WITHIN) {
        Some("off") => return Ok(Confirm::Never),
        Some(text) => {
            let seconds = text.parse().ok();
            let seconds = seconds.filter(|seconds| (least..=most).contains(seconds));
            return seconds.map(Confirm::Within).ok_or_else(|| {
                let detail = format!(
                    "`{CONFIRM_WITHIN}`: it takes a number of seconds from {least} to {most}, or `off`"
                );
                invalid(detail).into()
            });
        }
        None => {}
    }
    let source: Option<IpAddr> = match caller {
        Caller::Token(bearer) => Some(bearer.source),
        Caller::User { .. } => text(&CLIENT_ADDRESS).and_then(|text| text.parse().ok()),
        Caller::Gateway => None,
    };
    Ok(source.map_or(Confirm::Never, |source| {
        Confirm::Usual(source.to_canonical())
    }))
}
