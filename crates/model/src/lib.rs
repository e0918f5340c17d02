//! Every decision of Adit, and no effect: state, edits, addresses, policy, desired kernel objects.

pub mod configuration;
pub mod desired;
pub mod facts;
pub mod key;
pub mod protocol;
