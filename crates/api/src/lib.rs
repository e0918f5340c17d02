//! HTTP types, errors and a typed client.

pub mod client;
pub mod problem;
mod schema;
pub mod text;
pub mod timestamp;
pub mod types;
