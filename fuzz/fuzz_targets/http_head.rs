//! The head of an HTTP/1 request: whole, and cut where the first byte says, with the same answer where it is one.

#![no_main]

use adit_proto::http::{HeadReader, LIMIT, redirect};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((cut, stream)) = input.split_first() else {
        return;
    };
    let stream = &stream[..stream.len().min(LIMIT)];
    let whole = HeadReader::default().handle_input(stream);
    let mut reader = HeadReader::default();
    let mut pieces = Ok(None);
    for piece in stream.chunks(usize::from(*cut) + 1) {
        pieces = reader.handle_input(piece);
        if pieces != Ok(None) {
            break;
        }
    }
    assert!(reader.size() <= LIMIT);
    if let Ok(Some(head)) = whole {
        assert_eq!(pieces, Ok(Some(head.clone())));
        if let Some(host) = head.host {
            let answer = redirect(&host, 443, &head.path);
            let lines = answer.iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(lines, 5, "a line more than we wrote");
        }
    }
});
