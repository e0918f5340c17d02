//! Settings of the whole gateway.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::desired::firewall::Connections;
use crate::key::PublicKey;

/// Settings; every field has a default, so that an older database reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Settings {
    /// UDP port of WireGuard.
    pub listen_port: u16,
    /// Resolvers that `full` devices are told.
    pub dns_servers: Vec<IpAddr>,
    /// First port that outbound connections are translated to.
    pub snat_first: u16,
    /// Last port that outbound connections are translated to.
    pub snat_last: u16,
    /// Tunnel MTU in bytes; none: computed from the uplinks.
    pub mtu: Option<u16>,
    /// The packet size that TCP is clamped to, in bytes. 1280 passes every path that can carry IPv6 at all.
    pub clamp_mtu: u16,
    /// Connections that one device may have open, in each family and each way.
    pub connection_limit: u32,
    /// The shortest time in seconds that a lease is given for, where its protocol allows more than was asked.
    pub lease_minimum: u32,
    /// The longest time in seconds that a lease is given for.
    pub lease_maximum: u32,
    /// What belongs to the gateway's private key, where that was taken over from another server: until then it made its own.
    pub gateway_key: Option<PublicKey>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen_port: 51820,
            dns_servers: Vec::new(),
            snat_first: 32768,
            snat_last: 49151,
            mtu: None,
            clamp_mtu: 1280,
            connection_limit: Connections::DEFAULT_LIMIT,
            lease_minimum: 120,
            lease_maximum: 86_400,
            gateway_key: None,
        }
    }
}
