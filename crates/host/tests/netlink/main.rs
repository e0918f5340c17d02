//! Effects by netlink and `/proc/sys` on a real kernel, each test in a network namespace of its own. Needs root.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod facts;
mod namespace;
mod objects;
mod routes;
mod sysctls;
mod watching;
