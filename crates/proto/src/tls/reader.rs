//! A ClientHello out of a stream: any number of segments, any number of records.

use super::{ClientHello, LIMIT, MESSAGE_HEADER, TlsError};
use crate::octets::Octets;

const RECORD_HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
/// RFC 8446 §5.1: the most that a record may hold.
const LARGEST_RECORD: u16 = 1 << 14;

/// Collects what a client sends until its ClientHello is whole. What was received stays untouched, to be handed on.
///
/// Its work is in proportion to the bytes, in whatever pieces they come, and it holds no more than [`LIMIT`] of them.
#[derive(Debug, Default)]
pub struct ClientHelloReader {
    received: Vec<u8>,
    record: Header<RECORD_HEADER>,
    /// Bytes of the record that are still to come.
    record_rest: usize,
    message: Header<MESSAGE_HEADER>,
    /// Bytes of the message that are still to come, once its header is there.
    message_rest: usize,
}

impl ClientHelloReader {
    /// How many bytes it would take.
    pub fn room(&self) -> usize {
        LIMIT.saturating_sub(self.received.len())
    }

    /// Takes what came next, [`Self::room`] bytes at most; says what the client wants when it has said all of it.
    ///
    /// # Errors
    /// What was received can be no ClientHello, or none within [`LIMIT`]. The reader is of no further use then.
    pub fn handle_input(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, TlsError> {
        if bytes.len() > self.room() {
            return Err(TlsError::TooLong);
        }
        self.keep(bytes);
        let mut rest = Octets::new(bytes);
        while !rest.is_empty() {
            if self.record_rest == 0 {
                self.open_record(&mut rest)?;
            } else if self.is_whole_after(&mut rest)? {
                return ClientHello::read(&self.joined()).map(Some);
            }
        }
        if self.room() == 0 {
            return Err(TlsError::TooLong);
        }
        Ok(None)
    }

    /// Everything that was received, from the first byte.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// Bytes of memory that it holds.
    pub fn size(&self) -> usize {
        self.received.capacity()
    }

    /// Grows in few steps, and never beyond [`LIMIT`].
    fn keep(&mut self, bytes: &[u8]) {
        let needed = self.received.len() + bytes.len();
        if needed > self.received.capacity() {
            let wanted = needed.max(2 * self.received.capacity()).min(LIMIT);
            self.received.reserve_exact(wanted - self.received.len());
        }
        self.received.extend_from_slice(bytes);
    }

    fn open_record(&mut self, rest: &mut Octets<'_>) -> Result<(), TlsError> {
        let is_full = self.record.fill(rest);
        let [kind, major, _, length @ ..] = self.record.bytes;
        let is_wrong = kind != HANDSHAKE || (self.record.length > 1 && major != 3);
        if is_wrong {
            return Err(TlsError::NotTls);
        }
        if is_full {
            let length = u16::from_be_bytes(length);
            // RFC 8446 §5.1: no handshake record is empty.
            if length == 0 || length > LARGEST_RECORD {
                return Err(TlsError::NotTls);
            }
            self.record = Header::default();
            self.record_rest = length.into();
        }
        Ok(())
    }

    /// Whether the message is whole after what there is of the record.
    fn is_whole_after(&mut self, rest: &mut Octets<'_>) -> Result<bool, TlsError> {
        let count = self.record_rest.min(rest.rest().len());
        self.record_rest -= count;
        let mut piece = Octets::new(rest.take_slice(count).unwrap_or_default());
        if self.message.length < MESSAGE_HEADER {
            let is_full = self.message.fill(&mut piece);
            let length = message_length(&self.message.bytes)?;
            if !is_full {
                return Ok(false);
            }
            self.message_rest = length - MESSAGE_HEADER;
        }
        self.message_rest = self.message_rest.saturating_sub(piece.rest().len());
        Ok(self.message_rest == 0)
    }

    /// The message without the records around it.
    fn joined(&self) -> Vec<u8> {
        let length = message_length(&self.message.bytes).unwrap_or(LIMIT);
        let mut message = Vec::with_capacity(length);
        let mut cursor = Octets::new(&self.received);
        while message.len() < length && cursor.take_slice(RECORD_HEADER - 2).is_some() {
            let size = cursor.take_u16().map_or(0, usize::from);
            let present = size.min(cursor.rest().len());
            message.extend_from_slice(cursor.take_slice(present).unwrap_or_default());
        }
        message.truncate(length);
        message
    }
}

/// The length of a ClientHello, header included, by its header; bytes that have not come yet are zero.
pub(crate) fn message_length(header: &[u8; MESSAGE_HEADER]) -> Result<usize, TlsError> {
    let mut cursor = Octets::new(header);
    if cursor.take_u8() != Some(super::client_hello::CLIENT_HELLO) {
        return Err(TlsError::NotClientHello);
    }
    let body = cursor
        .take_u24()
        .and_then(|length| usize::try_from(length).ok());
    body.map(|body| body.saturating_add(MESSAGE_HEADER))
        .filter(|length| *length <= LIMIT)
        .ok_or(TlsError::TooLong)
}

/// A header that may come in pieces.
#[derive(Debug)]
struct Header<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Default for Header<N> {
    fn default() -> Self {
        Self {
            bytes: [0; N],
            length: 0,
        }
    }
}

impl<const N: usize> Header<N> {
    /// Takes what is missing; whether all of it is there then.
    fn fill(&mut self, rest: &mut Octets<'_>) -> bool {
        let count = (N - self.length).min(rest.rest().len());
        for (place, byte) in self.bytes[self.length..]
            .iter_mut()
            .zip(rest.take_slice(count).unwrap_or_default())
        {
            *place = *byte;
        }
        self.length += count;
        self.length == N
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::client_hello::tests::hello;
    use super::*;

    /// The message in records of so many bytes.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |piece: &[u8]| {
            let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
            [&[HANDSHAKE, 3, 1][..], &length, piece].concat()
        };
        message.chunks(size).flat_map(record).collect()
    }

