//! The manual state as one document without secrets: what administrators keep in a file, compare, and apply.
//!
//! A declaration is whole: what it does not name is not there, and what it does not say has its default. Leases and tokens
//! are not part of it, nor are keys that must stay secret.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::text::{Ipv6, PortSpan};
use crate::configuration::Routing;
use crate::key::PublicKey;
use crate::protocol::Protocol;
use crate::state::{Delivery, DeviceKind, Egress, Origin, Settings, State};
use crate::timestamp::Timestamp;

mod text;

/// The manual state of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Declaration {
    /// The settings of the gateway.
    pub settings: DeclaredSettings,
    /// What is said of uplinks, by the names of their interfaces.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub uplink: BTreeMap<String, DeclaredUplink>,
    /// The subnets by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub subnet: BTreeMap<String, DeclaredSubnet>,
    /// The devices by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub device: BTreeMap<String, DeclaredDevice>,
    /// The forwards.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forward: Vec<DeclaredForward>,
    /// The pinholes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pinhole: Vec<DeclaredPinhole>,
}

/// The settings of the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DeclaredSettings {
    /// UDP port of WireGuard.
    pub listen_port: u16,
    /// Resolvers that `full` devices are told.
    #[schema(value_type = Vec<String>)]
    pub dns_servers: Vec<IpAddr>,
    /// Ports that outbound connections are translated to, `FIRST-LAST`.
    #[schema(value_type = String, example = "32768-49151")]
    pub snat_ports: PortSpan,
    /// The tunnel's MTU in bytes; it follows from the uplinks unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// The packet size in bytes that TCP is clamped to.
    pub clamp_mtu: u16,
    /// Connections that one device may have open, in each family and each way.
    pub connection_limit: u32,
    /// The shortest time in seconds that a lease is given for, where its protocol allows more than was asked.
    pub lease_minimum: u32,
    /// The longest time in seconds that a lease is given for.
    pub lease_maximum: u32,
}

/// What is said of an uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DeclaredUplink {
    /// The IPv4 address that the Internet sees, where it is not the local one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub advertised: Option<Ipv4Addr>,
    /// The host name or address that devices connect to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// One subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DeclaredSubnet {
    /// Its IPv4 network.
    #[schema(value_type = String, example = "10.59.0.0/24")]
    pub ipv4: Ipv4Net,
    /// Its IPv6 prefix, or `none`. Unless said, the one that it has, and a random private one for a new subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "2001:db8:1::/64")]
    pub ipv6: Option<Ipv6>,
    /// How the provider delivers the prefix.
    #[serde(default, skip_serializing_if = "is_default")]
    pub delivery: Delivery,
    /// An address or an uplink by which its traffic leaves.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "text::optional"
    )]
    #[schema(value_type = Option<String>)]
    pub egress: Option<Egress>,
    /// Whether its devices reach each other; they do unless said.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub peers: bool,
    /// Whether its devices reach the gateway host itself; they do not unless said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub host_access: bool,
    /// Whether the tunnel interface has the gateway's addresses in it; it has unless said.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub gateway_address: bool,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DeclaredDevice {
    /// The name of its subnet; may be left out while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// What it may do by itself; `client` unless said.
    #[serde(default)]
    pub kind: DeviceKind,
    /// What it sends through the tunnel; `inbound` for a server and `full` for a client unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub routing: Option<Routing>,
    /// Its IPv4 address. Unless said, the one that it has, and the lowest free one for a new device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "10.59.0.2")]
    pub ipv4: Option<Ipv4Addr>,
    /// Its WireGuard public key. Unless said, the one that the device of this name has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub public_key: Option<PublicKey>,
    /// An address or an uplink by which its traffic leaves; as its subnet's unless said.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "text::optional"
    )]
    #[schema(value_type = Option<String>)]
    pub egress: Option<Egress>,
    /// Whether it may connect; it may unless said.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
    /// When it may no longer connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
    /// The prefixes that are routed to it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub delegations: BTreeSet<IpNet>,
    /// Whether it may open ports by itself; a server may and a client may not unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_ports: Option<bool>,
    /// How many ports it may have open by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_quota: Option<u32>,
    /// How many of its requests for ports are answered each second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_rate: Option<u32>,
    /// The public ports that it may have by itself, each `FIRST-LAST`; those from 1024 unless said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, example = json!(["1024-65535"]))]
    pub auto_port_ranges: Vec<PortSpan>,
    /// Whether it may open ports for other devices; it may not unless said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub third_party: bool,
    /// Whether it may open its own IPv6 address whole: all ports, or all protocols, at once; not unless said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub all_ports: bool,
}

/// One forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DeclaredForward {
    /// The public address, local or advertised; those of the device's uplink unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// First public port.
    #[schema(minimum = 1, example = 443)]
    pub port: u16,
    /// Last public port; the first unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_end: Option<u16>,
    /// Protocols; all unless said.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    #[schema(value_type = Vec<String>)]
    pub protocols: BTreeSet<Protocol>,
    /// The name of the device.
    pub device: String,
    /// Port on the device; the same unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<u16>,
    /// The TLS name (on port 80 the host) that it is for; all unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "blog.example.org")]
    pub hostname: Option<String>,
    /// Whether connections begin with the client's address (PROXY protocol, version 2); they do not unless said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub proxy_protocol: bool,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// Whether it is in force; it is unless said.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
}

