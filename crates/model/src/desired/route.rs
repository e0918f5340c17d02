//! Routes of ours: protocol 173, in the main table or in tables 4200 to 4299.

use std::net::IpAddr;

use ipnet::IpNet;

/// The route protocol number that marks routes, rules and proxy neighbours as ours.
pub const PROTOCOL: u8 = 173;

/// The main routing table.
pub const MAIN_TABLE: u32 = 254;

/// A route that carries [`PROTOCOL`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Routing table number.
    pub table: u32,
    /// Destination, host bits zero.
    pub destination: IpNet,
    /// Metric; lower wins. IPv6 turns 0 into 1024, so it is always explicit.
    pub metric: u32,
    /// Where it leads.
    pub target: RouteTarget,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteTarget {
    /// Out of an interface, perhaps through a next hop.
    Interface {
        /// Interface name.
        interface: String,
        /// Next hop, if the destination is not on the link itself.
        gateway: Option<IpAddr>,
    },
    /// Delivered to this host, whatever the address.
    Local {
        /// The interface that takes it: loopback.
        interface: String,
    },
    /// Answered with ICMP destination unreachable.
    Unreachable,
}
