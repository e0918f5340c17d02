//! Answers: problems as RFC 9457 wants them, and what a committed change did.

use std::collections::BTreeMap;

use adit_api::problem::{MEDIA_TYPE, Problem};
use adit_api::types::{Removed, RemovedCounts};
use adit_model::edit::{Edit, Key, Object};
use adit_model::refusal::Refusal;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::openapi::{
    ContentBuilder, Ref, RefOr, Response as DocumentedResponse, ResponseBuilder,
};
use utoipa::{IntoResponses, ToSchema as _};

use super::condition::tag;
use super::confirmation::CONFIRM_WITHIN;
use super::guard::not_allowed;
use crate::control::{ChangeError, Committed};

/// The code of a change that is stored, and not in force yet.
pub(super) const NOT_APPLIED: &str = "not-applied";

/// An answer of one object, or a refusal, in a form that can be kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    status: u16,
    /// The object's.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    /// The path of an object that was added.
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    /// Seconds within which the change has to be confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confirm_within: Option<u64>,
    /// JSON.
    body: String,
}

impl Answer {
    /// An object, with its version where it has one.
    pub(super) fn of(version: Option<u64>, body: &impl Serialize) -> Result<Self, Failure> {
        let body = serde_json::to_string(body).map_err(|error| {
            Problem::new(500, "unwritable", error.to_string(), "report this as a bug")
        })?;
        Ok(Self {
            status: StatusCode::OK.as_u16(),
            version,
            location: None,
            confirm_within: None,
            body,
        })
    }

    /// With what is to be confirmed of a change, if anything is.
    pub(super) fn awaiting(self, committed: &Committed, now: u64) -> Self {
        let awaiting = committed.edits.iter().find_map(|edit| match edit {
            Edit::Set(Object::Confirmation(confirmation)) => Some(confirmation.deadline),
            Edit::Set(_) | Edit::Remove(_) => None,
        });
        Self {
            confirm_within: awaiting.map(|deadline| deadline.saturating_sub(now)),
            ..self
        }
    }

    /// The same for an object that was added.
    pub(super) fn created(self, path: &str, id: u64) -> Self {
        Self {
            status: StatusCode::CREATED.as_u16(),
            location: Some(format!("{}{path}/{id}", super::PREFIX)),
            ..self
        }
    }

    /// The caller has it already (RFC 9110 section 15.4.5).
    pub(super) fn unchanged(self) -> Response {
        (StatusCode::NOT_MODIFIED, self.headers()).into_response()
    }

    fn headers(&self) -> HeaderMap {
        let tag = self.version.map(|version| (ETAG, tag(version)));
        let location = self.location.clone().map(|path| (LOCATION, path));
        let within = self
            .confirm_within
            .map(|seconds| (CONFIRM_WITHIN, seconds.to_string()));
        tag.into_iter()
            .chain(location)
            .chain(within)
            .filter_map(|(name, text)| Some((name, HeaderValue::try_from(text).ok()?)))
            .collect()
    }
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        Self {
            status: failure.0.status,
            version: None,
            location: None,
            confirm_within: None,
            body: serde_json::to_string(&failure.0).unwrap_or_default(),
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let media_type = if status.is_success() {
            "application/json"
        } else {
            MEDIA_TYPE
        };
        let media_type = [(CONTENT_TYPE, media_type)];
        (status, media_type, self.headers(), self.body).into_response()
    }
}

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
            ChangeError::Forbidden => return not_allowed(),
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
                    NOT_APPLIED,
                    format!(
                        "the change is stored, but not all of it is in force; it is tried again. {}",
                        told.join("; ")
                    ),
                    fix,
                )
            }
            ChangeError::Repeated => Problem::new(
                409,
                "idempotency-in-progress",
                "another request with this `Idempotency-Key` is at work",
                "repeat the request in a moment, and its answer is there",
            ),
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
        Answer::from(self).into_response()
    }
}

/// No answer is stored on its way: some hold secrets, and all are about this moment.
pub(super) async fn keep_private(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
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
pub(super) fn removed(committed: &Committed, own: impl Fn(Key) -> bool) -> Removed {
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
            Key::Lease(_) => removed.leases += 1,
            Key::Delegation(_) => removed.delegations += 1,
            Key::Token(_) => removed.tokens += 1,
            Key::Uplink(_) | Key::Subnet(_) | Key::Settings | Key::Sequence | Key::Confirmation => {
            }
        }
    }
    Removed { removed }
}