/// One pinhole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DeclaredPinhole {
    /// The name of the device.
    pub device: String,
    /// First port.
    #[schema(minimum = 1, example = 443)]
    pub port: u16,
    /// Last port; the first unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_end: Option<u16>,
    /// Protocols; all unless said.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    #[schema(value_type = Vec<String>)]
    pub protocols: BTreeSet<Protocol>,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// Whether it is in force; it is unless said.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
}

impl Declaration {
    /// The manual state: applied to the state that it is of, it changes nothing.
    pub fn of(state: &State) -> Self {
        let device_name = |id| {
            let device = state.devices.get(&id);
            device.map_or_else(String::new, |device| device.name.clone())
        };
        let subnet_name = |id| state.subnets.get(&id).map(|subnet| subnet.name.clone());
        let uplinks = state.uplinks.values().filter_map(|uplink| {
            let said = DeclaredUplink {
                advertised: uplink.advertised,
                endpoint: uplink.endpoint.clone(),
            };
            (said != DeclaredUplink::default()).then(|| (uplink.name.clone(), said))
        });
        let subnets = state.subnets.values().map(|subnet| {
            let declared = DeclaredSubnet {
                ipv4: subnet.ipv4,
                ipv6: Some(subnet.ipv6.map_or(Ipv6::None, Ipv6::Prefix)),
                delivery: subnet.delivery,
                egress: subnet.egress.clone(),
                peers: subnet.peers,
                host_access: subnet.host_access,
                gateway_address: subnet.gateway_address,
            };
            (subnet.name.clone(), declared)
        });
        let devices = state.devices.values().map(|device| {
            let declared = DeclaredDevice {
                subnet: subnet_name(device.subnet),
                kind: device.kind,
                routing: Some(device.routing),
                ipv4: Some(device.ipv4),
                public_key: Some(device.public_key),
                egress: device.egress.clone(),
                enabled: device.enabled,
                expires: device.expires.map(Timestamp),
                delegations: (state.delegations_of(device.id))
                    .map(|delegation| delegation.prefix)
                    .collect(),
                auto_ports: device.port_policy.auto_ports,
                lease_quota: device.port_policy.lease_quota,
                request_rate: device.port_policy.request_rate,
                auto_port_ranges: (device.port_policy.ranges.iter())
                    .map(|(first, last)| PortSpan {
                        first: *first,
                        last: *last,
                    })
                    .collect(),
                third_party: device.port_policy.third_party,
                all_ports: device.port_policy.all_ports,
            };
            (device.name.clone(), declared)
        });
        let forwards = state.forwards.values();
        let forwards = forwards.filter(|forward| forward.origin == Origin::Manual);
        let pinholes = state.pinholes.values();
        let pinholes = pinholes.filter(|pinhole| pinhole.origin == Origin::Manual);
        Self {
            settings: DeclaredSettings::from(&state.settings),
            uplink: uplinks.collect(),
            subnet: subnets.collect(),
            device: devices.collect(),
            forward: forwards
                .map(|forward| DeclaredForward {
                    address: forward.address,
                    port: forward.port,
                    port_end: (forward.port_end != forward.port).then_some(forward.port_end),
                    protocols: forward.protocols.clone(),
                    device: device_name(forward.device),
                    target_port: (forward.target_port != forward.port)
                        .then_some(forward.target_port),
                    hostname: forward.hostname.clone(),
                    proxy_protocol: forward.proxy_protocol,
                    label: forward.label.clone(),
                    enabled: forward.enabled,
                })
                .collect(),
            pinhole: pinholes
                .map(|pinhole| DeclaredPinhole {
                    device: device_name(pinhole.device),
                    port: pinhole.port,
                    port_end: (pinhole.port_end != pinhole.port).then_some(pinhole.port_end),
                    protocols: pinhole.protocols.clone(),
                    label: pinhole.label.clone(),
                    enabled: pinhole.enabled,
                })
                .collect(),
        }
    }
}

impl Default for DeclaredSettings {
    fn default() -> Self {
        Self::from(&Settings::default())
    }
}

impl From<&Settings> for DeclaredSettings {
    fn from(settings: &Settings) -> Self {
        let Settings {
            listen_port,
            dns_servers,
            snat_first,
            snat_last,
            mtu,
            clamp_mtu,
            connection_limit,
            lease_minimum,
            lease_maximum,
            // It goes with the private key.
            gateway_key: _,
        } = settings.clone();
        Self {
            listen_port,
            dns_servers,
            snat_ports: PortSpan {
                first: snat_first,
                last: snat_last,
            },
            mtu,
            clamp_mtu,
            connection_limit,
            lease_minimum,
            lease_maximum,
        }
    }
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_yes(value: &bool) -> bool {
    *value
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn all() -> BTreeSet<Protocol> {
    Protocol::ALL.into()
}

fn is_all(protocols: &BTreeSet<Protocol>) -> bool {
    *protocols == all()
}
