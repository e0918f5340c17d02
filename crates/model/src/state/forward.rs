//! Forwards: a public address and port that leads to a device.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Device, DeviceId, ForwardId, GatewayId, Subnet};
use crate::facts::{Facts, Listener};
use crate::protocol::{PortRange, Protocol};
use crate::uplink::{self, Uplink};

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
    /// The TLS name (on port 80 the host) that it is for, as [`crate::hostname::parse`] writes it; none: all that the
    /// ports get, or what no name takes where others have names on the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Connections to the device begin with the client's address, as the PROXY protocol (version 2) writes it.
    #[serde(default, skip_serializing_if = "is_no")]
    pub proxy_protocol: bool,
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_no(value: &bool) -> bool {
    !*value
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

    /// Its public addresses as they are on this host's interfaces: where it names none, the IPv4 address of the device's
    /// uplink, and the IPv6 address too where the subnet's prefix is a private one. An advertised address stands for the
    /// local one behind it.
    pub fn local_addresses(
        &self,
        subnet: &Subnet,
        device: &Device,
        uplinks: &[Uplink],
        facts: &Facts,
    ) -> BTreeSet<IpAddr> {
        if let Some(address) = self.address {
            let behind = uplinks
                .iter()
                .find(|uplink| uplink.advertised.map(IpAddr::V4) == Some(address));
            return [behind
                .and_then(Uplink::local_ipv4)
                .map_or(address, IpAddr::V4)]
            .into();
        }
        let ipv4 = uplink::place_ipv4(uplinks, facts, subnet, device);
        let ipv6 = uplink::place_ipv6(uplinks, facts, subnet, device);
        ipv4.map(|(_, address)| IpAddr::V4(address))
            .into_iter()
            .chain(ipv6.map(|(_, address)| IpAddr::V6(address)))
            .collect()
    }

    /// The service of this host that takes what is meant for it, if there is one.
    pub(crate) fn listener<'a>(
        &self,
        local: &BTreeSet<IpAddr>,
        facts: &'a Facts,
    ) -> Option<&'a Listener> {
        let ports = self.ports()?;
        let mut others = facts.listeners.iter().filter(|it| !it.is_front());
        others.find(|listener| {
            let reached = match listener.address {
                // A socket bound to :: takes IPv4 as well, unless it says otherwise.
                IpAddr::V6(address) if address.is_unspecified() => true,
                IpAddr::V4(address) if address.is_unspecified() => {
                    local.iter().any(IpAddr::is_ipv4)
                }
                address @ (IpAddr::V4(_) | IpAddr::V6(_)) => local.contains(&address),
            };
            reached && self.protocols.contains(&listener.protocol) && ports.contains(listener.port)
        })
    }
}
