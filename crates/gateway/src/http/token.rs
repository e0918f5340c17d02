//! API tokens.

use std::fmt::Write as _;
use std::sync::Arc;

use adit_api::problem::Problem;
use adit_api::types::Removed;
use adit_api::types::token::{AddToken, AddedToken, Token, Tokens};
use adit_model::change::{self, Change};
use adit_model::edit::{Edit, Key, Object};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sha2::{Digest, Sha256};

use super::answer::{Failure, removed, vanished};
use super::request::{Body, Reference};
use super::view;
use crate::caller::Caller;
use crate::control::Control;

/// All tokens, without their secrets.
#[utoipa::path(
    get,
    path = "/tokens",
    operation_id = "list_tokens",
    tag = "tokens",
    responses((status = 200, description = "All tokens", body = Tokens), Failure)
)]
pub(super) async fn list(State(control): State<Arc<Control>>) -> Json<Tokens> {
    let snapshot = control.snapshot();
    let tokens = snapshot.state.tokens.values().map(view::token).collect();
    Json(Tokens { tokens })
}

/// One token, without its secret.
#[utoipa::path(
    get,
    path = "/tokens/{reference}",
    operation_id = "show_token",
    tag = "tokens",
    params(("reference" = String, Path, description = "Id or name")),
    responses((status = 200, description = "The token", body = Token), Failure)
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    Reference(reference): Reference,
) -> Result<Json<Token>, Failure> {
    let snapshot = control.snapshot();
    Ok(Json(view::token(snapshot.state.token(&reference)?)))
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
    caller: Caller,
    Body(request): Body<AddToken>,
) -> Result<(StatusCode, Json<AddedToken>), Failure> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)
        .map_err(|error| Problem::new(500, "no-random", error.to_string(), "try again"))?;
    let secret = format!("adit_{}", hexadecimal(&random));
    let change = Change::AddToken(change::AddToken {
        name: request.name,
        hash: hexadecimal(&Sha256::digest(&secret)),
        scopes: request.scopes,
        expires: request.expires.map(|time| time.0),
    });
    let committed = control.change(change, caller, None).await?;
    let token = committed.edits.iter().find_map(|edit| match edit {
        Edit::Set(Object::Token(token)) => Some(view::token(token)),
        Edit::Set(_) | Edit::Remove(_) => None,
    });
    let token = token.ok_or_else(|| vanished("token"))?;
    Ok((StatusCode::CREATED, Json(AddedToken { token, secret })))
}

/// Removes a token.
#[utoipa::path(
    delete,
    path = "/tokens/{reference}",
    operation_id = "remove_token",
    tag = "tokens",
    params(("reference" = String, Path, description = "Id or name")),
    responses((status = 200, description = "Removed", body = Removed), Failure)
)]
pub(super) async fn remove(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Reference(reference): Reference,
) -> Result<Json<Removed>, Failure> {
    let committed = control
        .change(Change::RemoveToken(reference), caller, None)
        .await?;
    Ok(removed(&committed, |key| matches!(key, Key::Token(_))))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
