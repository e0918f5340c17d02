//! Wire formats and protocol machines: bytes and time go in, bytes and events come out.

mod cursor;
pub mod http;
pub mod proxy_protocol;
pub mod quic;
pub mod tls;
