//! Why a device does not get a port; every protocol has its own words for it.

use super::Refusal;
use crate::protocol::PortRange;

/// Why a request of a device for a port is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseRefusal {
    /// The device may not open ports by itself, or may not connect.
    #[error("the device may not open ports by itself")]
    NotAllowed,
    /// The device may not open ports for others, or there is no such other.
    #[error("the device may not open ports for another")]
    ThirdParty,
    /// All ports at once are not given.
    #[error("all ports at once are not given")]
    AllPorts,
    /// The lease is that of somebody with another nonce.
    #[error("the nonce is not the one that the lease was obtained with")]
    WrongNonce {
        /// Seconds for which the lease is in force still.
        remaining: u32,
    },
    /// The port is an administrator's, or was obtained by another protocol.
    #[error("the port was not opened in this way")]
    NotOwner,
    /// Only what the device sends is concerned, so there is nothing to end.
    #[error("an outbound lease cannot be ended")]
    Outbound,
    /// The device has as many ports as it may.
    #[error("the device has {limit} ports open, as many as it may")]
    Quota {
        /// How many that is.
        limit: u32,
    },
    /// No port is free that the device may have.
    #[error("no port is free that the device may have")]
    Exhausted,
    /// Nothing but the wish would do, and it cannot be.
    #[error("the port that is wished for cannot be given: {obstacle}")]
    Unavailable {
        /// What is in the way.
        obstacle: Obstacle,
        /// Seconds for which it is in the way at least, if that is known.
        remaining: Option<u32>,
    },
    /// More remote peers than can be told apart, or what is open lets in others.
    #[error("more than {limit} filters")]
    Filters {
        /// How many there may be; 0 where nothing can be filtered.
        limit: usize,
    },
    /// The gateway has no address to open a port on.
    #[error("the gateway has no public address for the device")]
    NoAddress,
    /// What is asked for cannot have TLS names.
    #[error("TLS names are not offered for this")]
    Hostnames,
    /// A TLS name leads to another device, or to another port.
    #[error("the TLS name `{hostname}` is taken")]
    HostnameTaken {
        /// The name.
        hostname: String,
    },
}

/// What is in the way of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// It belongs to another lease.
    #[error("another lease has it")]
    Lease,
    /// It belongs to a forward or pinhole of an administrator.
    #[error("a forward or pinhole has it")]
    Manual,
    /// A service of the gateway listens there.
    #[error("the gateway itself needs it")]
    Service,
    /// The device may not have it.
    #[error("it is none of the ports that the device may have")]
    Policy,
    /// It is one of those that outbound connections get.
    #[error("outbound connections use {0}")]
    Outbound(PortRange),
    /// The address is not the device's public one.
    #[error("the address is another")]
    Address,
    /// The device has this lease with another public port.
    #[error("the lease has another public port")]
    Existing,
}

impl From<LeaseRefusal> for Refusal {
    fn from(reason: LeaseRefusal) -> Self {
        Self::LeaseRefused { reason }
    }
}
