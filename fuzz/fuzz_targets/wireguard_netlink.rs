//! Netlink messages of the kernel's WireGuard.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| adit_host::fuzzing::wireguard_netlink(message));
