//! What is said over the front's socket: a line of JSON each way, with the version of this format.

use serde::{Deserialize, Serialize};

use crate::status::Status;
use crate::table::Table;

/// It changes when an older front, or an older client, would misunderstand.
pub(crate) const VERSION: u32 = 1;
/// More than a table of ten thousand names takes.
pub(crate) const LONGEST_LINE: usize = 16 << 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Envelope<T> {
    pub(crate) version: u32,
    #[serde(flatten)]
    pub(crate) content: T,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Put this table in force.
    Set(Table),
    Status {},
    /// End, with all connections.
    Stop {},
    /// Hand over the listeners and flows to the caller, and end with the last connection.
    TakeOver {},
    /// The caller has them, and goes on with them.
    Taken {},
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Status(Status),
    /// It is not done, and why.
    Refused {
        reason: String,
    },
    Stopping {},
    /// What the descriptors that follow are.
    HandOver(crate::handover::Inventory),
}

pub(crate) fn line<T: Serialize>(content: T) -> serde_json::Result<Vec<u8>> {
    let version = VERSION;
    let mut line = serde_json::to_vec(&Envelope { version, content })?;
    line.push(b'\n');
    Ok(line)
}
