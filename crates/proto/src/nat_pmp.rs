//! NAT Port Mapping Protocol, RFC 6886.

pub mod server;
pub mod wire;
