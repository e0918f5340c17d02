//! Decisions from outside: changes go in, and what the kernel shall hold comes out.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod addresses;
mod confirmation;
mod cost;
mod declaration;
mod desired;
mod incremental;
mod invariants;
mod leases;
mod problems;
mod refusals;
mod world;
