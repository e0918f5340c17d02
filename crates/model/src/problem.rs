//! Problems: what is wrong now, told with its fix.

mod device;
mod forward;
mod uplink;

use serde::{Deserialize, Serialize};

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
    problems
}

/// What problems are found in.
struct View<'a> {
    state: &'a State,
    facts: &'a Facts,
    uplinks: &'a [Uplink],
    now: u64,
}

fn problem(
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
