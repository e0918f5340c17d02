//! Netlink messages about links, addresses, routes, rules and neighbours.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| adit_host::fuzzing::route_netlink(datagram));
