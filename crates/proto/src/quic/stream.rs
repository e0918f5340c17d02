//! What CRYPTO frames carry (RFC 9000 §19.6), put together in whatever order it comes.

use super::QuicError;
use crate::octets::Octets;
use crate::tls::{self, ClientHello, MESSAGE_HEADER, TlsError};

/// Clients cut their ClientHello into some pieces on purpose, and mix them; none into so many.
const MOST_PIECES: usize = 128;

/// The first bytes of the stream, with holes.
#[derive(Debug, Default)]
pub(super) struct CryptoStream {
    bytes: Vec<u8>,
    /// What there is of them: from and to, in order, with a hole between any two.
    pieces: Vec<(usize, usize)>,
}

impl CryptoStream {
    /// Takes the frames of an Initial.
    pub(super) fn handle_frames(&mut self, frames: &[u8]) -> Result<(), QuicError> {
        let mut cursor = Octets::new(frames);
        while let Some(kind) = cursor.take_u8() {
            self.handle_frame(kind, &mut cursor)
                .ok_or(QuicError::Malformed)??;
        }
        Ok(())
    }

    /// The ClientHello, when all of it is there.
    pub(super) fn client_hello(&self) -> Result<Option<ClientHello>, QuicError> {
        let present = match self.pieces.first() {
            Some((0, end)) => self.bytes.get(..*end).unwrap_or_default(),
            Some(_) | None => return Ok(None),
        };
        let Some(header) = present.first_chunk::<MESSAGE_HEADER>() else {
            return Ok(None);
        };
        let length = tls::message_length(header)?;
        match present.get(..length) {
            Some(message) => Ok(Some(ClientHello::read(message)?)),
            None => Ok(None),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes of memory that it holds.
    pub(super) fn size(&self) -> usize {
        self.bytes.capacity() + self.pieces.capacity() * size_of::<(usize, usize)>()
    }

    /// The frames that RFC 9000 §12.4 allows in an Initial; nothing when one is cut off or is another.
    fn handle_frame(&mut self, kind: u8, cursor: &mut Octets<'_>) -> Option<Result<(), QuicError>> {
        match kind {
            // PADDING, PING
            0 | 1 => {}
            // ACK, with counts of ECN
            2 | 3 => {
                cursor.take_variable()?;
                cursor.take_variable()?;
                let ranges = cursor.take_variable()?;
                cursor.take_variable()?;
                for _ in 0..ranges {
                    cursor.take_variable()?;
                    cursor.take_variable()?;
                }
                if kind == 3 {
                    for _ in 0..3 {
                        cursor.take_variable()?;
                    }
                }
            }
            // CRYPTO
            6 => {
                let offset = usize::try_from(cursor.take_variable()?).ok()?;
                let length = usize::try_from(cursor.take_variable()?).ok()?;
                let bytes = cursor.take_slice(length)?;
                return Some(self.insert(offset, bytes));
            }
            // CONNECTION_CLOSE
            0x1c => {
                cursor.take_variable()?;
                cursor.take_variable()?;
                let length = cursor.take_variable()?;
                cursor.take_slice(usize::try_from(length).ok()?)?;
            }
            _ => return None,
        }
        Some(Ok(()))
    }

    fn insert(&mut self, offset: usize, bytes: &[u8]) -> Result<(), QuicError> {
        let end = offset.saturating_add(bytes.len());
        if end > tls::LIMIT {
            return Err(TlsError::TooLong.into());
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        if let Some(place) = self.bytes.get_mut(offset..end) {
            place.copy_from_slice(bytes);
        }
        // Joins all that it touches.
        let before = self.pieces.partition_point(|(_, to)| *to < offset);
        let after = self.pieces.partition_point(|(from, _)| *from <= end);
        let touched = self.pieces.get(before..after).unwrap_or_default();
        let from = touched.first().map_or(offset, |piece| piece.0.min(offset));
        let to = touched.last().map_or(end, |piece| piece.1.max(end));
        self.pieces.splice(before..after, [(from, to)]);
        if self.pieces.len() > MOST_PIECES {
            return Err(QuicError::TooManyPieces);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_are_what_was_put_in(
            inserted in proptest::collection::vec((0_usize..200, 0_usize..30), 0..40),
        ) {
            let mut stream = CryptoStream::default();
            let mut model = [false; 256];
            for (offset, length) in inserted {
                stream.insert(offset, &vec![1; length]).unwrap();
                model[offset..offset + length].fill(true);
            }
            let mut seen = [false; 256];
            let mut last = None;
            for (from, to) in stream.pieces {
                prop_assert!(from < to && last.is_none_or(|last| last < from));
                last = Some(to);
                seen[from..to].fill(true);
            }
            prop_assert_eq!(seen, model);
        }
    }

    #[test]
    fn nothing_lies_beyond_the_limit() {
        let mut stream = CryptoStream::default();
        let too_long = Err(QuicError::Tls(TlsError::TooLong));
        assert_eq!(stream.insert(tls::LIMIT - 1, &[1]), Ok(()));
        assert_eq!(stream.insert(tls::LIMIT, &[1]), too_long);
        assert_eq!(stream.insert(usize::MAX, &[1]), too_long);
        assert_eq!(stream.client_hello(), Ok(None));
        let mut stream = CryptoStream::default();
        let many = (0..).map(|number| stream.insert(2 * number, &[1]));
        assert_eq!(many.take_while(Result::is_ok).count(), MOST_PIECES);
    }
}
