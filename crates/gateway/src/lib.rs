//! The gateway daemon: one writer, one reconciler, an HTTP interface.

#![warn(clippy::wildcard_enum_match_arm)]

mod answers;
mod bridge;
mod caller;
mod claim;
mod control;
mod http;
mod key;
mod options;
mod run;
mod writer;

pub use caller::{Bearer, Caller};
pub use control::{ChangeError, Committed, Control, PeerStatus, Snapshot};
pub use http::document;
pub use options::RunOptions;
pub use run::{run, teardown};
