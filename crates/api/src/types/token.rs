//! API tokens in requests and answers.

use std::collections::BTreeSet;

use adit_model::state::Scope;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::timestamp::Timestamp;

/// One token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Identifier; never used again.
    pub id: u64,
    /// The revision that it was last changed in; a change may be made on condition of it.
    pub version: u64,
    /// Unique name.
    pub name: String,
    /// What it allows.
    pub scopes: BTreeSet<Scope>,
    /// The only device whose things it allows that for; none: for everything.
    #[serde(default)]
    pub device: Option<String>,
    /// When it becomes void.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
}

/// All tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tokens {
    /// In order of their ids.
    pub tokens: Vec<Token>,
    /// The path of what follows, where a limit was given and more is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/api/v1/tokens?limit=100&after=117")]
    pub next: Option<String>,
}

/// A token to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddToken {
    /// Unique name.
    #[schema(
        min_length = 1,
        max_length = 63,
        pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        example = "dashboard"
    )]
    pub name: String,
    /// What it allows; `read` unless said.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub scopes: BTreeSet<Scope>,
    /// The only device whose things it is for, by id or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// When it becomes void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
}

/// A token that was added.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AddedToken {
    /// The token.
    pub token: Token,
    /// The text to authenticate with; shown this once and not stored, so a repeated request is answered without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
}
