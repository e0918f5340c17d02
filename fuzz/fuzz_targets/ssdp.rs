//! Searches for a gateway, and what gateways answer to ours.

#![no_main]

use adit_proto::igd::{Identity, SearchTarget, Version, receive_search};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    let identity = Identity {
        seed: [7; 16],
        name: "gateway".to_owned(),
        software: "0".to_owned(),
        boot: 1,
    };
    let server = ([10, 59, 0, 1], 5000).into();
    for is_multicast in [false, true] {
        let Some(search) = receive_search(datagram, is_multicast, &identity, server) else {
            continue;
        };
        // What we say is what our own client understands, and leads to us.
        for answer in &search.answers {
            for version in [Version::One, Version::Two] {
                let location = SearchTarget::Gateway(version).answered(answer, server.ip());
                assert!(location.is_none_or(|location| location.address == server));
            }
        }
    }
    let source = [192, 168, 1, 1].into();
    if let Some(location) = SearchTarget::Gateway(Version::One).answered(datagram, source) {
        assert_eq!(location.address.ip(), source);
    }
});
