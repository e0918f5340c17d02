//! Proxy neighbour entries: addresses for which we answer Neighbor Solicitations on an uplink (RFC 4389, RFC 4861 section 7.2.8).

use std::net::Ipv6Addr;

/// One proxy entry; carries our protocol number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProxyNeighbor {
    /// The uplink's interface name.
    pub interface: String,
    /// The address that is answered for.
    pub address: Ipv6Addr,
}
