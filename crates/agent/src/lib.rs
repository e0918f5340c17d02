//! What a machine behind a gateway does by itself: finds the gateway, asks it for ports, and keeps them.

#![warn(clippy::wildcard_enum_match_arm)]

pub mod address;
pub mod connection;
pub mod gateway;
pub mod holder;
pub mod holdings;
pub mod igd;
pub mod keeper;
pub mod reach;
