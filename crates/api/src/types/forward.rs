//! Forwards in requests and answers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use adit_model::change;
use adit_model::protocol::Protocol;
use adit_model::state::Origin;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema;
use crate::text::Text;

/// One forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Forward {
    /// Identifier; never used again.
    pub id: u64,
    /// The revision that it was last changed in; a change may be made on condition of it.
    pub version: u64,
    /// The public address, as the Internet sees it; the first of several.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// Every public address that leads to the device, as the Internet sees them.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// First public port.
    pub port: u16,
    /// Last public port.
    pub port_end: u16,
    /// Protocols.
    #[schema(schema_with = schema::protocols)]
    pub protocols: BTreeSet<Protocol>,
    /// Name of the device.
    pub device: String,
    /// Port on the device.
    pub target_port: u16,
    /// The TLS name (on port 80 the host) that it is for; none: all that the port gets, or what no name takes where other
    /// forwards have names on it.
    #[schema(example = "blog.example.org")]
    pub hostname: Option<String>,
    /// Whether connections to the device begin with the client's address (PROXY protocol, version 2).
    pub proxy_protocol: bool,
    /// Free text.
    pub label: String,
    /// Whether it is in force.
    pub enabled: bool,
    /// Who made it.
    pub origin: Origin,
}

/// All forwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Forwards {
    /// In order of their ids.
    pub forwards: Vec<Forward>,
    /// The path of what follows, where a limit was given and more is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/api/v1/forwards?limit=100&after=117")]
    pub next: Option<String>,
}

/// A forward to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddForward {
    /// The public address, local or advertised; those of the device's uplink unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<Text<IpAddr>>,
    /// First public port.
    #[schema(minimum = 1, example = 443)]
    pub port: u16,
    /// Last public port; the first unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub port_end: Option<u16>,
    /// Protocols; all unless said.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(schema_with = schema::protocols)]
    pub protocols: BTreeSet<Protocol>,
    /// Id or name of the device.
    pub device: String,
    /// Port on the device; the same unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<u16>,
    /// Only connections that ask for this TLS name, or `*` and a domain; on port 80 only requests for this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "blog.example.org")]
    pub hostname: Option<String>,
    /// Whether connections to the device begin with the client's address (PROXY protocol, version 2).
    #[serde(default)]
    pub proxy_protocol: bool,
    /// Free text.
    #[serde(default)]
    #[schema(max_length = 200)]
    pub label: String,
}

/// Fields of a forward to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetForward {
    /// Whether it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// New label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Id or name of another device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// New port on the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<u16>,
    /// Whether connections to the device begin with the client's address (PROXY protocol, version 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<bool>,
}

impl From<AddForward> for change::AddForward {
    fn from(request: AddForward) -> Self {
        Self {
            address: request.address.map(|text| text.0),
            port: request.port,
            port_end: request.port_end.unwrap_or(request.port),
            protocols: request.protocols,
            device: request.device,
            target_port: request.target_port,
            hostname: request.hostname,
            proxy_protocol: request.proxy_protocol,
            label: request.label,
        }
    }
}

impl From<SetForward> for change::SetForward {
    fn from(request: SetForward) -> Self {
        Self {
            enabled: request.enabled,
            label: request.label,
            device: request.device,
            target_port: request.target_port,
            proxy_protocol: request.proxy_protocol,
        }
    }
}
