//! The manual state as a document: exported, compared, applied.

use std::sync::Arc;

use adit_api::problem::Problem;
use adit_api::types::declaration::{Affected, Apply, Declared, HostPlan, HostStep, Plan};
use adit_api::types::status::StatusProblem;
use adit_host::reconcile::Outlook;
use adit_model::change::Change;
use adit_model::decide::decide;
use adit_model::declaration::Declaration;
use adit_model::edit::Edit;
use adit_model::facts::Facts;
use adit_model::impact;
use adit_model::state;
use axum::extract::State;

use super::answer::{Answer, Failure};
use super::kind::{self, Audience};
use super::request::{Body, Terms};
use crate::audit::all_changes;
use crate::control::{Control, Snapshot};
use crate::writer::{random, seconds_since_1970, with_listeners};

/// How much is kept of what was told, for those who ask again.
const KEPT: usize = 1000;

/// The manual state as a document without secrets. Leases and tokens are not part of it.
#[utoipa::path(
    get,
    path = "/declaration",
    operation_id = "show_declaration",
    tag = "gateway",
    responses((status = 200, description = "The manual state", body = Declared), Failure)
)]
pub(super) async fn show(State(control): State<Arc<Control>>) -> Result<Answer, Failure> {
    let snapshot = control.snapshot();
    let declared = Declared {
        revision: snapshot.state.revision,
        declaration: Declaration::of(&snapshot.state),
    };
    Answer::of(None, &declared)
}

/// What a declaration would change. Nothing is changed.
#[utoipa::path(
    post,
    path = "/declaration/plan",
    operation_id = "plan_declaration",
    tag = "gateway",
    request_body = Apply,
    responses((status = 200, description = "What would change", body = Plan), Failure)
)]
pub(super) async fn plan(
    State(control): State<Arc<Control>>,
    Body(request): Body<Apply>,
) -> Result<Answer, Failure> {
    let snapshot = control.snapshot();
    // Ten thousand devices are too many to decide on between other requests.
    let planned = tokio::task::spawn_blocking(move || compare(&snapshot, request));
    let plan = planned
        .await
        .map_err(|error| unplanned(error.to_string()))?;
    Answer::of(None, &plan?)
}

/// What this host lacks of what the state wants on it: what others changed, and what did not succeed. Nothing is changed; the
/// gateway does it by itself.
#[utoipa::path(
    get,
    path = "/plan",
    operation_id = "show_plan",
    tag = "gateway",
    responses((status = 200, description = "What is to be done", body = HostPlan), Failure)
)]
pub(super) async fn outlook(State(control): State<Arc<Control>>) -> Result<Answer, Failure> {
    let revision = control.state.borrow().revision;
    let Outlook { steps, problems } = control.outlook().await?;
    let plan = HostPlan {
        revision,
        count: steps.len(),
        steps: steps
            .iter()
            .take(KEPT)
            .map(|step| HostStep {
                verb: step.verb().to_owned(),
                kind: step.kind().to_owned(),
                step: step.to_string(),
            })
            .collect(),
        problems: problems.iter().map(StatusProblem::from).collect(),
    };
    Answer::of(None, &plan)
}

/// Makes the manual state what a declaration says, in one revision.
#[utoipa::path(
    post,
    path = "/declaration/apply",
    operation_id = "apply_declaration",
    tag = "gateway",
    request_body = Apply,
    responses((status = 200, description = "What changed", body = Plan), Failure)
)]
pub(super) async fn apply(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Body(request): Body<Apply>,
) -> Result<Answer, Failure> {
    let change = Change::Apply(Box::new(request.into()));
    let base = control.snapshot();
    let before = Arc::clone(&base.state);
    let facts = Arc::clone(&base.facts);
    kind::make(
        &control,
        terms,
        change,
        None,
        base,
        move |_, committed, audience| {
            let mut plan = tell(&before, &committed.state, &committed.edits, &facts);
            if audience == Audience::Record {
                plan.objects.truncate(KEPT);
                plan.affected.truncate(KEPT);
            }
            Answer::of(None, &plan)
        },
    )
    .await
}

fn compare(snapshot: &Snapshot, request: Apply) -> Result<Plan, Failure> {
    let before = &snapshot.state;
    let facts = with_listeners(&snapshot.facts, &snapshot.holding);
    let change = Change::Apply(Box::new(request.into()));
    let random = random().map_err(unplanned)?;
    let edits = decide(before, change, &facts, seconds_since_1970(), &random)?;
    let mut after = state::State::clone(before);
    for edit in &edits {
        after.absorb(edit);
    }
    Ok(tell(before, &after, &edits, &facts))
}

fn tell(before: &state::State, after: &state::State, edits: &[Edit], facts: &Facts) -> Plan {
    let affected = impact::between(before, after, facts, seconds_since_1970());
    Plan {
        revision: after.revision,
        objects: all_changes(before, after, edits),
        affected: affected
            .into_iter()
            .map(|impact| Affected {
                device: impact.device.name.clone(),
                effects: impact.effects.into_iter().collect(),
            })
            .collect(),
    }
}

fn unplanned(reason: String) -> Failure {
    Problem::new(
        500,
        "unplanned",
        format!("the declaration could not be compared: {reason}"),
        "ask again",
    )
    .into()
}
