//! Every decision of Adit, and no effect: state, edits, addresses, policy, desired kernel objects.

#![warn(clippy::wildcard_enum_match_arm)]

pub mod address;
pub mod change;
pub mod configuration;
pub mod confinement;
pub mod confirmation;
pub mod decide;
pub mod declaration;
pub mod desired;
pub mod diagnosis;
pub mod edit;
pub mod facts;
pub mod foreign;
pub mod hostname;
pub mod impact;
pub mod import;
pub mod key;
mod name;
pub mod plan;
pub mod policing;
pub mod problem;
pub mod protocol;
pub mod refusal;
pub mod state;
pub mod survey;
pub mod timestamp;
pub mod uplink;
