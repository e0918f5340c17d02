//! What nft prints about our table.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|listing: &[u8]| adit_host::fuzzing::firewall_listing(listing));
