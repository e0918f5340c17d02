//! `Idempotency-Key`: a request that its caller repeats is answered as it was the first time, and not done twice.

use std::sync::Arc;

use adit_api::problem::Problem;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{HeaderName, HeaderValue};
use axum::http::{Method, Response};
use axum::middleware::Next;
use axum::response::IntoResponse as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::answer::{Answer, Failure};
use super::authority::hexadecimal;
use super::request::{invalid, read_body};
use crate::answers::Repeatable;
use crate::caller::Caller;
use crate::control::{Committed, Control};
use crate::writer::seconds_since_1970;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const LONGEST_KEY: usize = 255;

/// A request whose caller may repeat it.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// A digest of the caller and its key.
    key: String,
    /// A digest of what is asked for.
    request: String,
}

/// What is kept of an answer.
#[derive(Serialize, Deserialize)]
struct Told {
    revision: u64,
    answer: Answer,
}

impl Attempt {
    /// The attempt with what will be told when it is repeated; nothing in that may be a secret.
    pub(super) fn repeatable(
        self,
        tell: impl FnOnce(&Committed) -> Result<Answer, Failure> + Send + 'static,
    ) -> Repeatable {
        Repeatable {
            key: self.key,
            request: self.request,
            tell: Box::new(move |committed| {
                let told = Told {
                    revision: committed.revision,
                    answer: tell(committed).unwrap_or_else(Answer::from),
                };
                serde_json::to_string(&told).unwrap_or_default()
            }),
        }
    }
}

/// Answers repeated requests. It stands behind whatever says who may ask.
pub(super) async fn layer(
    State(control): State<Arc<Control>>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response<Body> {
    let is_change = [Method::POST, Method::PATCH, Method::DELETE].contains(request.method());
    if !is_change || !request.headers().contains_key(KEY) {
        return next.run(request).await;
    }
    match answer(&control, caller, request, next).await {
        Ok(response) => response,
        Err(failure) => failure.into_response(),
    }
}

async fn answer(
    control: &Control,
    caller: Caller,
    request: Request,
    next: Next,
) -> Result<Response<Body>, Failure> {
    let key = key(&request)?;
    let (mut parts, body) = request.into_parts();
    let body = read_body(Request::from_parts(parts.clone(), body)).await?;
    let target = parts
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    let attempt = Attempt {
        key: digest(&[caller.identity().as_bytes(), key.as_bytes()]),
        request: digest(&[parts.method.as_str().as_bytes(), target.as_bytes(), &body]),
    };
    if let Some(response) = told(control, &attempt).await? {
        return Ok(response);
    }
    parts.extensions.insert(attempt.clone());
    let request = Request::from_parts(parts, Body::from(body));
    let response = next.run(request).await;
    if response.status().is_success() {
        return Ok(response);
    }
    // The same request may have arrived twice at once, and the other one came first.
    Ok(told(control, &attempt).await?.unwrap_or(response))
}

/// What was told before, when this host's kernel has it.
async fn told(control: &Control, attempt: &Attempt) -> Result<Option<Response<Body>>, Failure> {
    let Some(kept) = control.answers.get(&attempt.key, seconds_since_1970()) else {
        return Ok(None);
    };
    if kept.request != attempt.request {
        return Err(Problem::new(
            422,
            "idempotency-mismatch",
            "another request was made with this `Idempotency-Key`",
            "take a new key for each request, and the same one only to repeat it",
        )
        .into());
    }
    let Ok(told) = serde_json::from_str::<Told>(&kept.body) else {
        return Err(Problem::new(
            409,
            "idempotency-unreadable",
            "this request was made before, by a version of Adit whose answer cannot be read",
            "look at what there is, and take a new key for the next request",
        )
        .into());
    };
    control.applied(told.revision).await?;
    let mut response = told.answer.into_response();
    let headers = response.headers_mut();
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(Some(response))
}

fn key(request: &Request) -> Result<String, Failure> {
    let refuse = || {
        invalid(format!(
            "`Idempotency-Key`: it takes one text of 1 to {LONGEST_KEY} visible ASCII characters, such as a UUID"
        ))
    };
    let mut values = request.headers().get_all(KEY).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(refuse().into());
    };
    let text = value.to_str().map_err(|_| refuse())?.trim();
    // As a string of RFC 9651, or bare.
    let text = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text);
    let is_fit =
        (1..=LONGEST_KEY).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_fit {
        Ok(text.to_owned())
    } else {
        Err(refuse().into())
    }
}

/// Of all parts, each after its length, in hexadecimal.
fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hexadecimal(&hash.finalize())
}
