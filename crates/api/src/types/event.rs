//! What the stream of events tells.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::status::StatusProblem;
use crate::timestamp::Timestamp;

/// One event of the stream; `event` names its kind, as the `event` field of the stream does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// The first event: what follows comes after this revision.
    Start(Mark),
    /// What the listener missed is no longer known: look at everything again, what follows comes after this revision.
    Reset(Mark),
    /// A revision was committed.
    Edits(Edits),
    /// Devices that sent or got packets, shook hands or moved.
    Traffic(Traffic),
    /// Problems came or went.
    Problems(Problems),
}

/// A point in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mark {
    /// The revision.
    pub revision: u64,
}

/// What a revision brought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Edits {
    /// The revision.
    pub revision: u64,
    /// In order.
    pub edits: Vec<EditEvent>,
}

/// One object that was set or removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EditEvent {
    /// `device`, `subnet`, …
    pub kind: String,
    /// The object's id; 0 where there is one object.
    pub id: u64,
    /// The object as the interface shows it; null where it was removed.
    pub object: Option<serde_json::Value>,
}

/// How devices do that were heard of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Only those for which something is not as it was.
    pub devices: Vec<DeviceTraffic>,
}

/// How one device does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceTraffic {
    /// The device's id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Whether it shook hands within the last three minutes.
    pub connected: bool,
    /// When it last did.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_handshake: Option<Timestamp>,
    /// Where it was last heard from.
    #[schema(value_type = Option<String>)]
    pub endpoint: Option<std::net::SocketAddr>,
    /// Bytes from it since the tunnel is up.
    pub received_bytes: u64,
    /// Bytes to it since the tunnel is up.
    pub sent_bytes: u64,
}

/// Problems that came or went since the last such event, or since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problems {
    /// New ones.
    pub appeared: Vec<StatusProblem>,
    /// Those that are gone.
    pub cleared: Vec<StatusProblem>,
}

impl Event {
    /// The name of its kind.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Reset(_) => "reset",
            Self::Edits(_) => "edits",
            Self::Traffic(_) => "traffic",
            Self::Problems(_) => "problems",
        }
    }

    /// The revision that a listener has seen with it.
    pub const fn revision(&self) -> Option<u64> {
        match self {
            Self::Start(mark) | Self::Reset(mark) => Some(mark.revision),
            Self::Edits(edits) => Some(edits.revision),
            Self::Traffic(_) | Self::Problems(_) => None,
        }
    }
}
