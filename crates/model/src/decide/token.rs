//! API tokens.

use super::Draft;
use crate::change::AddToken;
use crate::edit::Object;
use crate::name;
use crate::refusal::Refusal;
use crate::state::{Scope, Token, TokenId};

pub(super) fn add(draft: &mut Draft<'_>, wish: AddToken) -> Result<(), Refusal> {
    name::check("token", &wish.name)?;
    if draft
        .state
        .tokens
        .values()
        .any(|token| token.name == wish.name)
    {
        return Err(Refusal::NameTaken {
            kind: "token",
            name: wish.name,
        });
    }
    if wish.expires.is_some_and(|expires| expires <= draft.now) {
        return Err(Refusal::ExpiryPassed { name: wish.name });
    }
    let scopes = if wish.scopes.is_empty() {
        [Scope::Read].into()
    } else {
        wish.scopes
    };
    let device = match &wish.device {
        Some(reference) => Some(draft.state.device(reference)?.id),
        None => None,
    };
    let id = TokenId(draft.next_id());
    draft.set(Object::Token(Token {
        id,
        name: wish.name,
        hash: wish.hash,
        scopes,
        device,
        expires: wish.expires,
    }));
    Ok(())
}
