//! The state of the whole gateway, in one answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use adit_model::key::PublicKey;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::uplink::Uplink;

/// What is up, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Number of the last committed change.
    pub revision: u64,
    /// Whether this host's kernel has all that is committed.
    pub applied: bool,
    /// What carries the packets: `kernel`, `adit` or `wireguard-go`.
    pub dataplane: String,
    /// Version of the daemon.
    pub version: String,
    /// The tunnel's interface.
    pub interface: String,
    /// UDP port of WireGuard.
    pub listen_port: u16,
    /// The gateway's WireGuard public key.
    #[schema(value_type = String)]
    pub public_key: PublicKey,
    /// What is wrong, and what to do about it.
    pub problems: Vec<StatusProblem>,
    /// How often something of ours was put back that others had changed, by kind.
    pub healed: BTreeMap<String, u64>,
    /// How many objects there are.
    pub counts: Counts,
    /// The tunnel's MTU.
    pub mtu: Mtu,
    /// The interfaces that face the Internet.
    pub uplinks: Vec<Uplink>,
    /// The API over TCP, if it is served.
    #[serde(default)]
    pub api: Option<Api>,
}

/// The API over TCP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Api {
    /// Where it listens.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// Whether it is encrypted.
    pub tls: bool,
    /// SHA-256 of its certificate.
    pub fingerprint: Option<String>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusProblem {
    /// A stable code.
    pub code: String,
    /// What it is about.
    pub object: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub fix: String,
}

/// How many objects there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// Devices.
    pub devices: usize,
    /// Devices that shook hands within the last three minutes.
    pub connected: usize,
    /// Subnets.
    pub subnets: usize,
    /// Forwards.
    pub forwards: usize,
    /// Pinholes.
    pub pinholes: usize,
}

/// The tunnel's MTU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mtu {
    /// Bytes.
    pub value: u16,
    /// Why it is this.
    pub reason: String,
}
