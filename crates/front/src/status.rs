//! What a front tells of itself.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::table::Mode;
use crate::table::Service;

/// The state of one front at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of the program.
    pub version: String,
    pub pid: u32,
    /// That of the table in force.
    pub revision: u64,
    /// TCP connections that lead to a device.
    pub connections: u64,
    /// Those that have not said yet where they want to.
    pub waiting: u64,
    /// QUIC flows.
    pub flows: u64,
    pub listeners: Vec<ListenerStatus>,
    /// Only where they are asked for: there may be many.
    #[serde(default)]
    pub names: Vec<NameStatus>,
    /// Since the process began.
    pub failures: Failures,
    /// Why no device can be shown its clients' addresses, if none can: connections of [`Mode::Transparent`] fail then.
    #[serde(default)]
    pub transparency: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    pub address: SocketAddr,
    pub service: Service,
    /// Why it does not listen. It is tried again every second.
    pub problem: Option<String>,
}

/// A name, or a fallback, at one listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameStatus {
    pub address: SocketAddr,
    pub service: Service,
    /// Nothing for the fallback.
    pub name: Option<String>,
    /// Connections, or flows, that are open.
    pub open: u64,
    /// All since the name leads there.
    pub total: u64,
}

/// How many connections led nowhere, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// They asked for a name that nobody has.
    pub unknown_name: u64,
    /// They did not say in time where they want to.
    pub too_slow: u64,
    /// They spoke something else.
    pub malformed: u64,
    /// Their source had as many as it may have, or all together had.
    pub limited: u64,
    /// The device did not answer.
    pub unreachable: u64,
}
