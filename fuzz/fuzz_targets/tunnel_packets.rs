//! Packets of the interface, packets from peers, and what the kernel says beside datagrams.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    adit_wireguard::fuzzing::superpacket(bytes);
    adit_wireguard::fuzzing::batch(bytes);
    adit_wireguard::fuzzing::ancillary(bytes);
});
