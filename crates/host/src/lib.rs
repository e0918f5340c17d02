//! Observes, reconciles and applies on this Linux host.
pub mod netlink;
pub mod link;
pub mod address;
pub mod route;
pub mod rule;
pub mod neighbor;
pub mod watch;
