//! Requests: who asks, the parts of the path, and bodies read so that the answer names the field that is wrong.

use std::time::Duration;

use adit_api::problem::Problem;
use axum::body::{Bytes, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::answer::Failure;
use super::condition::Conditions;
use super::confirmation;
use super::repetition::Attempt;
use super::{LARGEST_BACKUP, LARGEST_DECLARATION, LARGEST_REQUEST};
use crate::caller::Caller;
use crate::confirmation::Confirm;

/// What is below takes whole declarations.
const DECLARATION: &str = "/api/v1/declaration/";
/// And so does this of another server.
const IMPORT: &str = "/api/v1/import";
/// Takes a whole backup.
const RESTORE: &str = "/api/v1/restore";

/// For the whole of a body.
const SLOWEST_BODY: Duration = Duration::from_secs(10);

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

/// The parameters behind the `?`.
pub(super) struct Query<T>(pub(super) T);

/// On which terms something is to be changed, or shown.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) caller: Caller,
    pub(super) conditions: Conditions,
    /// What of it has to be confirmed.
    pub(super) confirm: Confirm,
    /// Where the caller may ask again.
    pub(super) attempt: Option<Attempt>,
}

/// The id or name in the path.
pub(super) struct Reference(pub(super) String);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let is_json = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .is_some_and(|value| value.trim().eq_ignore_ascii_case("application/json"));
        if !is_json {
            return Err(Problem::new(
                415,
                "not-json",
                "the body is not said to be JSON",
                "send it with `Content-Type: application/json`",
            )
            .into());
        }
        let body = read_body(request).await?;
        read(&body).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|query| Self(query.0))
            .map_err(|error| invalid(error.body_text()).into())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Reference {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0))
            .map_err(|error| invalid(error.body_text()).into())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Terms {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let caller = Caller::from_request_parts(parts, state).await?;
        Ok(Self {
            confirm: confirmation::wish(parts, &caller).map_err(IntoResponse::into_response)?,
            caller,
            conditions: Conditions::of(parts).map_err(IntoResponse::into_response)?,
            attempt: parts.extensions.get::<Attempt>().cloned(),
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let caller = parts.extensions.get::<Self>();
        // A listener that does not say who asks lets nobody do anything.
        let unknown = || {
            let problem = Problem::new(
                500,
                "no-caller",
                "it is not known who asks",
                "tell the developers",
            );
            Failure::from(problem).into_response()
        };
        caller.cloned().ok_or_else(unknown)
    }
}

/// The bytes of a body, within bounds of size and time.
pub(super) async fn read_body(request: Request) -> Result<Bytes, Failure> {
    let limit = match request.uri().path() {
        RESTORE => LARGEST_BACKUP,
        IMPORT => LARGEST_DECLARATION,
        path if path.starts_with(DECLARATION) => LARGEST_DECLARATION,
        _ => LARGEST_REQUEST,
    };
    let body = timeout(SLOWEST_BODY, to_bytes(request.into_body(), limit)).await;
    let Ok(body) = body else {
        let detail = format!("the body was not there within {} s", SLOWEST_BODY.as_secs());
        return Err(Problem::new(408, "too-slow", detail, "send the request again").into());
    };
    body.map_err(|error| {
        let error = error.into_inner();
        let problem = if error.is::<LengthLimitError>() {
            let detail = format!("the body is larger than {} KiB", limit >> 10);
            Problem::new(413, "too-large", detail, "make several requests of it")
        } else {
            invalid(error.to_string())
        };
        problem.into()
    })
}

/// A request that does not say what it should.
pub(super) fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(
        400,
        "invalid-request",
        detail,
        "/api/v1/openapi.json describes what each request takes",
    )
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    // Fields in a list, by their order, would be read as well.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(invalid("the body: it takes a JSON object, and this is a list").into());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner();
        let is_field = reason.is_data() && !matches!(path.as_str(), "." | "?");
        // The position in a body that a program wrote helps nobody.
        let position = format!(" at line {} column {}", reason.line(), reason.column());
        let reason = reason.to_string();
        let reason = if is_field {
            format!("`{path}`: {}", reason.trim_end_matches(&position))
        } else {
            format!("the body: {reason}")
        };
        Failure::from(invalid(reason))
    })?;
    deserializer
        .end()
        .map_err(|error| invalid(format!("the body: {error}")))?;
    Ok(value)
}
