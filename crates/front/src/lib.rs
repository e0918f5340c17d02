//! The front: leads TLS, QUIC and HTTP connections to devices by the names that they ask for, and carries them.
//!
//! It is a process of its own, so that nothing that is done to the gateway's daemon touches a connection. [`serve`] is that
//! process, [`Client`] tells it the [`Table`] of what leads where.

mod client;
mod control;
mod handover;
mod status;
mod table;

pub use client::{Client, ClientError};
pub use status::{Failures, ListenerStatus, NameStatus, Status};
pub use table::{Limits, Listener, Mode, Route, Service, Table, TableError, Target};

/// Where the front of a gateway listens for its table, inside the runtime directory.
pub const SOCKET_NAME: &str = "front.sock";
