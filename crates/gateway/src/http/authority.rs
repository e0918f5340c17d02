//! Tokens: how they are hashed, and whose a request is.

use std::fmt::Write as _;

use adit_model::state::{State, Token};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};

/// What a request brings to say whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Credentials<'a> {
    None,
    /// Something that is not one bearer token.
    Malformed,
    Token(&'a str),
}

impl<'a> Credentials<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = match (values.next(), values.next()) {
            (None, _) => return Self::None,
            (Some(value), None) => value,
            (Some(_), Some(_)) => return Self::Malformed,
        };
        // RFC 6750 section 2.1; the scheme's case does not matter (RFC 9110 section 11.1).
        let parts = value.to_str().ok().and_then(|text| text.split_once(' '));
        match parts {
            Some((scheme, token))
                if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() =>
            {
                Self::Token(token.trim())
            }
            Some(_) | None => Self::Malformed,
        }
    }
}

/// The token with this text, unless it is void. Hashes are compared, and a token has 256 random bits: how long a comparison
/// takes tells nothing about the text of any other.
pub(super) fn find<'a>(state: &'a State, text: &str, now: u64) -> Option<&'a Token> {
    let hash = hash(text);
    let token = state.tokens.values().find(|token| token.hash == hash)?;
    (!token.is_void(now)).then_some(token)
}

/// How the text of a token is stored.
pub(super) fn hash(text: &str) -> String {
    hexadecimal(&Sha256::digest(text))
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
