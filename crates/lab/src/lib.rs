//! An Internet in a box: named topologies of network namespaces.

mod build;
mod device;
mod gateway;
mod host;
mod lab;
mod names;
mod process;
mod registry;
mod teardown;
pub mod topology;
mod wait;

pub use device::WgQuick;
pub use gateway::Gateway;
pub use host::Host;
pub use lab::{Lab, Summary, TemporaryLab, require_root};
pub use nix::sys::signal::Signal;
pub use process::{Output, Process};
pub use topology::Topology;
pub use wait::wait_until;
