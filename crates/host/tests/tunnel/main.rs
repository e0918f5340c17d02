//! The tunnel interface and all that leads to it, on the real kernel: needs root, `ip`, `wg`, `nft` and `wireguard-go`.

mod namespace;
mod reconcile;
mod wireguard;
