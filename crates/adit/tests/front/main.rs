//! The front from outside: the real program between network namespaces, with real clients and servers around it.

mod carrying;
mod device;
#[path = "../e2e/support/findings.rs"]
mod findings;
mod limits;
#[path = "../e2e/support/machine.rs"]
mod machine;
mod names;
mod network;
mod quic;
mod takeover;
mod web;
