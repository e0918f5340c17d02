//! What administrators say about an uplink; its local address is a fact, not state.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{GatewayId, UplinkId};

/// Stored settings of one uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// Identifier.
    pub id: UplinkId,
    /// The gateway whose interface it is.
    #[serde(default)]
    pub gateway: GatewayId,
    /// Interface name.
    pub name: String,
    /// The IPv4 address that the Internet sees, where a provider's 1:1 NAT makes it differ from the local one.
    #[serde(default)]
    pub advertised: Option<Ipv4Addr>,
    /// Host name or address that devices connect to, if not the advertised address.
    #[serde(default)]
    pub endpoint: Option<String>,
}
