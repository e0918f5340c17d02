//! Problems: what is wrong now, told with its fix.

mod device;
mod foreign;
mod forward;
mod lease;
mod origin;
mod uplink;

pub use foreign::of_foreign;
use serde::{Deserialize, Serialize};

pub use self::origin::{Origin, OriginUplink, of_origin};

use crate::facts::Facts;
use crate::state::State;
use crate::uplink::Uplink;

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

/// How bad a problem is.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not work that should.
    #[default]
    Error,
    /// All works that can on this host; something could not be had.
    Notice,
}

/// The codes of what is told and is no fault.
const NOTICES: [&str; 1] = ["no-ipv6"];

impl Problem {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        if NOTICES.contains(&self.code.as_str()) {
            Severity::Notice
        } else {
            Severity::Error
        }
    }
}

/// What is wrong that the state and the host show, the host's own troubles first; `now` is in seconds since 1970.
pub fn of_state(state: &State, facts: &Facts, now: u64) -> Vec<Problem> {
    let uplinks = crate::uplink::list(state, facts);
    let view = View {
        state,
        facts,
        uplinks: &uplinks,
        now,
    };
    let mut problems = Vec::new();
    uplink::find(&view, &mut problems);
    device::find(&view, &mut problems);
    forward::find(&view, &mut problems);
    lease::find(&view, &mut problems);
    problems
}

/// What problems are found in.
struct View<'a> {
    state: &'a State,
    facts: &'a Facts,
    uplinks: &'a [Uplink],
    now: u64,
}

pub(crate) fn problem(
    code: &str,
    object: impl Into<String>,
    message: impl Into<String>,
    fix: impl Into<String>,
) -> Problem {
    Problem {
        code: code.to_owned(),
        object: object.into(),
        message: message.into(),
        fix: fix.into(),
    }
}
