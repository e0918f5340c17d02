//! Devices in requests and answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use adit_model::change::{self, Patch};
use adit_model::configuration::Routing;
use adit_model::key::PublicKey;
use adit_model::state::{DeviceKind, Egress, PortPolicy};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::schema;
use crate::text::{Delegate, PortSpan, Text};
use crate::timestamp::Timestamp;

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Device {
    /// Identifier; never used again.
    pub id: u64,
    /// The revision that it was last changed in; a change may be made on condition of it.
    pub version: u64,
    /// Unique name.
    pub name: String,
    /// Name of its subnet.
    pub subnet: String,
    /// What it may do by itself.
    pub kind: DeviceKind,
    /// What it sends through the tunnel.
    #[schema(schema_with = schema::routing)]
    pub routing: Routing,
    /// Its IPv4 address in the tunnel.
    #[schema(value_type = String, example = "10.59.0.2")]
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address in the tunnel.
    #[schema(value_type = Option<String>, example = "2001:db8:1::a3b:2")]
    pub ipv6: Option<Ipv6Addr>,
    /// Its WireGuard public key.
    #[schema(value_type = String)]
    pub public_key: PublicKey,
    /// Prefixes routed to it.
    #[schema(value_type = Vec<String>)]
    pub delegations: Vec<IpNet>,
    /// Where its translated traffic leaves, if not as its subnet's.
    #[serde(default)]
    pub egress: Option<String>,
    /// Whether it may connect.
    pub enabled: bool,
    /// When it may no longer connect.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
    /// Whether it may open ports by itself.
    #[serde(default)]
    pub auto_ports: bool,
    /// How many ports it may have open by itself.
    #[serde(default)]
    pub lease_quota: u32,
    /// How many of its requests for ports are answered each second.
    #[serde(default)]
    pub request_rate: u32,
    /// The public ports that it may have by itself, each `FIRST-LAST`.
    #[serde(default)]
    #[schema(example = json!(["1024-65535"]))]
    pub auto_port_ranges: Vec<String>,
    /// Whether it may open ports for other devices.
    #[serde(default)]
    pub third_party: bool,
    /// Whether it may open its own IPv6 address whole: all ports, or all protocols, at once.
    #[serde(default)]
    pub all_ports: bool,
    /// Whether it shook hands within the last three minutes.
    pub connected: bool,
    /// The last handshake.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_handshake: Option<Timestamp>,
    /// Where its packets come from.
    #[schema(value_type = Option<String>)]
    pub endpoint: Option<SocketAddr>,
    /// Bytes received from it.
    pub received_bytes: u64,
    /// Bytes sent to it.
    pub sent_bytes: u64,
}

/// One device with what would go along when it is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceDetail {
    /// The device.
    #[serde(flatten)]
    pub device: Device,
    /// Ids of the forwards that lead to it.
    pub forwards: Vec<u64>,
    /// Ids of its pinholes.
    pub pinholes: Vec<u64>,
    /// Ids of its leases.
    #[serde(default)]
    pub leases: Vec<u64>,
}

/// All devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Devices {
    /// In order of their ids.
    pub devices: Vec<Device>,
    /// The path of what follows, where a limit was given and more is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/api/v1/devices?limit=100&after=117")]
    pub next: Option<String>,
}

/// A device to add.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddDevice {
    /// Unique name.
    #[schema(
        min_length = 1,
        max_length = 63,
        pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        example = "nas"
    )]
    pub name: String,
    /// Id or name of its subnet; may be left out while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// What it may do by itself; `client` unless said.
    #[serde(default)]
    pub kind: DeviceKind,
    /// What it sends through the tunnel; `inbound` for a server and `full` for a client unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::routing)]
    pub routing: Option<Routing>,
    /// Its IPv4 address; the lowest free one unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ipv4: Option<Text<Ipv4Addr>>,
    /// Its WireGuard public key; without one the gateway makes a pair and shows the private key once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// An address of this host or an uplink that its translated traffic leaves by; as its subnet's unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "eth1")]
    pub egress: Option<Text<Egress>>,
    /// Prefixes for the network behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(schema_with = schema::delegations)]
    pub delegate: Vec<Delegate>,
    /// When it may no longer connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
    /// A file on the device that holds its private key, for the configuration that is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
}

