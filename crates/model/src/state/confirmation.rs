//! A change that awaits its confirmation, with what takes it back.

use serde::{Deserialize, Serialize};

use crate::edit::{Key, Object};

/// The last change that somebody has to confirm. Committed with the change itself, so that neither is there without the
/// other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// The revision that the change made.
    pub revision: u64,
    /// When it is taken back, in seconds since 1970.
    pub deadline: u64,
    /// What it did, object by object.
    pub undo: Vec<Undo>,
}

/// What a change made of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    /// The object.
    pub key: Key,
    /// What it was; none where there was none.
    pub before: Option<Object>,
    /// What it became; none where it went.
    pub after: Option<Object>,
}
