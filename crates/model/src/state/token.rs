//! API tokens: stored as a hash, shown once.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{DeviceId, TokenId};

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
    /// The only device whose things it allows that for; none: for everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
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

impl Token {
    /// Whether it is void at a time in seconds since 1970.
    pub fn is_void(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Secrets];

    /// Its name, as it is written everywhere.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Secrets => "secrets",
        }
    }
}
