//! Packets with long headers (RFC 9000 §17.2), several of which one datagram may hold (§12.2).

use super::QuicError;
use crate::octets::Octets;

const LONG: u8 = 0x80;
const FIXED: u8 = 0x40;
const LONGEST_CONNECTION_ID: usize = 20;

/// What is different between the versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// An Initial as it stands in the datagram, protected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Initial<'a> {
    pub(super) version: Version,
    pub(super) destination: &'a [u8],
    /// The packet from its first byte to its last.
    pub(super) bytes: &'a [u8],
    /// Where the packet number begins.
    pub(super) number_offset: usize,
}

impl Version {
    const fn read(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            // RFC 9369 §3.1
            0x6b33_43cf => Some(Self::V2),
            _ => None,
        }
    }

    /// The type of an Initial in the first byte (RFC 9000 §17.2, RFC 9369 §3.2).
    const fn initial(self) -> u8 {
        match self {
            Self::V1 => 0,
            Self::V2 => 1,
        }
    }

    /// The type of a Retry, which alone has no length.
    const fn retry(self) -> u8 {
        match self {
            Self::V1 => 3,
            Self::V2 => 0,
        }
    }
}

/// The Initials of a datagram; packets of other kinds are passed over.
///
/// # Errors
/// The datagram begins with no packet of a version that is known, or one of its packets is cut off.
pub(super) fn initials(datagram: &[u8]) -> Result<Vec<Initial<'_>>, QuicError> {
    let mut found = Vec::new();
    let mut rest = datagram;
    while let Some(first) = rest.first() {
        if first & LONG == 0 || first & FIXED == 0 {
            // One with a short header is the last (RFC 9000 §12.2); zeros are padding that some clients add.
            break;
        }
        let (initial, length) = next(rest)?;
        let (_, after) = rest.split_at_checked(length).ok_or(QuicError::Malformed)?;
        found.extend(initial);
        rest = after;
    }
    if found.is_empty() {
        return Err(QuicError::NotInitial);
    }
    Ok(found)
}

/// The first packet if it is an Initial, and its length.
fn next(bytes: &[u8]) -> Result<(Option<Initial<'_>>, usize), QuicError> {
    let mut cursor = Octets::new(bytes);
    let (Some(first), Some(number)) = (cursor.take_u8(), cursor.take_u32()) else {
        return Err(QuicError::Malformed);
    };
    let version = Version::read(number).ok_or(QuicError::NotInitial)?;
    let kind = first >> 4 & 3;
    if kind == version.retry() {
        return Err(QuicError::NotInitial);
    }
    let is_initial = kind == version.initial();
    let (destination, length) = header(&mut cursor, is_initial).ok_or(QuicError::Malformed)?;
    if destination.len() > LONGEST_CONNECTION_ID {
        return Err(QuicError::Malformed);
    }
    let number_offset = bytes.len() - cursor.rest().len();
    cursor.take_slice(length).ok_or(QuicError::Malformed)?;
    let length = bytes.len() - cursor.rest().len();
    let (bytes, _) = bytes.split_at(length);
    let initial = is_initial.then_some(Initial {
        version,
        destination,
        bytes,
        number_offset,
    });
    Ok((initial, length))
}

/// The destination connection id, and the length of what follows the header.
fn header<'a>(cursor: &mut Octets<'a>, has_token: bool) -> Option<(&'a [u8], usize)> {
    let destination = cursor.take_vector8()?.rest();
    let _source = cursor.take_vector8()?;
    if has_token {
        let length = cursor.take_variable()?;
        cursor.take_slice(usize::try_from(length).ok()?)?;
    }
    let length = cursor.take_variable()?;
    Some((destination, usize::try_from(length).ok()?))
}
