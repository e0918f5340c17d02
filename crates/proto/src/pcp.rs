//! Port Control Protocol version 2, RFC 6887, with port sets of RFC 7753.

pub mod client;
pub mod server;
pub mod wire;
