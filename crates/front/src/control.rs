//! What is said over the front's socket: a line of JSON each way, with the version of this format.

pub(crate) mod server;

use serde::{Deserialize, Serialize};

use crate::handover::Inventory;
use crate::status::Status;
use crate::table::{Change, Table};

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
    /// Change the table that is in force.
    Change(Change),
    Status {
        /// Whether each name is told of, too.
        #[serde(default)]
        names: bool,
    },
    /// End, with all connections.
    Stop {},
    /// Say what there is to hand over. Datagrams wait from here on.
    TakeOver {},
    /// Send the descriptors.
    Send {},
    /// They have arrived, and the caller goes on with them: end with the last connection, and do what the caller says until
    /// then, over this very connection.
    Taken {},
    /// The caller has handed over and carries its last connections: tell it what leads where, over this very connection.
    Follow {},
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
    HandOver(Inventory),
    /// The caller is asked from here on.
    Following {},
}

pub(crate) fn line<T: Serialize>(content: T) -> serde_json::Result<Vec<u8>> {
    let version = VERSION;
    let mut line = serde_json::to_vec(&Envelope { version, content })?;
    line.push(b'\n');
    Ok(line)
}
