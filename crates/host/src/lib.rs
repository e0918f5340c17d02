//! Observes, reconciles and applies on this Linux host.
pub mod netlink;
pub mod link;
pub mod address;
pub mod route;
pub mod rule;
pub mod neighbor;
pub mod watch;
pub mod sysctl;
pub mod listener;
pub mod facts;
pub mod reconcile;
pub mod wireguard;
pub mod conntrack;
pub mod firewall;
mod netfilter;
