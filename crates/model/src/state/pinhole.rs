//! Pinholes: inbound IPv6 permissions, without translation.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{DeviceId, GatewayId, Origin, PinholeId};
use crate::protocol::{PortRange, Protocol};

/// One pinhole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinhole {
    /// Identifier.
    pub id: PinholeId,
    /// The gateway that lets the packets in.
    #[serde(default)]
    pub gateway: GatewayId,
    /// The device.
    pub device: DeviceId,
    /// First port.
    pub port: u16,
    /// Last port.
    pub port_end: u16,
    /// Protocols.
    pub protocols: BTreeSet<Protocol>,
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

impl Pinhole {
    /// The ports; none only for a stored object that no decision made.
    pub fn ports(&self) -> Option<PortRange> {
        PortRange::new(self.port, self.port_end)
    }
}
