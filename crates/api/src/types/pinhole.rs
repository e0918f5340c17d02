//! Pinholes in requests and answers.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use adit_model::change;
use adit_model::protocol::Protocol;
use adit_model::state::Origin;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema;

/// One inbound IPv6 permission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pinhole {
    /// Identifier; never used again.
    pub id: u64,
    /// The revision that it was last changed in; a change may be made on condition of it.
    pub version: u64,
    /// Name of the device.
    pub device: String,
    /// The device's IPv6 address.
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv6Addr>,
    /// First port.
    pub port: u16,
    /// Last port.
    pub port_end: u16,
    /// Protocols.
    #[schema(schema_with = schema::protocols)]
    pub protocols: BTreeSet<Protocol>,
    /// Free text.
    pub label: String,
    /// Whether it is in force.
    pub enabled: bool,
    /// Who made it.
    pub origin: Origin,
}

/// All pinholes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pinholes {
    /// In order of their ids.
    pub pinholes: Vec<Pinhole>,
    /// The path of what follows, where a limit was given and more is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/api/v1/pinholes?limit=100&after=117")]
    pub next: Option<String>,
}

/// A pinhole to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddPinhole {
    /// Id or name of the device.
    pub device: String,
    /// First port.
    #[schema(minimum = 1, example = 443)]
    pub port: u16,
    /// Last port; the first unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub port_end: Option<u16>,
    /// Protocols; all unless said.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(schema_with = schema::protocols)]
    pub protocols: BTreeSet<Protocol>,
    /// Free text.
    #[serde(default)]
    #[schema(max_length = 200)]
    pub label: String,
}

/// Fields of a pinhole to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPinhole {
    /// Whether it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// New label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

impl From<AddPinhole> for change::AddPinhole {
    fn from(request: AddPinhole) -> Self {
        Self {
            device: request.device,
            port: request.port,
            port_end: request.port_end.unwrap_or(request.port),
            protocols: request.protocols,
            label: request.label,
        }
    }
}

impl From<SetPinhole> for change::SetPinhole {
    fn from(request: SetPinhole) -> Self {
        Self {
            enabled: request.enabled,
            label: request.label,
        }
    }
}
