//! The beginning of a TLS connection (RFC 8446), as far as a name has to be read from it.

mod client_hello;
mod name;
mod reader;

pub use client_hello::ClientHello;
pub(crate) use client_hello::HEADER as MESSAGE_HEADER;
#[cfg(test)]
pub(crate) use client_hello::tests::hello;
pub use name::host_name;
pub use reader::ClientHelloReader;
pub(crate) use reader::message_length;

/// The most bytes that a ClientHello may take, whether in records or in CRYPTO frames.
pub const LIMIT: usize = 16 * 1024;

/// A record with the fatal alert `unrecognized_name` (RFC 6066 §3, RFC 8446 §6).
pub const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Why bytes are no beginning of a TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    #[error("not a TLS handshake record")]
    NotTls,
    #[error("the first handshake message is no ClientHello")]
    NotClientHello,
    #[error("the ClientHello takes more than {LIMIT} bytes")]
    TooLong,
    #[error("the ClientHello is malformed: {0}")]
    Malformed(&'static str),
}
