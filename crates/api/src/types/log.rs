//! The audit log in answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::timestamp::Timestamp;

/// A part of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Log {
    /// In the order that was asked for.
    pub entries: Vec<LogEntry>,
    /// What to ask for to go on; none at the end.
    pub next: Option<String>,
}

/// One entry of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    /// Its place in the log, in the order of what happened.
    pub number: u64,
    /// When it happened, by the clock of that time.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// The revision that it came with; the one before it where it changed nothing.
    pub revision: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: LogEvent,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogEvent {
    /// Who did it.
    pub who: Who,
    /// What was done.
    pub action: Action,
    /// What it was done to; the first is what it was asked for.
    #[serde(default)]
    pub objects: Vec<LogObject>,
    /// How many further objects there were.
    #[serde(default)]
    pub more: usize,
    /// What else is to be said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Who {
    /// A user of the gateway's host, at the administrator's socket.
    User {
        /// The user's number.
        uid: Option<u32>,
        /// The user's name then.
        name: Option<String>,
    },
    /// A program with a token.
    Token {
        /// The token's id.
        id: u64,
        /// The token's name then.
        name: String,
        /// The address that it came from.
        source: String,
    },
    /// Nobody who could be told.
    Nobody,
    /// The gateway by itself.
    Gateway,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Something was added.
    Add,
    /// Something was changed.
    Set,
    /// A device got another key.
    Rekey,
    /// Something was removed.
    Remove,
    /// The state was made what a declaration says.
    Apply,
    /// A change was confirmed.
    Confirm,
    /// A change was taken back, since nobody confirmed it in time.
    TakeBack,
    /// Another server was taken over.
    Import,
    /// A configuration with a preshared key was shown.
    ShowConfiguration,
    /// Everything was shown, for a backup.
    BackUp,
    /// Requests without good credentials were refused; one entry tells of all within a minute.
    RefuseCredentials,
    /// The gateway started.
    Start,
    /// The gateway was told to stop.
    Stop,
    /// What is stored of this entry is not what was written.
    Damaged,
}

/// An object that something was done to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogObject {
    /// `device`, `forward`, …
    pub kind: String,
    /// Its id; 0 where there is one object.
    pub id: u64,
    /// Its name then; for a forward or pinhole its ports and the device.
    pub name: String,
    /// What became of it.
    pub verb: Verb,
    /// Fields that are not what they were. Secrets are told as `hidden`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, FieldChange>,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// It is new.
    Added,
    /// It is another than before.
    Changed,
    /// It is gone.
    Removed,
    /// It was looked at.
    Shown,
}

/// What a field was, and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldChange {
    /// Before; null where there was none.
    pub from: serde_json::Value,
    /// After; null where there is none.
    pub to: serde_json::Value,
}

/// Which part of the audit log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogParameters {
    /// At most so many, up to 500; 100 unless said.
    pub limit: Option<usize>,
    /// Those that follow the entry with this number, in the order that is asked for.
    pub after: Option<u64>,
    /// The newest first unless said.
    #[param(inline)]
    pub order: LogOrder,
    /// Those about one device and what leads to it, by id or name.
    pub device: Option<String>,
    /// Those about one object: `forward/7`, `token/backup`.
    pub object: Option<String>,
    /// Those since then, as RFC 3339 writes it.
    #[param(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
}

/// The order of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogOrder {
    /// The newest first.
    #[default]
    Newest,
    /// The oldest first.
    Oldest,
}
