//! A ClientHello out of a client's first datagrams.

use super::keys::ClientKeys;
use super::packet::initials;
use super::stream::CryptoStream;
use super::{QuicError, SMALLEST_INITIAL};
use crate::tls::ClientHello;

/// Puts together what the Initials of one connection say, over any number of datagrams in any order.
#[derive(Debug, Default)]
pub struct InitialReader {
    keys: Option<ClientKeys>,
    stream: CryptoStream,
}

impl InitialReader {
    /// Takes a datagram; says what the client wants when it has said all of it.
    ///
    /// # Errors
    /// The datagram says nothing of it, or nothing that may be believed. What was said before still counts, unless it was
    /// [`QuicError::Tls`].
    pub fn handle_input(&mut self, datagram: &[u8]) -> Result<Option<ClientHello>, QuicError> {
        let initials = initials(datagram)?;
        if datagram.len() < SMALLEST_INITIAL {
            return Err(QuicError::TooSmall);
        }
        for initial in initials {
            let keys = match self.keys.take() {
                Some(keys) => keys,
                None => ClientKeys::derive(initial.version, initial.destination)?,
            };
            if keys.version() != initial.version {
                self.keys = Some(keys);
                return Err(QuicError::NotInitial);
            }
            let frames = keys.open(&initial);
            // Keys count when they have opened something.
            if frames.is_ok() || !self.stream.is_empty() {
                self.keys = Some(keys);
            }
            self.stream.handle_frames(&frames?)?;
        }
        self.stream.client_hello()
    }

    /// Bytes of memory that it holds.
    pub fn size(&self) -> usize {
        self.stream.size()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::packet::Version;
    use super::*;
    use crate::tls::hello;

    const DESTINATION: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];

    fn crypto(message: &[u8], from: usize, to: usize) -> Vec<u8> {
        let mut frame = vec![6];
        frame.extend((0x4000 | from as u16).to_be_bytes());
        frame.extend((0x4000 | (to - from) as u16).to_be_bytes());
        frame.extend(&message[from..to]);
        frame
    }

    fn padded(mut frames: Vec<u8>, size: usize) -> Vec<u8> {
        frames.resize(size.max(frames.len()), 0);
        frames
    }

    fn unhexed(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn the_packets_of_the_examples() {
        // RFC 9001 appendix A.2.
        let first = unhexed(include_str!("vectors/initial-v1.hex"));
        // RFC 9369 appendix A.2: the same frames; its first bytes and its tag are given there.
        let opened = initials(&first).unwrap();
        let keys = ClientKeys::derive(Version::V1, &DESTINATION).unwrap();
        let frames = keys.open(&opened[0]).unwrap();
        let keys = ClientKeys::derive(Version::V2, &DESTINATION).unwrap();
        let second = keys.seal(&DESTINATION, 2, &frames, &[]);
        let start = "d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485";
        assert!(second.starts_with(&unhexed(start)));
        assert!(second.ends_with(&unhexed("a18b2faa745b6fe189cf772a9f84cbfc")));
        for datagram in [first, second] {
            assert_eq!(datagram.len(), 1200);
            let read = InitialReader::default().handle_input(&datagram).unwrap();
            assert_eq!(read.unwrap().server_name.as_deref(), Some("example.com"));
            let mut damaged = datagram;
            damaged[600] ^= 1;
            let read = InitialReader::default().handle_input(&damaged);
            assert_eq!(read, Err(QuicError::Protection));
        }
    }

    #[test]
    fn small_datagrams_and_other_packets_say_nothing() {
        let keys = ClientKeys::derive(Version::V1, &DESTINATION).unwrap();
        let message = hello(&[b"a.example"], &[b"h3"], 32);
        let frames = crypto(&message, 0, message.len());
        let small = keys.seal(&DESTINATION, 0, &frames, &[]);
        let mut reader = InitialReader::default();
        assert_eq!(reader.handle_input(&small), Err(QuicError::TooSmall));
        // A short header, version negotiation, a version that nobody knows.
        for start in [&[0x40, 1][..], &[0xc0, 0, 0, 0, 0], &[0xc0, 0x1a, 2, 3, 4]] {
            let datagram = padded(start.to_vec(), 1200);
            assert_eq!(reader.handle_input(&datagram), Err(QuicError::NotInitial));
        }
        let large = keys.seal(&DESTINATION, 0, &padded(frames, 1200), &[1; 40]);
        assert!(reader.handle_input(&large).unwrap().is_some());
    }

    #[test]
    fn a_stranger_does_not_spoil_the_keys() {
        let message = hello(&[b"a.example"], &[], 32);
        let keys = ClientKeys::derive(Version::V1, &DESTINATION).unwrap();
        let frames = padded(crypto(&message, 0, message.len()), 1200);
        let good = keys.seal(&DESTINATION, 0, &frames, &[]);
        let mut bad = good.clone();
        bad[700] ^= 1;
        let mut reader = InitialReader::default();
        assert_eq!(reader.handle_input(&bad), Err(QuicError::Protection));
        assert!(reader.handle_input(&good).unwrap().is_some());
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_over_any_datagrams_make_the_hello(
            cuts in proptest::collection::btree_set(1_usize..1400, 0..12),
            order in any::<u64>(),
            coalesced in any::<bool>(),
            second in any::<bool>(),
        ) {
            let version = if second { Version::V2 } else { Version::V1 };
            let keys = ClientKeys::derive(version, &DESTINATION).unwrap();
            let message = hello(&[b"pq.example.org"], &[b"h3"], 1216);
            let mut ends: Vec<usize> = cuts.into_iter().filter(|cut| *cut < message.len()).collect();
            ends.push(message.len());
            let mut from = 0;
            let mut packets = Vec::new();
            for (number, to) in ends.into_iter().enumerate() {
                let size = if coalesced { 0 } else { 1200 };
                let frames = padded(crypto(&message, from, to), size);
                packets.push(keys.seal(&DESTINATION, number as u32, &frames, &[]));
                from = to;
            }
            let mut random = order;
            for place in (1..packets.len()).rev() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                packets.swap(place, (random >> 33) as usize % (place + 1));
            }
            let datagrams = if coalesced {
                vec![padded(packets.concat(), 1200)]
            } else {
                packets
            };
            let mut reader = InitialReader::default();
            let (last, before) = datagrams.split_last().unwrap();
            for datagram in before {
                prop_assert_eq!(reader.handle_input(datagram), Ok(None));
            }
            let read = reader.handle_input(last).unwrap().unwrap();
            prop_assert_eq!(read.server_name.as_deref(), Some("pq.example.org"));
            prop_assert!(reader.size() < 2 * crate::tls::LIMIT);
        }

        #[test]
        fn any_frames_are_survived(frames in proptest::collection::vec(any::<u8>(), 0..200)) {
            let keys = ClientKeys::derive(Version::V1, &DESTINATION).unwrap();
            let datagram = keys.seal(&DESTINATION, 0, &padded(frames, 1200), &[]);
            let _ = InitialReader::default().handle_input(&datagram);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let datagram = padded([&[0xc0, 0, 0, 0, 1][..], &bytes].concat(), 1200);
            let _ = InitialReader::default().handle_input(&datagram);
        }
    }
}
