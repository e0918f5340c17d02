//! Delegations: prefixes routed to a device, for the network behind it.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{DelegationId, DeviceId};

/// One delegated prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// Identifier.
    pub id: DelegationId,
    /// The device it is routed to.
    pub device: DeviceId,
    /// The prefix, host bits zero.
    pub prefix: IpNet,
}
