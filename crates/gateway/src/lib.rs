//! The gateway daemon: one writer, one reconciler, an HTTP interface.

#![warn(clippy::wildcard_enum_match_arm)]

mod access;
mod answers;
mod audit;
mod backup;
mod bridge;
mod caller;
mod certificate;
mod claim;
mod confirmation;
mod control;
mod doctor;
mod events;
mod fleeting;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod keeper;
mod key;
mod metrics;
mod options;
mod owner;
mod policing;
mod ports;
mod run;
mod trouble;
mod writer;

pub use adit_host::wireguard::{Program, Starter};
pub use adit_store::{Downgraded, Recovered, Recovery};
pub use backup::{back_up, complete, restore_from};
pub use caller::{Bearer, Caller};
pub use confirmation::Confirm;
pub use control::{ApiListener, ChangeError, Committed, Control, PeerStatus, Snapshot};
pub use doctor::{examine, lent_addresses};
pub use http::document;
pub use options::RunOptions;
pub use run::{Ending, downgrade, recover, run, teardown};
