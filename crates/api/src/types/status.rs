//! The state of the whole gateway, in one answer.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use adit_model::key::PublicKey;
use adit_model::problem::{Problem, Severity};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::confirmation::Awaiting;
use super::uplink::Uplink;
use crate::timestamp::Timestamp;

/// What is up, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Number of the last committed change.
    pub revision: u64,
    /// Whether this host's kernel has all that is committed.
    pub applied: bool,
    /// The change that is taken back unless it is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaiting: Option<Awaiting>,
    /// What carries the packets: `kernel`, `adit`, `wireguard-go`, or `userspace` for another program.
    pub dataplane: String,
    /// Why it is that.
    #[serde(default)]
    pub dataplane_reason: String,
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
    /// What the front carries, while there are names and it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub front: Option<Front>,
    /// The tunnel's MTU.
    pub mtu: Mtu,
    /// The interfaces that face the Internet.
    pub uplinks: Vec<Uplink>,
    /// The API over TCP, if it is served.
    #[serde(default)]
    pub api: Option<Api>,
    /// The tunnel's networks, up to 20.
    #[serde(default)]
    pub subnets: Vec<StatusSubnet>,
    /// Connected devices, up to 20, those that shook hands last first.
    #[serde(default)]
    pub connected: Vec<StatusDevice>,
    /// Names of devices that may connect and never did since the tunnel is up, up to 20.
    #[serde(default)]
    pub unseen: Vec<String>,
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

/// A subnet in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusSubnet {
    /// Its name.
    pub name: String,
    /// Its IPv4 network.
    #[schema(value_type = String)]
    pub ipv4: Ipv4Net,
    /// Its IPv6 prefix.
    #[schema(value_type = Option<String>)]
    pub ipv6: Option<Ipv6Net>,
    /// How many devices it has.
    pub devices: usize,
}

/// A connected device in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusDevice {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its address in the tunnel.
    #[schema(value_type = String)]
    pub ipv4: Ipv4Addr,
    /// Where it was last heard from.
    #[schema(value_type = Option<String>)]
    pub endpoint: Option<SocketAddr>,
    /// When it last shook hands.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_handshake: Option<Timestamp>,
    /// Bytes from it since the tunnel is up.
    pub received_bytes: u64,
    /// Bytes to it since the tunnel is up.
    pub sent_bytes: u64,
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
    /// `error`: something does not work; `notice`: all works that this host can.
    #[serde(default)]
    pub severity: Severity,
}

impl From<&Problem> for StatusProblem {
    fn from(problem: &Problem) -> Self {
        Self {
            code: problem.code.clone(),
            object: problem.object.clone(),
            message: problem.message.clone(),
            fix: problem.fix.clone(),
            severity: problem.severity(),
        }
    }
}

/// How many objects there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// Devices.
    pub devices: usize,
    /// Devices that shook hands within the last three minutes.
    pub connected: usize,
    /// Devices that may connect and never did since the tunnel is up.
    #[serde(default)]
    pub unseen: usize,
    /// Subnets.
    pub subnets: usize,
    /// Forwards.
    pub forwards: usize,
    /// Pinholes.
    pub pinholes: usize,
    /// Leases.
    #[serde(default)]
    pub leases: usize,
}

/// The process that leads connections to devices by names, as it was a second ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Front {
    /// TCP connections that lead to devices.
    pub connections: u64,
    /// QUIC flows.
    pub flows: u64,
    /// Connections that have not said yet where they want to.
    pub waiting: u64,
    /// Connections that led nowhere since the process began.
    pub refused: FrontRefused,
}

/// Connections that led nowhere, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FrontRefused {
    /// Their source had as many as it may have, or all together had.
    pub limited: u64,
    /// They asked for a name that nobody has.
    pub unknown_name: u64,
    /// They did not say in time where they want to.
    pub too_slow: u64,
    /// They spoke something else.
    pub malformed: u64,
    /// The device did not answer.
    pub unreachable: u64,
}

/// The tunnel's MTU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mtu {
    /// Bytes.
    pub value: u16,
    /// Why it is this.
    pub reason: String,
}
