//! API tokens.

use std::sync::Arc;

use adit_api::problem::Problem;
use adit_api::types::Removed;
use adit_api::types::page::PageQuery;
use adit_api::types::token::{AddToken, AddedToken, Token, Tokens};
use adit_model::change::{self, Change};
use adit_model::edit::Key;
use adit_model::refusal::Refusal;
use adit_model::state;
use axum::Json;
use axum::extract::State;
use axum::response::Response;

use super::answer::{Answer, Failure};
use super::authority::{self, hexadecimal};
use super::kind::{self, Audience, Kind, Page};
use super::request::{Body, Query, Reference, Terms};
use super::view;
use crate::control::{Control, Snapshot};

impl Kind for state::Token {
    type View = Token;

    const NAME: &'static str = "token";
    const PATH: &'static str = "/tokens";

    fn find<'a>(state: &'a state::State, reference: &str) -> Result<&'a Self, Refusal> {
        state.token(reference)
    }

    fn all(state: &state::State) -> impl Iterator<Item = &Self> {
        state.tokens.values()
    }

    fn key(&self) -> Key {
        Key::Token(self.id)
    }

    fn view(&self, snapshot: &Snapshot) -> Token {
        view::token(snapshot, self)
    }

    fn others(&self, _: &state::State) -> Vec<Key> {
        self.device.map(Key::Device).into_iter().collect()
    }
}

/// All tokens, without their secrets, or a part of them.
#[utoipa::path(
    get,
    path = "/tokens",
    operation_id = "list_tokens",
    tag = "tokens",
    params(PageQuery),
    responses((status = 200, description = "The tokens", body = Tokens), Failure)
)]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Tokens>, Failure> {
    let snapshot = control.snapshot();
    let page = Page {
        limit: query.limit,
        after: query.after,
        filter: None,
    };
    let (tokens, next) = page.cut(&snapshot.state, |_: &state::Token| true)?;
    let views = tokens.into_iter().map(|token| token.view(&snapshot));
    Ok(Json(Tokens {
        tokens: views.collect(),
        next,
    }))
}

/// One token, without its secret.
#[utoipa::path(
    get,
    path = "/tokens/{reference}",
    operation_id = "show_token",
    tag = "tokens",
    params(("reference" = String, Path, description = "Id or name", example = "dashboard")),
    responses((status = 200, description = "The token", body = Token), Failure)
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(reference): Reference,
) -> Result<Response, Failure> {
    kind::show::<state::Token>(&control.snapshot(), &terms, &reference)
}

/// Adds a token; its secret is in this answer only.
#[utoipa::path(
    post,
    path = "/tokens",
    operation_id = "add_token",
    tag = "tokens",
    request_body = AddToken,
    responses((status = 201, description = "The token and its secret", body = AddedToken), Failure)
)]
pub(super) async fn add(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Body(request): Body<AddToken>,
) -> Result<Answer, Failure> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)
        .map_err(|error| Problem::new(500, "no-random", error.to_string(), "try again"))?;
    let secret = format!("adit_{}", hexadecimal(&random));
    let change = Change::AddToken(change::AddToken {
        name: request.name,
        hash: authority::hash(&secret),
        scopes: request.scopes,
        device: request.device,
        expires: request.expires.map(|time| time.0),
    });
    let base = control.snapshot();
    kind::make(&control, terms, change, None, base, move |snapshot, committed, audience| {
        let token = kind::added::<state::Token>(committed)?;
        let name = &token.name;
        let added = match audience {
            Audience::Caller => AddedToken {
                token: token.view(snapshot),
                secret: Some(secret.clone()),
                next: Vec::new(),
            },
            Audience::Record => AddedToken {
                token: token.view(snapshot),
                secret: None,
                next: vec![format!(
                    "This request was made before, and is not made twice. The token's text was in the first answer only, and is not \
                     stored: if that was lost, `adit token remove {name}` and add another."
                )],
            },
        };
        let answer = Answer::of(snapshot.state.version(token.key()), &added)?;
        Ok(answer.created(state::Token::PATH, token.id.0))
    })
    .await
}

/// Removes a token.
#[utoipa::path(
    delete,
    path = "/tokens/{reference}",
    operation_id = "remove_token",
    tag = "tokens",
    params(("reference" = String, Path, description = "Id or name", example = "dashboard")),
    responses((status = 200, description = "Removed", body = Removed), Failure)
)]
pub(super) async fn remove(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(reference): Reference,
) -> Result<Answer, Failure> {
    let change = Change::RemoveToken(reference.clone());
    kind::remove::<state::Token>(&control, terms, &reference, change).await
}