/// Fields of a device to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetDevice {
    /// New name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// New kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<DeviceKind>,
    /// New routing; the device needs its new configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::routing)]
    pub routing: Option<Routing>,
    /// New IPv4 address; the device needs its new configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ipv4: Option<Text<Ipv4Addr>>,
    /// New egress; null: as its subnet's.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<String>)]
    pub egress: Patch<Text<Egress>>,
    /// Whether it may connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// When it may no longer connect; null: never.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Patch<Timestamp>,
    /// Prefixes to add.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(schema_with = schema::delegations)]
    pub delegate: Vec<Delegate>,
    /// Prefixes to take back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub revoke: Vec<Text<IpNet>>,
    /// Whether it may open ports by itself; null: as usual for its kind. A new kind sets this and what follows back.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<bool>)]
    pub auto_ports: Patch<bool>,
    /// How many ports it may have open by itself; null: as usual.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<u32>)]
    pub lease_quota: Patch<u32>,
    /// How many of its requests for ports are answered each second; null: as usual.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<u32>)]
    pub request_rate: Patch<u32>,
    /// The public ports that it may have by itself, each `FIRST-LAST`; null: those from 1024.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<Vec<String>>)]
    pub auto_port_ranges: Patch<Vec<Text<PortSpan>>>,
    /// Whether it may open ports for other devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub third_party: Option<bool>,
    /// Whether it may open its own IPv6 address whole: all ports, or all protocols, at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_ports: Option<bool>,
}

/// Another key for a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RekeyDevice {
    /// Its new public key; without one the gateway makes a pair and shows the private key once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// A file on the device that holds its private key, for the configuration that is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
}

/// A device that was added or got another key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AddedDevice {
    /// The device.
    pub device: Device,
    /// Its complete configuration for `wg-quick`, with the private key if the gateway made it. A repeated request is
    /// answered without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Whether `config` holds a private key, which is shown this once and not stored.
    pub private_key_shown: bool,
    /// What to do next.
    pub next: Vec<String>,
}

/// How a configuration is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConfigurationQuery {
    /// The format: `wg-quick`, `networkd`, `networkmanager`, `openwrt`, `mikrotik` or `opnsense`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// A file on the device that holds its private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
}

impl From<SetDevice> for change::SetDevice {
    fn from(request: SetDevice) -> Self {
        Self {
            name: request.name,
            kind: request.kind,
            routing: request.routing,
            ipv4: request.ipv4.map(|text| text.0),
            egress: match request.egress {
                Patch::Keep => Patch::Keep,
                Patch::Clear => Patch::Clear,
                Patch::Set(text) => Patch::Set(text.0),
            },
            enabled: request.enabled,
            expires: match request.expires {
                Patch::Keep => Patch::Keep,
                Patch::Clear => Patch::Clear,
                Patch::Set(time) => Patch::Set(time.0),
            },
            delegate: request.delegate.into_iter().map(|wish| wish.0).collect(),
            revoke: request.revoke.into_iter().map(|text| text.0).collect(),
            auto_ports: request.auto_ports,
            lease_quota: request.lease_quota,
            request_rate: request.request_rate,
            auto_port_ranges: match request.auto_port_ranges {
                Patch::Keep => Patch::Keep,
                Patch::Clear => Patch::Clear,
                Patch::Set(spans) => Patch::Set(
                    (spans.into_iter())
                        .map(|text| (text.0.first, text.0.last))
                        .collect(),
                ),
            },
            third_party: request.third_party,
            all_ports: request.all_ports,
        }
    }
}

impl AddDevice {
    /// The change that it asks for, with the public key that the device will have.
    pub fn into_change(self, public_key: PublicKey) -> change::AddDevice {
        change::AddDevice {
            name: self.name,
            subnet: self.subnet,
            kind: self.kind,
            routing: self.routing,
            ipv4: self.ipv4.map(|text| text.0),
            public_key,
            egress: self.egress.map(|text| text.0),
            delegate: self.delegate.into_iter().map(|wish| wish.0).collect(),
            expires: self.expires.map(|time| time.0),
            port_policy: PortPolicy::default(),
        }
    }
}

impl Device {
    /// Its addresses in the tunnel, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [Some(IpAddr::V4(self.ipv4)), self.ipv6.map(IpAddr::V6)]
            .into_iter()
            .flatten()
    }
}
