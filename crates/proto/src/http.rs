//! The head of an HTTP/1 request, as far as a host has to be read from it, and the answers of one who only shows the way.

mod answer;
mod head;

pub use answer::{BAD_REQUEST, MISDIRECTED, UNREACHABLE, redirect};
pub use head::{Head, HeadReader};

/// The most bytes that a head may take.
pub const LIMIT: usize = 16 * 1024;

/// Why bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    #[error("the head of the request takes more than {LIMIT} bytes")]
    TooLong,
    #[error("the head of the request is malformed")]
    Malformed,
    #[error("the request names no host, or more than one")]
    Host,
}
