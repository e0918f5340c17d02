//! What the kernel's WireGuard says of its peers.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| adit_host::fuzzing::wireguard_netlink(message));
