//! What a request over TCP has to get past: whom it is for, whose it is, what that token allows. A refusal says the same to all.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit_api::problem::Problem;
use adit_model::confinement;
use adit_model::state::{DeviceId, State, Token, TokenId};
use adit_model::uplink;
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request};
use axum::http::StatusCode;
use axum::http::header::{ALLOW, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;

use super::answer::Failure;
use super::attempts::{Allowance, Attempts};
use super::authority::{self, Credentials};
use super::origin::{self, Addressee};
use super::scope::{Access, Found, Operations, Reach};
use super::{no_such_method, no_such_path};
use crate::caller::{Bearer, Caller};
use crate::control::Control;
use crate::writer::seconds_since_1970;

/// Decides about requests over TCP.
pub(super) struct Guard {
    control: Arc<Control>,
    operations: Operations,
    names: Vec<String>,
    scheme: &'static str,
    attempts: Mutex<Attempts>,
}

/// The connection that a request came on.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) source: IpAddr,
    pub(super) local: IpAddr,
    /// The token that was used on it last, for whoever ends it when that is void.
    pub(super) holder: Arc<watch::Sender<Option<TokenId>>>,
}

impl Guard {
    pub(super) fn new(
        control: Arc<Control>,
        operations: Operations,
        names: Vec<String>,
        scheme: &'static str,
        allowance: Allowance,
    ) -> Self {
        Self {
            control,
            operations,
            names,
            scheme,
            attempts: Mutex::new(Attempts::new(allowance, Instant::now())),
        }
    }

    /// The layer around everything that is served over TCP.
    pub(super) async fn pass(self: Arc<Self>, request: Request, next: Next) -> Response {
        match self.admit(request).await {
            Ok(request) => next.run(request).await,
            Err(refused) => refused.into_response(),
        }
    }

    async fn admit(&self, request: Request) -> Result<Request, Refused> {
        let (mut parts, body) = request.into_parts();
        let connection = parts.extensions.get::<Connection>().cloned();
        let connection = connection.ok_or(Refused::Unauthorized)?;
        if !self.is_ours(&parts, connection.local) {
            return Err(Refused::Foreign);
        }
        let bearer = self.bearer(&parts, connection.source)?;
        connection.holder.send_replace(Some(bearer.id));
        let caller = Caller::Token(Bearer {
            id: bearer.id,
            name: bearer.name.clone(),
            device: bearer.device,
            source: connection.source,
        });
        self.authorize(&mut parts, &bearer).await?;
        parts.extensions.insert(caller);
        Ok(Request::from_parts(parts, body))
    }

    fn is_ours(&self, parts: &Parts, local: IpAddr) -> bool {
        let is_uplink = |address| {
            let state = Arc::clone(&self.control.state.borrow());
            let facts = Arc::clone(&self.control.facts.borrow());
            let uplinks = uplink::list(&state, &facts);
            uplinks.iter().any(|uplink| uplink.has(address))
        };
        let addressee = Addressee {
            local,
            is_uplink: &is_uplink,
            names: &self.names,
            scheme: self.scheme,
        };
        origin::is_ours(&parts.uri, &parts.headers, addressee)
    }

    /// A good token is let through however many bad ones came from the same source: no one guesses 256 bits, so refusing it
    /// would only let neighbours behind one address lock each other out.
    fn bearer(&self, parts: &Parts, source: IpAddr) -> Result<Token, Refused> {
        let text = match Credentials::of(&parts.headers) {
            Credentials::None => return Err(Refused::Unauthorized),
            Credentials::Malformed => "",
            Credentials::Token(text) => text,
        };
        let state = Arc::clone(&self.control.state.borrow());
        if let Some(token) = authority::find(&state, text, seconds_since_1970()) {
            return Ok(token.clone());
        }
        self.control.audit.credentials_refused(source);
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        match attempts.fail(source, Instant::now()) {
            Ok(()) => {
                tracing::debug!(%source, "a token that is not valid");
                Err(Refused::Unauthorized)
            }
            Err(too_many) => {
                if too_many.is_new {
                    tracing::warn!(%source, "too many tokens that are not valid; no more of them are logged");
                }
                Err(Refused::Exhausted {
                    retry_after: too_many.retry_after,
                })
            }
        }
    }

