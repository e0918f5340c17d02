//! A ClientHello out of a stream: whole, and cut where the first byte says, with the same answer.

#![no_main]

use adit_proto::tls::{ClientHelloReader, LIMIT};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((cut, stream)) = input.split_first() else {
        return;
    };
    let stream = &stream[..stream.len().min(LIMIT)];
    let whole = ClientHelloReader::default().handle_input(stream);
    let mut reader = ClientHelloReader::default();
    let mut pieces = Ok(None);
    for piece in stream.chunks(usize::from(*cut) + 1) {
        pieces = reader.handle_input(piece);
        if pieces != Ok(None) {
            break;
        }
    }
    assert_eq!(pieces, whole);
    assert!(reader.size() <= LIMIT);
    assert!(stream.starts_with(reader.received()));
});
