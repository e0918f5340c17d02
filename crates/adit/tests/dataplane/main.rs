//! The userspace WireGuard from outside: the real program between network namespaces, with those of others at the far end.

#[path = "../e2e/support/capture.rs"]
#[expect(dead_code, reason = "the tests of the gateway use the rest")]
mod capture;
mod control;
mod edges;
#[path = "../e2e/support/findings.rs"]
mod findings;
mod flood;
mod interop;
mod lifetime;
mod loss;
#[path = "../e2e/support/machine.rs"]
mod machine;
mod network;
mod numbered;
#[path = "../e2e/support/packet.rs"]
#[expect(dead_code, reason = "the tests of the gateway use the rest")]
mod packet;
mod peer;
mod program;
mod proxy;
mod random;
mod roaming;
mod routing;
mod traffic;
