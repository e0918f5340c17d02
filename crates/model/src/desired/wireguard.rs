//! The WireGuard side of the tunnel interface.

use std::collections::BTreeSet;

use imbl::OrdMap;
use ipnet::IpNet;

use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// What the WireGuard interface shall hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireGuard {
    /// The gateway's own key.
    pub private_key: PrivateKey,
    /// UDP port it listens on, both families.
    pub listen_port: u16,
    /// Peers by public key.
    pub peers: OrdMap<PublicKey, Peer>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The preshared key.
    pub preshared_key: PresharedKey,
    /// Prefixes that lead to it, and that it may send from.
    pub allowed_ips: BTreeSet<IpNet>,
}
