//! Devices: WireGuard peers.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{DeviceId, Egress, SubnetId};
use crate::configuration::Routing;
use crate::key::{PresharedKey, PublicKey};

/// One device. Its IPv6 address is derived from its IPv4 address and the subnet's prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Identifier.
    pub id: DeviceId,
    /// Its subnet.
    pub subnet: SubnetId,
    /// Unique name.
    pub name: String,
    /// What it may do by itself.
    pub kind: DeviceKind,
    /// What it sends through the tunnel.
    pub routing: Routing,
    /// Its IPv4 address in the subnet.
    pub ipv4: Ipv4Addr,
    /// Its WireGuard key.
    pub public_key: PublicKey,
    /// The key shared with it besides.
    pub preshared_key: PresharedKey,
    /// Where its translated traffic leaves, if not as its subnet's.
    #[serde(default)]
    pub egress: Option<Egress>,
    /// Whether it may connect.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Seconds since 1970 after which it may not connect.
    #[serde(default)]
    pub expires: Option<u64>,
}

const fn yes() -> bool {
    true
}

/// What a device may do by itself.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// May open ports and publish names.
    Server,
    /// May not.
    #[default]
    Client,
}

impl Device {
    /// Whether it may connect at a time (seconds since 1970).
    pub fn is_active(&self, now: u64) -> bool {
        self.enabled && self.expires.is_none_or(|expires| now < expires)
    }
}
