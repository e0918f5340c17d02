//! What the userspace WireGuard is asked for on its configuration socket.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| adit_wireguard::fuzzing::configuration(text));
