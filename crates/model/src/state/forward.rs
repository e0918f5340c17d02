//! Forwards: a public address and port that leads to a device.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{DeviceId, ForwardId, GatewayId};
use crate::protocol::{PortRange, Protocol};

/// One forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Identifier.
    pub id: ForwardId,
    /// The gateway whose address it is.
    #[serde(default)]
    pub gateway: GatewayId,
    /// Public address, local or advertised; none: those of the device's uplink.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// First public port.
    pub port: u16,
    /// Last public port.
    pub port_end: u16,
    /// Protocols.
    pub protocols: BTreeSet<Protocol>,
    /// The device that it leads to.
    pub device: DeviceId,
    /// Port on the device; for a range its first port, which equals `port`.
    pub target_port: u16,
    /// Free text.
    #[serde(default)]
    pub label: String,
    /// Whether it is in force.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Who made it.
    #[serde(default)]
    pub origin: Origin,
}

const fn yes() -> bool {
    true
}

/// Who made a forward or a pinhole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// An administrator.
    #[default]
    Manual,
    /// A device, by a port control protocol.
    Lease,
}

impl Forward {
    /// The public ports; none only for a stored object that no decision made.
    pub fn ports(&self) -> Option<PortRange> {
        PortRange::new(self.port, self.port_end)
    }
}
