//! API tokens: stored as a hash, shown once.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::TokenId;

/// One token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Identifier.
    pub id: TokenId,
    /// Unique name.
    pub name: String,
    /// SHA-256 of the token's text, in hexadecimal. The text has 256 random bits, so a slow hash adds nothing.
    pub hash: String,
    /// What it allows.
    pub scopes: BTreeSet<Scope>,
    /// Seconds since 1970 after which it is void.
    #[serde(default)]
    pub expires: Option<u64>,
}

/// What a token allows.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Look.
    Read,
    /// Change.
    Write,
    /// See preshared keys in device configurations.
    Secrets,
}
