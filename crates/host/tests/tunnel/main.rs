//! The tunnel interface and all that leads to it, on the real kernel: needs root, `ip`, `wg`, `nft` and `wireguard-go`.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![expect(clippy::print_stdout, reason = "measurements")]

mod churn;
mod namespace;
mod openings;
mod reconcile;
mod wireguard;
