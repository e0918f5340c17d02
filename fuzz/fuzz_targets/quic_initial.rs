//! A client's first datagrams, and what a server may have said in between: each after its length in two bytes.

#![no_main]

use adit_proto::quic::{AddressProof, InitialReader};
use adit_proto::tls::LIMIT;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut reader = InitialReader::default();
    let (mut proof, mut without_server) = (AddressProof::default(), AddressProof::default());
    let mut rest = input;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (datagram, after) = after.split_at(length);
        let _ = reader.handle_input(datagram);
        assert!(reader.size() <= 2 * LIMIT);
        let _ = proof.handle_client(datagram);
        proof.handle_server(after);
        assert!(!without_server.handle_client(datagram));
        rest = after;
    }
});
