//! The configuration file of the gateway.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| adit_gateway::fuzzing::configuration(text));
