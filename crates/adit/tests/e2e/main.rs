//! The gateway from outside: the real binary in a lab, real `wg-quick` on the devices, and packets that arrive or do not.

mod access;
mod clock;
mod concurrency;
mod contract;
mod crash;
mod demo;
mod faults;
mod forward;
mod healing;
mod hostile;
mod hostile_connections;
mod hostile_packets;
mod isolation;
mod lifecycle;
mod loss;
mod mtu;
mod observation;
mod reach;
mod refusals;
mod routing;
mod secrets;
mod silence;
mod state;
mod support;
mod uplink_changes;
