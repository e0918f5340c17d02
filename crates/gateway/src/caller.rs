//! Who wants something: a user of this host, or a program with a token.

use std::fmt;
use std::net::IpAddr;

use adit_model::state::{DeviceId, TokenId};

/// Who wants something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A user of this host at the administrator's socket, which allows everything.
    User {
        /// Unless the kernel does not tell.
        uid: Option<u32>,
    },
    /// A program with a token.
    Token(Bearer),
    /// The gateway by itself.
    Gateway,
}

/// The token that came with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The token.
    pub id: TokenId,
    /// Its name when it was used.
    pub name: String,
    /// The only device that it is for.
    pub device: Option<DeviceId>,
    /// Where the request came from.
    pub source: IpAddr,
}

impl Caller {
    /// The only device whose things this caller sees and changes; none: everything.
    pub const fn device(&self) -> Option<DeviceId> {
        match self {
            Self::User { .. } | Self::Gateway => None,
            Self::Token(bearer) => bearer.device,
        }
    }

    /// Keys that one caller gives its requests say nothing about those of another; nor does where it is.
    pub(crate) fn identity(&self) -> String {
        match self {
            Self::User { uid: Some(uid) } => format!("uid {uid}"),
            Self::User { uid: None } => "user".to_owned(),
            Self::Token(bearer) => format!("token {}", bearer.id),
            Self::Gateway => "gateway".to_owned(),
        }
    }

    /// Whether what belongs to a device is this caller's to see.
    pub fn sees(&self, device: DeviceId) -> bool {
        self.device().is_none_or(|own| own == device)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { uid: Some(uid) } => write!(formatter, "uid {uid}"),
            Self::User { uid: None } => formatter.write_str("a user of this host"),
            Self::Gateway => formatter.write_str("the gateway"),
            Self::Token(Bearer {
                id, name, source, ..
            }) => {
                write!(formatter, "token {id} (`{name}`) from {source}")
            }
        }
    }
}
