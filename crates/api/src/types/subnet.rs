//! Subnets in requests and answers.

use std::net::{Ipv4Addr, Ipv6Addr};

use adit_model::change::{self, Ipv6Wish, Patch};
use adit_model::state::{Delivery, Egress};
use adit_model::uplink::Proof;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::text::Text;

/// One tunnel subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subnet {
    /// Identifier; never used again.
    pub id: u64,
    /// The revision that it was last changed in; a change may be made on condition of it.
    pub version: u64,
    /// Unique name.
    pub name: String,
    /// Its IPv4 network.
    #[schema(value_type = String, example = "10.59.0.0/24")]
    pub ipv4: Ipv4Net,
    /// Its IPv6 prefix.
    #[schema(value_type = Option<String>, example = "2001:db8:1::/64")]
    pub ipv6: Option<Ipv6Net>,
    /// How the provider delivers the prefix, as it was said.
    pub delivery: Delivery,
    /// How it is delivered in fact; null without a global prefix.
    pub effective_delivery: Option<EffectiveDelivery>,
    /// What packets have proved of the delivery within the last hour; null without a global prefix.
    #[serde(default)]
    pub proven_delivery: Option<Proof>,
    /// The uplink that its traffic leaves by.
    pub uplink: Option<String>,
    /// The address or the uplink that was chosen for what leaves.
    pub egress: Option<String>,
    /// The gateway's IPv4 address in it.
    #[schema(value_type = String)]
    pub gateway_ipv4: Ipv4Addr,
    /// The gateway's IPv6 address in it.
    #[schema(value_type = Option<String>)]
    pub gateway_ipv6: Option<Ipv6Addr>,
    /// Whether its devices reach each other.
    pub peers: bool,
    /// Whether its devices reach the gateway host itself.
    pub host_access: bool,
    /// Whether the gateway's interface has the gateway's addresses in it.
    #[serde(default = "yes")]
    pub gateway_address: bool,
    /// How many devices it has.
    pub devices: usize,
}

/// How a global prefix reaches the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EffectiveDelivery {
    /// The provider routes it to an address of this host.
    Routed,
    /// The provider asks for each address by Neighbor Discovery.
    OnLink,
}

/// All subnets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subnets {
    /// In order of their ids.
    pub subnets: Vec<Subnet>,
    /// The path of what follows, where a limit was given and more is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/api/v1/subnets?limit=100&after=117")]
    pub next: Option<String>,
}

/// A subnet to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddSubnet {
    /// Unique name.
    #[schema(
        min_length = 1,
        max_length = 63,
        pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        example = "home"
    )]
    pub name: String,
    /// Its IPv4 network.
    #[schema(value_type = String, example = "10.59.0.0/24")]
    pub ipv4: Text<Ipv4Net>,
    /// Its IPv6 prefix, or `none`; a random private one unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ipv6: Option<Text<Ipv6Wish>>,
    /// How the provider delivers the prefix.
    #[serde(default)]
    pub delivery: Delivery,
    /// An address or an uplink by which its traffic leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub egress: Option<Text<Egress>>,
    /// Whether its devices reach each other; they do unless said.
    #[serde(default = "yes")]
    pub peers: bool,
    /// Whether its devices reach the gateway host itself; they do not unless said.
    #[serde(default)]
    pub host_access: bool,
    /// Whether the gateway's interface has the gateway's addresses in it; it has unless said.
    #[serde(default = "yes")]
    pub gateway_address: bool,
    /// Does without an IPv6 default route.
    #[serde(default)]
    pub force: bool,
}

/// Fields of a subnet to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetSubnet {
    /// New name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// New IPv6 prefix, or `none`; null: a random private one. Every device needs its new configuration.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<String>)]
    pub ipv6: Patch<Text<Ipv6Wish>>,
    /// New delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// New egress; null: none.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<String>)]
    pub egress: Patch<Text<Egress>>,
    /// Whether its devices reach each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<bool>,
    /// Whether its devices reach the gateway host itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_access: Option<bool>,
    /// Whether the gateway's interface has the gateway's addresses in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_address: Option<bool>,
    /// Does without an IPv6 default route.
    #[serde(default)]
    pub force: bool,
}

const fn yes() -> bool {
    true
}

impl From<AddSubnet> for change::AddSubnet {
    fn from(request: AddSubnet) -> Self {
        Self {
            name: request.name,
            ipv4: request.ipv4.0,
            ipv6: request.ipv6.map_or(Ipv6Wish::Private, |text| text.0),
            delivery: request.delivery,
            egress: request.egress.map(|text| text.0),
            peers: request.peers,
            host_access: request.host_access,
            gateway_address: request.gateway_address,
            force: request.force,
        }
    }
}

impl From<SetSubnet> for change::SetSubnet {
    fn from(request: SetSubnet) -> Self {
        Self {
            name: request.name,
            ipv6: match request.ipv6 {
                Patch::Keep => None,
                Patch::Clear => Some(Ipv6Wish::Private),
                Patch::Set(text) => Some(text.0),
            },
            delivery: request.delivery,
            egress: match request.egress {
                Patch::Keep => Patch::Keep,
                Patch::Clear => Patch::Clear,
                Patch::Set(text) => Patch::Set(text.0),
            },
            peers: request.peers,
            host_access: request.host_access,
            gateway_address: request.gateway_address,
            force: request.force,
        }
    }
}
