//! The manual state as a document, and what would become of the gateway by it.

use adit_model::change;
use adit_model::declaration::Declaration;
use adit_model::impact::Effect;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::log::LogObject;
use super::status::StatusProblem;

/// The manual state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Declared {
    /// The revision that it is of.
    pub revision: u64,
    /// The document, which can be applied again.
    pub declaration: Declaration,
}

/// A declaration that is to be compared, or applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// What shall be there; what it does not name goes.
    pub declaration: Declaration,
    /// Only if nothing was changed since this revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// What a declaration changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// The revision that was looked at, or made.
    pub revision: u64,
    /// What is added, changed and removed. The id of what would be added is not known yet, and 0.
    pub objects: Vec<LogObject>,
    /// The devices whose traffic is affected.
    pub affected: Vec<Affected>,
}

/// A device whose traffic is affected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Affected {
    /// Name of the device, as it was before.
    pub device: String,
    /// What happens to its traffic.
    pub effects: Vec<Effect>,
}

/// What the gateway has to do on its host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostPlan {
    /// The revision that the host is to have.
    pub revision: u64,
    /// How many steps there are.
    pub count: usize,
    /// The first thousand of them.
    pub steps: Vec<HostStep>,
    /// What cannot be looked at, for which nothing is planned.
    pub problems: Vec<StatusProblem>,
}

/// A change of one kernel object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostStep {
    /// `add`, `set`, `remove`, …
    pub verb: String,
    /// `route`, `peer`, `firewall`, …
    pub kind: String,
    /// All of it, for people.
    pub step: String,
}

impl From<Apply> for change::Apply {
    fn from(request: Apply) -> Self {
        Self {
            declaration: request.declaration,
            revision: request.revision,
        }
    }
}
