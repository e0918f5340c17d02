//! Bodies of requests and answers, by object. Requests refuse fields that they do not know; answers may grow.

pub mod backup;
pub mod confirmation;
pub mod declaration;
pub mod device;
pub mod event;
pub mod forward;
pub mod import;
pub mod lease;
pub mod log;
pub mod page;
pub mod pinhole;
pub mod settings;
pub mod status;
pub mod subnet;
pub mod token;
pub mod uplink;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a removal took along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Removed {
    /// Counts of what went along.
    pub removed: RemovedCounts,
}

/// Counts of objects that went along with another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RemovedCounts {
    /// Devices of a subnet.
    pub devices: usize,
    /// Forwards to the devices.
    pub forwards: usize,
    /// Pinholes of the devices.
    pub pinholes: usize,
    /// Ports that the devices had opened by themselves.
    pub leases: usize,
    /// Prefixes delegated to the devices.
    pub delegations: usize,
    /// Tokens that were for one of the devices.
    pub tokens: usize,
}
