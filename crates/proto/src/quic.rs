//! The beginning of a QUIC connection, versions 1 (RFC 9000) and 2 (RFC 9369), as far as a name has to be read from it.

mod address;
mod keys;
mod packet;
mod reader;
mod stream;

pub use address::AddressProof;
pub use reader::InitialReader;

use crate::tls::TlsError;

/// RFC 9000 §14.1: a client sends no Initial in a smaller datagram.
pub const SMALLEST_INITIAL: usize = 1200;

/// Why a datagram says nothing of where its connection wants to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuicError {
    #[error("no Initial packet of a version that is known")]
    NotInitial,
    #[error("an Initial in a datagram of fewer than {SMALLEST_INITIAL} bytes")]
    TooSmall,
    #[error("the packet is malformed")]
    Malformed,
    #[error("the packet is not protected by the keys of its connection")]
    Protection,
    #[error("the CRYPTO frames are in too many pieces")]
    TooManyPieces,
    #[error(transparent)]
    Tls(#[from] TlsError),
}
