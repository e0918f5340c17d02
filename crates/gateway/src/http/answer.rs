//! Answers: problems as RFC 9457 wants them, and what a committed change did.

use std::collections::BTreeMap;

use adit_api::problem::{MEDIA_TYPE, Problem};
use adit_api::types::{Removed, RemovedCounts};
use adit_model::edit::{Edit, Key};
use adit_model::refusal::Refusal;
use axum::Json;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::{
    ContentBuilder, Ref, RefOr, Response as DocumentedResponse, ResponseBuilder,
};
use utoipa::{IntoResponses, ToSchema as _};

use crate::control::{ChangeError, Committed};

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct Failure(pub(super) Box<Problem>);

impl IntoResponses for Failure {
    fn responses() -> BTreeMap<String, RefOr<DocumentedResponse>> {
        let problem = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name(Problem::name())))
            .build();
        let response = ResponseBuilder::new()
            .description("Refused, or failed")
            .content(MEDIA_TYPE, problem)
            .build();
        [("default".to_owned(), response.into())].into()
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Problem::from(&refusal).into()
    }
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Self {
        let problem = match error {
            ChangeError::Refused(refusal) => Problem::from(&refusal),
            ChangeError::Store { message } => Problem::new(
                503,
                "store",
                format!("the change was not made, because it could not be stored: {message}"),
                "see to the disk of the state directory (space, rights, errors) and repeat the change",
            ),
            ChangeError::Apply { problems } => {
                let told: Vec<String> = problems
                    .iter()
                    .map(|problem| format!("{}: {}", problem.object, problem.message))
                    .collect();
                let fix = problems
                    .first()
                    .map_or("`adit status` shows what is missing", |problem| {
                        &problem.fix
                    });
                Problem::new(
                    500,
                    "not-applied",
                    format!(
                        "the change is stored, but not all of it is in force; it is tried again. {}",
                        told.join("; ")
                    ),
                    fix,
                )
            }
            ChangeError::Stopping => Problem::new(
                503,
                "stopping",
                "the gateway is about to end, so it is not known whether the change was made",
                "start the gateway, and look before you repeat the change",
            ),
        };
        problem.into()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(CONTENT_TYPE, MEDIA_TYPE)], Json(self.0)).into_response()
    }
}

/// The object that a change was about is gone by the time of the answer.
pub(super) fn vanished(kind: &str) -> Failure {
    Problem::new(
        409,
        "vanished",
        format!("the change was made, but the {kind} was removed right after it"),
        format!("`adit {kind} list` shows what there is"),
    )
    .into()
}

/// What a removal took along, besides the object itself.
pub(super) fn removed(committed: &Committed, own: impl Fn(Key) -> bool) -> Json<Removed> {
    let mut removed = RemovedCounts::default();
    for edit in &committed.edits {
        let key = match edit {
            Edit::Remove(key) if !own(*key) => *key,
            Edit::Remove(_) | Edit::Set(_) => continue,
        };
        match key {
            Key::Device(_) => removed.devices += 1,
            Key::Forward(_) => removed.forwards += 1,
            Key::Pinhole(_) => removed.pinholes += 1,
            Key::Delegation(_) => removed.delegations += 1,
            Key::Uplink(_) | Key::Subnet(_) | Key::Token(_) | Key::Settings | Key::Sequence => {}
        }
    }
    Json(Removed { removed })
}
