//! What devices ask for by port control protocols.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::protocol::Protocol;
use crate::state::{DeviceId, Family, Filter, LeaseId, Mechanism, Nonce};

/// A port that a device wants, or wants to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLease {
    /// Whose port it is, and who asks.
    pub parties: Parties,
    /// The protocol by which it is asked for.
    pub mechanism: Mechanism,
    /// The address family.
    pub family: Family,
    /// The transport protocol; none: whatever comes in, with all ports only.
    pub protocol: Option<Protocol>,
    /// The port on the device; 0: all ports.
    pub internal: u16,
    /// The public port that is wished for.
    pub external: Option<u16>,
    /// The public address that is wished for; it only matters where nothing but the wish will do, and for a new outbound lease.
    pub address: Option<IpAddr>,
    /// Nothing but the wish will do (PREFER_FAILURE; UPnP's AddPortMapping).
    pub exact: bool,
    /// How many consecutive ports; fewer may be given.
    pub count: u16,
    /// Whether the first public port is to be even where the internal one is, and odd where it is odd (RFC 7753 section 4.1).
    pub parity: bool,
    /// For how long, in seconds; not 0.
    pub lifetime: u32,
    /// The nonce of PCP.
    pub nonce: Option<Nonce>,
    /// Forgets the filters that there are.
    pub clear_filters: bool,
    /// Filters to add.
    pub filters: Vec<Filter>,
    /// The remote end: only what the device sends there is meant (PEER).
    pub remote: Option<SocketAddr>,
    /// TLS names that are to lead to the device.
    pub hostnames: BTreeSet<String>,
    /// Free text (UPnP).
    pub description: String,
}

impl RequestLease {
    /// The public port that is wished for; where nothing else will do and none is named, the number that the device has.
    pub const fn wished(&self) -> Option<u16> {
        match (self.external, self.exact) {
            (None, true) => Some(self.internal),
            (wished, _) => wished,
        }
    }
}

/// Whose port it is, and who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parties {
    /// The device that asks.
    pub asking: DeviceId,
    /// The device whose port it is; another one only by THIRD_PARTY (RFC 6887 section 13.1).
    pub owner: DeviceId,
}

impl Parties {
    /// A device that asks for itself.
    pub const fn own(device: DeviceId) -> Self {
        Self {
            asking: device,
            owner: device,
        }
    }

    /// The device that asks, where it asks for another.
    pub(crate) fn other(self) -> Option<DeviceId> {
        (self.asking != self.owner).then_some(self.asking)
    }
}

/// A port that a device no longer wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndLease {
    /// Whose port it is, and who asks.
    pub parties: Parties,
    /// The protocol by which it is asked.
    pub mechanism: Mechanism,
    /// The address family.
    pub family: Family,
    /// The transport protocol; none: whatever comes in, with all ports only.
    pub protocol: Option<Protocol>,
    /// Which port is meant.
    pub port: LeasePort,
    /// The nonce of PCP.
    pub nonce: Option<Nonce>,
}

/// How a lease is named by the protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeasePort {
    /// By the port on the device (PCP, NAT-PMP).
    Internal(u16),
    /// By the public port (UPnP).
    External(u16),
    /// By what it was named when it was given (UPnP pinholes).
    Id(LeaseId),
}

/// All ports of a transport protocol that a device obtained by a mechanism (RFC 6886 section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndLeases {
    /// The device.
    pub device: DeviceId,
    /// The mechanism.
    pub mechanism: Mechanism,
    /// The transport protocol.
    pub protocol: Protocol,
}

/// Time has passed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpireLeases {
    /// Leases whose time, as their devices were told it, is over; each with the expiry that was stored then. One that was
    /// written anew since is not over.
    pub over: Vec<(LeaseId, u64)>,
    /// When it was last looked for devices that expired, in seconds since 1970.
    pub since: u64,
}
