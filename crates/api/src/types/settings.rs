//! Settings in requests and answers.

use std::net::IpAddr;

use adit_model::change::{self, Patch};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::text::{PortSpan, Text};

/// The settings of the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Settings {
    /// The revision that they were last changed in; a change may be made on condition of it.
    pub version: u64,
    /// UDP port of WireGuard.
    pub listen_port: u16,
    /// Resolvers that `full` devices are told.
    #[schema(value_type = Vec<String>)]
    pub dns_servers: Vec<IpAddr>,
    /// Ports that outbound connections are translated to, `FIRST-LAST`.
    pub snat_ports: String,
    /// The tunnel's MTU.
    pub mtu: SettingsMtu,
    /// The packet size in bytes that TCP is clamped to.
    pub clamp_mtu: u16,
    /// Connections that one device may have open, in each family and each way.
    pub connection_limit: u32,
    /// The shortest time in seconds that a lease is given for, where its protocol allows more than was asked.
    pub lease_minimum: u32,
    /// The longest time in seconds that a lease is given for.
    pub lease_maximum: u32,
}

/// The tunnel's MTU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SettingsMtu {
    /// Bytes.
    pub value: u16,
    /// Why it is this.
    pub reason: String,
    /// What was set; null: it follows from the uplinks.
    pub configured: Option<u16>,
}

/// Settings to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetSettings {
    /// UDP port of WireGuard; every device needs its new configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    /// Resolvers that `full` devices are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub dns_servers: Option<Vec<Text<IpAddr>>>,
    /// Ports that outbound connections are translated to, `FIRST-LAST`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "32768-49151")]
    pub snat_ports: Option<Text<PortSpan>>,
    /// The tunnel's MTU in bytes; null: it follows from the uplinks.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<u16>)]
    pub mtu: Patch<u16>,
    /// The packet size in bytes that TCP is clamped to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamp_mtu: Option<u16>,
    /// Connections that one device may have open, in each family and each way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_limit: Option<u32>,
    /// The shortest time in seconds that a lease is given for, where its protocol allows more than was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_minimum: Option<u32>,
    /// The longest time in seconds that a lease is given for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_maximum: Option<u32>,
}

impl From<SetSettings> for change::SetSettings {
    fn from(request: SetSettings) -> Self {
        Self {
            listen_port: request.listen_port,
            dns_servers: request
                .dns_servers
                .map(|servers| servers.into_iter().map(|text| text.0).collect()),
            snat_ports: request.snat_ports.map(|text| (text.0.first, text.0.last)),
            mtu: request.mtu,
            clamp_mtu: request.clamp_mtu,
            connection_limit: request.connection_limit,
            lease_minimum: request.lease_minimum,
            lease_maximum: request.lease_maximum,
        }
    }
}
