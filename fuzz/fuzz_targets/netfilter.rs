//! Netlink messages about tracked connections and the firewall.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| adit_host::fuzzing::netfilter(datagram));
