//! The userspace WireGuard: TUN, UDP, Noise; serves the UAPI socket, so `wg` works.

mod allowed_ips;
mod checksum;
mod clock;
mod coalesce;
mod cookie;
mod device;
mod endpoint;
mod erased;
mod forward;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod header;
mod lock;
mod message;
#[cfg(test)]
mod namespace;
mod outgoing;
#[cfg(test)]
mod packet;
mod peer;
mod process;
mod replay;
mod segment;
mod socket;
mod timers;
mod transport;
mod tun;
mod uapi;
mod vnet;

pub use forward::ForwardError;
pub use process::{ServeError, serve};
