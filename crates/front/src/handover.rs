//! What one front hands to the next: descriptors, and what they are.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::table::{Service, Table};

/// The descriptors in the order in which they come, and what the next front has to know of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inventory {
    pub(crate) table: Table,
    /// After the socket of the control connection.
    pub(crate) listeners: Vec<ListenerItem>,
    pub(crate) flows: Vec<FlowItem>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListenerItem {
    pub(crate) address: SocketAddr,
    pub(crate) service: Service,
}

/// A QUIC flow: the socket towards the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FlowItem {
    pub(crate) listener: SocketAddr,
    pub(crate) client: SocketAddr,
    /// Nothing for the fallback.
    pub(crate) name: Option<String>,
}
