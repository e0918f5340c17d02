//! Problems: what is wrong now, told with its fix.

use serde::{Deserialize, Serialize};

/// Something that is wrong; `adit status` shows it until it is gone.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
pub struct Problem {
    /// Stable code.
    pub code: String,
    /// What it is about: `device nas`, `route 10.59.0.2/32`.
    pub object: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub fix: String,
}