    fn name(hello: Option<ClientHello>) -> Option<String> {
        hello.and_then(|hello| hello.server_name)
    }

    fn post_quantum() -> Vec<u8> {
        hello(&[b"pq.example.org"], &[b"h2"], 1216)
    }

    #[test]
    fn a_hello_that_is_cut_at_every_byte_is_read_at_its_last() {
        let stream = records(&post_quantum(), 1 << 14);
        for cut in 1..stream.len() {
            let mut reader = ClientHelloReader::default();
            let (first, second) = stream.split_at(cut);
            assert_eq!(reader.handle_input(first), Ok(None), "{cut}");
            let read = reader.handle_input(second).unwrap();
            assert_eq!(name(read).as_deref(), Some("pq.example.org"), "{cut}");
            assert_eq!(reader.received(), stream, "{cut}");
        }
    }

    #[test]
    fn bytes_one_by_one_in_records_of_one_byte() {
        let stream = records(&post_quantum(), 1);
        let mut reader = ClientHelloReader::default();
        let (last, before) = stream.split_last().unwrap();
        for byte in before {
            assert_eq!(reader.handle_input(&[*byte]), Ok(None));
        }
        let read = reader.handle_input(&[*last]).unwrap();
        assert_eq!(name(read).as_deref(), Some("pq.example.org"));
        assert!(reader.size() <= LIMIT);
    }

    #[test]
    fn what_follows_the_hello_is_kept() {
        let mut stream = records(&post_quantum(), 1000);
        stream.extend([23, 3, 3, 0, 1, 0]);
        let mut reader = ClientHelloReader::default();
        assert!(reader.handle_input(&stream).unwrap().is_some());
        assert_eq!(reader.received(), stream);
    }

    #[test]
    fn other_protocols_are_known_by_their_first_bytes() {
        for (bytes, error) in [
            (&b"G"[..], TlsError::NotTls),
            (b"SSH-2.0-", TlsError::NotTls),
            (&[22, 2], TlsError::NotTls),
            (&[22, 3, 1, 0, 0], TlsError::NotTls),
            (&[22, 3, 1, 0x40, 1], TlsError::NotTls),
            (&[22, 3, 1, 0, 9, 2], TlsError::NotClientHello),
            (&[21, 3, 1, 0, 2, 2, 0], TlsError::NotTls),
        ] {
            let read = ClientHelloReader::default().handle_input(bytes);
            assert_eq!(read, Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn no_more_than_the_limit_is_held() {
        // As large as may be, in one record and in two.
        let overhead = hello(&[b"a.example"], &[], 0).len();
        for size in [LIMIT, LIMIT / 2 + 1] {
            let headers = RECORD_HEADER * LIMIT.div_ceil(size);
            let fitting = hello(&[b"a.example"], &[], LIMIT - overhead - headers);
            let stream = records(&fitting, size);
            assert_eq!(stream.len(), LIMIT);
            let read = ClientHelloReader::default().handle_input(&stream).unwrap();
            assert_eq!(name(read).as_deref(), Some("a.example"));
            let larger = hello(&[b"a.example"], &[], LIMIT + 1 - overhead - headers);
            let stream = records(&larger, size);
            let mut reader = ClientHelloReader::default();
            let read = reader.handle_input(&stream[..LIMIT]);
            assert_eq!(read, Err(TlsError::TooLong));
            assert!(reader.size() <= LIMIT);
        }
        let announced = [22, 3, 1, 0x40, 0, 1, 0, 0x40, 0];
        let read = ClientHelloReader::default().handle_input(&announced);
        assert_eq!(read, Err(TlsError::TooLong));
    }

    proptest! {
        #[test]
        fn the_answer_depends_on_the_bytes_and_not_on_the_pieces(
            size in 1_usize..2000,
            damage in proptest::option::of((0_usize..1600, any::<u8>())),
            cuts in proptest::collection::vec(1_usize..700, 1..40),
        ) {
            let mut stream = records(&post_quantum(), size);
            if let Some((place, value)) = damage {
                let place = place % stream.len();
                stream[place] = value;
            }
            stream.truncate(LIMIT);
            let whole = ClientHelloReader::default().handle_input(&stream);
            let mut reader = ClientHelloReader::default();
            let mut rest = &stream[..];
            let mut pieces = Ok(None);
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                rest = after;
                pieces = reader.handle_input(piece);
                if rest.is_empty() || pieces != Ok(None) {
                    break;
                }
            }
            prop_assert_eq!(pieces, whole);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut stream = vec![22, 3, 1, 0, 200, 1, 0, 0, 100];
            stream.extend(bytes);
            let _ = ClientHelloReader::default().handle_input(&stream);
        }
    }
}