    async fn authorize(&self, parts: &mut Parts, token: &Token) -> Result<(), Refused> {
        let path = parts
            .extensions
            .get::<MatchedPath>()
            .map(MatchedPath::as_str);
        let access = match self.operations.find(path, &parts.method) {
            Found::Operation(access) => access,
            // What there is beyond its device is not for this token to know.
            Found::NoSuchMethod | Found::NoSuchPath if token.device.is_some() => {
                return Err(Refused::Forbidden);
            }
            Found::NoSuchMethod => {
                let answer = no_such_method(parts.method.clone(), parts.uri.clone());
                return Err(Refused::Failed(answer.await));
            }
            Found::NoSuchPath => {
                return Err(Refused::Failed(no_such_path(parts.uri.clone()).await));
            }
        };
        let Access::Token { scopes, reach } = access else {
            return Err(Refused::Forbidden);
        };
        if !scopes.iter().all(|scope| token.scopes.contains(scope)) {
            return Err(Refused::Forbidden);
        }
        let Some(device) = token.device else {
            return Ok(());
        };
        let state = Arc::clone(&self.control.state.borrow());
        let named = named(parts).await;
        if reaches(&state, reach, named.as_deref(), device) {
            Ok(())
        } else {
            Err(Refused::Forbidden)
        }
    }
}

/// Takes from a refusal what tells one path from another.
pub(super) async fn same_for_all(mut answer: Response) -> Response {
    if answer.status() != StatusCode::METHOD_NOT_ALLOWED {
        answer.headers_mut().remove(ALLOW);
    }
    answer
}

/// No program sends an `Origin` to the administrator's socket but a browser that was led to it.
pub(super) async fn refuse_browsers(request: Request, next: Next) -> Response {
    if request.headers().contains_key(ORIGIN) {
        return Refused::Foreign.into_response();
    }
    next.run(request).await
}

/// The token does not allow it. Also what a change is answered with that the writer found to be about others.
pub(super) fn not_allowed() -> Failure {
    Problem::new(
        403,
        "forbidden",
        "the token does not allow this",
        "the administrator makes tokens on the gateway: `adit token add --help` shows what they can allow",
    )
    .into()
}

/// Why a request goes no further. Each says the same whatever was asked for, and tells nothing about what there is.
#[derive(Debug)]
enum Refused {
    /// It is for another host, or from another site.
    Foreign,
    /// It bears no token, or a malformed, an unknown, an expired or a removed one.
    Unauthorized,
    /// The same, and too often.
    Exhausted { retry_after: Duration },
    /// Its token does not allow it.
    Forbidden,
    /// Its token is good, but there is no such thing.
    Failed(Failure),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Foreign => {
                let problem = Problem::new(
                    403,
                    "foreign",
                    "the request is meant for another host, or comes from another site",
                    "call the gateway by its address, or by a name listed under `names` in the `[api]` part of its gateway.toml",
                );
                Failure::from(problem).into_response()
            }
            Self::Unauthorized => {
                let problem = Problem::new(
                    401,
                    "unauthorized",
                    "the request bears no valid token",
                    "send `Authorization: Bearer TOKEN`; the administrator makes one on the gateway: `adit token add NAME`",
                );
                let challenge = [(WWW_AUTHENTICATE, "Bearer realm=\"adit\"")];
                (challenge, Failure::from(problem)).into_response()
            }
            Self::Exhausted { retry_after } => {
                let problem = Problem::new(
                    429,
                    "too-many-attempts",
                    "too many tokens that are not valid came from this address",
                    "wait as `Retry-After` says; a valid token is answered at once",
                );
                let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
                let wait = [(RETRY_AFTER, seconds.to_string())];
                (wait, Failure::from(problem)).into_response()
            }
            Self::Forbidden => not_allowed().into_response(),
            Self::Failed(failure) => failure.into_response(),
        }
    }
}

/// What stands in the path for an object, as handlers read it.
async fn named(parts: &mut Parts) -> Option<String> {
    let parameters = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    let mut values = parameters.iter().map(|(_, value)| value.to_owned());
    values.next()
}

fn reaches(state: &State, reach: Reach, named: Option<&str>, device: DeviceId) -> bool {
    match (reach, named) {
        (Reach::Confined, _) => true,
        (Reach::Device, Some(named)) => state.device(named).is_ok_and(|found| found.id == device),
        (Reach::Forward, Some(named)) => confinement::owns_forward(state, named, device),
        (Reach::Pinhole, Some(named)) => confinement::owns_pinhole(state, named, device),
        (Reach::Lease, Some(named)) => confinement::owns_lease(state, named, device),
        (Reach::Everything | Reach::Device | Reach::Forward | Reach::Pinhole | Reach::Lease, _) => {
            false
        }
    }
}
