//! What a userspace WireGuard answers, and what the kernel lists as sockets.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    adit_host::fuzzing::uapi(text);
    adit_host::fuzzing::listeners(text);
});
