//! Where datagrams of a peer come from and go to.

use std::net::{IpAddr, SocketAddr};

/// A peer's address, and ours that it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub address: SocketAddr,
    /// None: the routing table chooses.
    pub source: Option<Source>,
}

/// Which of our addresses a datagram came to, and by which interface: answers leave from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub address: IpAddr,
    pub interface: u32,
}

impl Endpoint {
    #[must_use]
    pub(crate) const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            source: None,
        }
    }
}
