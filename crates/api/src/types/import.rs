//! Another server taken over, in requests and answers.

use adit_model::import::Import;
use adit_model::key::PublicKey;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::device::Device;
use super::forward::Forward;
use super::subnet::Subnet;

/// Another server's configuration to take over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportServer {
    /// What it says.
    pub import: Import,
    /// Tell what would be, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was taken over, or would be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Imported {
    /// Whether it was.
    pub applied: bool,
    /// The key that devices know the gateway by.
    #[schema(value_type = String)]
    pub public_key: PublicKey,
    /// UDP port of WireGuard.
    pub listen_port: u16,
    /// The tunnel's networks.
    pub subnets: Vec<Subnet>,
    /// The devices.
    pub devices: Vec<Device>,
    /// The forwards.
    pub forwards: Vec<Forward>,
}
