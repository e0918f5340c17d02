//! The front: leads TLS, QUIC and HTTP connections to devices by the names that they ask for, and carries them.
//!
//! It is a process of its own, so that nothing that is done to the gateway's daemon touches a connection. [`serve`] is that
//! process, [`Client`] tells it the [`Table`] of what leads where.

mod admission;
mod client;
mod control;
pub mod datagrams;
mod front;
mod handover;
mod pairs;
mod predecessors;
mod process;
mod route;
mod shared;
mod socket;
mod status;
mod table;
mod worker;

pub use client::{Client, ClientError};
pub use process::{ServeError, serve};
pub use status::{Failures, ListenerStatus, NameStatus, Status};
pub use table::{
    Change, Limits, Listener, ListenerChange, Mode, Route, Service, Table, TableError, Target,
};

/// Where the front of a gateway listens for its table, inside the runtime directory.
pub const SOCKET_NAME: &str = "front.sock";
