//! Changes that await their confirmation, in answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::timestamp::Timestamp;

/// A change that was confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Confirmed {
    /// The revision that says so.
    pub revision: u64,
    /// The revision of the change that stays.
    pub confirmed: u64,
}

/// A change that awaits its confirmation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Awaiting {
    /// The revision of the change.
    pub revision: u64,
    /// When it is taken back.
    #[schema(value_type = String, format = DateTime)]
    pub deadline: Timestamp,
}
