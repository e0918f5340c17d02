//! Addresses on the tunnel interface.

use ipnet::IpNet;

/// An address on an interface of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Interface name.
    pub interface: String,
    /// The address with its prefix length; always a host address here (/32 or /128), routes are explicit.
    pub address: IpNet,
}
