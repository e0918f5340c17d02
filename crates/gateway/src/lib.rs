//! The gateway daemon: one writer, one reconciler, an HTTP interface.

#![warn(clippy::wildcard_enum_match_arm)]

mod access;
mod answers;
mod audit;
mod bridge;
mod caller;
mod certificate;
mod claim;
mod control;
mod events;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod keeper;
mod key;
mod metrics;
mod options;
mod policing;
mod run;
mod trouble;
mod writer;

pub use adit_store::{Recovered, Recovery};
pub use caller::{Bearer, Caller};
pub use control::{ApiListener, ChangeError, Committed, Control, PeerStatus, Snapshot};
pub use http::document;
pub use options::RunOptions;
pub use run::{recover, run, teardown};
