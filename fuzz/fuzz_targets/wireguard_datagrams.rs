//! Datagrams from the network, to a WireGuard that has a session.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| adit_wireguard::fuzzing::datagrams(bytes));
