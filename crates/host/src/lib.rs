//! Observes, reconciles and applies on this Linux host.

pub mod address;
pub mod conntrack;
pub mod facts;
pub mod firewall;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod link;
pub mod listener;
pub mod neighbor;
mod netfilter;
pub mod netlink;
pub mod policing;
pub mod reconcile;
pub mod route;
pub mod rule;
pub mod sysctl;
pub mod watch;
pub mod wireguard;
