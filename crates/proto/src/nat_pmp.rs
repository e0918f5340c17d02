//! NAT Port Mapping Protocol, RFC 6886.

pub mod client;
pub mod server;
pub mod wire;
