//! Another server taken over.

use std::sync::Arc;

use adit_api::types::import::{ImportServer, Imported};
use adit_model::change::Change;
use adit_model::decide::decide;
use adit_model::edit::{Edit, Object};
use adit_model::key::PublicKey;
use axum::extract::State;

use super::answer::{Answer, Failure};
use super::kind;
use super::request::{Body, Terms};
use super::view;
use crate::control::{Committed, Control, Snapshot};
use crate::writer::{seconds_since_1970, with_listeners};

/// Takes another server over: its key becomes the gateway's, and its devices need nothing new. All of it, or nothing.
#[utoipa::path(
    post,
    path = "/import",
    operation_id = "import_server",
    tag = "settings",
    request_body = ImportServer,
    responses((status = 200, description = "What was taken over", body = Imported), Failure)
)]
pub(super) async fn import(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Body(request): Body<ImportServer>,
) -> Result<Answer, Failure> {
    let key = request.import.private_key.public_key();
    let change = Change::Import(Box::new(request.import));
    let base = control.snapshot();
    if request.dry_run {
        let committed = rehearse(&base, change)?;
        return tell(&base.after(&committed), &committed, key, false);
    }
    kind::make(
        &control,
        terms,
        change,
        None,
        base,
        move |snapshot, committed, _| tell(snapshot, committed, key, true),
    )
    .await
}

/// What would be committed. Nothing random is left in what is told.
fn rehearse(base: &Snapshot, change: Change) -> Result<Committed, Failure> {
    let now = seconds_since_1970();
    let facts = with_listeners(&base.facts, &base.holding);
    let edits = decide(&base.state, change, &facts, now, &[0; 64])?;
    let mut state = adit_model::state::State::clone(&base.state);
    for edit in &edits {
        state.absorb(edit);
    }
    Ok(Committed {
        revision: base.state.revision,
        edits,
        state: Arc::new(state),
    })
}

fn tell(
    snapshot: &Snapshot,
    committed: &Committed,
    public_key: PublicKey,
    applied: bool,
) -> Result<Answer, Failure> {
    let mut imported = Imported {
        applied,
        public_key,
        listen_port: snapshot.state.settings.listen_port,
        subnets: Vec::new(),
        devices: Vec::new(),
        forwards: Vec::new(),
    };
    let mut devices = Vec::new();
    for edit in &committed.edits {
        match edit {
            Edit::Set(Object::Subnet(subnet)) => {
                imported.subnets.push(view::subnet(snapshot, subnet));
            }
            Edit::Set(Object::Device(device)) => devices.push(device),
            Edit::Set(Object::Forward(forward)) => {
                imported.forwards.push(view::forward(snapshot, forward));
            }
            Edit::Set(
                Object::Uplink(_)
                | Object::Delegation(_)
                | Object::Pinhole(_)
                | Object::Lease(_)
                | Object::Token(_)
                | Object::Settings(_)
                | Object::Confirmation(_)
                | Object::Sequence(_),
            )
            | Edit::Remove(_) => {}
        }
    }
    imported.devices = view::devices(snapshot, &devices);
    Answer::of(None, &imported)
}
