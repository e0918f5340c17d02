//! Uplinks in requests and answers.

use std::net::{Ipv4Addr, Ipv6Addr};

use adit_model::change::{self, Patch};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::text::Text;

/// One interface that faces the Internet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Uplink {
    /// Identifier of what was said about it; 0 while nothing was.
    pub id: u64,
    /// The revision in which something was last said about it, 0 while nothing was; a change may be made on condition of it.
    pub version: u64,
    /// Its interface.
    pub name: String,
    /// Its first IPv4 address.
    #[schema(value_type = Option<String>)]
    pub local: Option<Ipv4Addr>,
    /// Its first global IPv6 address.
    #[schema(value_type = Option<String>)]
    pub local_ipv6: Option<Ipv6Addr>,
    /// The IPv4 address that the Internet sees, where it was said to differ from the local one.
    #[schema(value_type = Option<String>)]
    pub advertised: Option<Ipv4Addr>,
    /// What devices connect to, where it was said.
    pub endpoint: Option<String>,
    /// What devices connect to in fact.
    pub effective_endpoint: Option<String>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it has the best default route.
    pub default: bool,
}

/// All uplinks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Uplinks {
    /// In order of their names.
    pub uplinks: Vec<Uplink>,
}

/// Fields of an uplink to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetUplink {
    /// The IPv4 address that the Internet sees; null: the local one.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<String>)]
    pub advertised: Patch<Text<Ipv4Addr>>,
    /// An address or a host name that devices connect to; null: the advertised address.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<String>)]
    pub endpoint: Patch<String>,
}

impl From<SetUplink> for change::SetUplink {
    fn from(request: SetUplink) -> Self {
        Self {
            advertised: match request.advertised {
                Patch::Keep => Patch::Keep,
                Patch::Clear => Patch::Clear,
                Patch::Set(text) => Patch::Set(text.0),
            },
            endpoint: request.endpoint,
        }
    }
}
