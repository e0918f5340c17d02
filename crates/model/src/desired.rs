//! What the kernel shall hold, derived from state and facts; one file a kind of kernel object.

pub mod address;
pub mod firewall;
pub mod link;
pub mod neighbor;
pub mod route;
pub mod rule;
pub mod sysctl;
pub mod wireguard;
