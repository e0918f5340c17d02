//! Wire formats and protocol machines, without I/O: time and random bytes are arguments.

#![warn(clippy::wildcard_enum_match_arm)]
#![warn(clippy::indexing_slicing)]

pub mod http;
pub mod igd;
mod jitter;
pub mod nat_pmp;
mod octets;
pub mod pcp;
pub mod port_control;
pub mod proxy_protocol;
pub mod quic;
pub mod tls;
