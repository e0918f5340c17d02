//! HTTP types, errors and a typed client.

#![warn(clippy::wildcard_enum_match_arm)]

pub mod client;
pub mod problem;
mod schema;
pub mod text;
pub use adit_model::timestamp;
pub mod types;
