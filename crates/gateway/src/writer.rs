//! The one writer: decides on changes, commits those that arrived together in one transaction, and only then publishes
//! the new state.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use adit_model::change::Change;
use adit_model::decide::{Random, decide};
use adit_model::edit::{Edit, Object, ObjectError};
use adit_model::facts::Facts;
use adit_model::refusal::Refusal;
use adit_model::state::State;
use adit_store::{Loaded, Store, Write};
use tokio::sync::{mpsc, oneshot, watch};

/// The most changes that share one commit.
const BATCH: usize = 256;

/// Someone's change, and where the answer goes.
pub(crate) struct Request {
    pub(crate) change: Change,
    pub(crate) answer: oneshot::Sender<Result<Committed, WriteError>>,
}

/// A change that is on disk.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The revision that it is part of.
    pub revision: u64,
    /// What it changed; empty when everything was so already.
    pub edits: Vec<Edit>,
    /// The state with it.
    pub state: Arc<State>,
}

/// Why a change is not on disk.
#[derive(Clone, Debug)]
pub(crate) enum WriteError {
    /// It was refused.
    Refused(Refusal),
    /// The disk did not take it.
    Store(String),
}

/// Makes a state of what was stored.
pub(crate) fn restore(loaded: Loaded) -> Result<State, ObjectError> {
    let mut state = State {
        revision: loaded.revision,
        ..State::default()
    };
    for stored in loaded.objects {
        let object = Object::from_body(&stored.kind, stored.id, stored.body)?;
        state.absorb(&Edit::Set(object));
    }
    Ok(state)
}

/// The writer's own things; lives on a thread of its own, since commits block.
pub(crate) struct Writer {
    pub(crate) store: Store,
    /// The committed state, and while a batch is decided what it will be.
    pub(crate) state: State,
    pub(crate) facts: watch::Receiver<Arc<Facts>>,
    pub(crate) published: watch::Sender<Arc<State>>,
}

impl Writer {
    /// Works until every sender is gone.
    pub(crate) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(next) = requests.try_recv()
            {
                batch.push(next);
            }
            self.commit(batch);
        }
    }

    fn commit(&mut self, batch: Vec<Request>) {
        let facts = Arc::clone(&self.facts.borrow());
        let mut undo = Vec::new();
        let mut decided = Vec::new();
        let revision = self.state.revision + 1;
        for Request { change, answer } in batch {
            match self.decide(change, &facts) {
                Ok(edits) => {
                    for edit in &edits {
                        undo.push(self.state.inverse(edit));
                        self.state.absorb(edit);
                    }
                    decided.push((edits, answer));
                }
                Err(error) => reply(answer, Err(error)),
            }
        }
        let writes: Vec<Write> = decided
            .iter()
            .flat_map(|(edits, _)| edits)
            .map(|edit| to_write(edit, revision))
            .collect();
        if !writes.is_empty() {
            if let Err(error) = self.store.commit(revision, &writes) {
                for edit in undo.iter().rev() {
                    self.state.absorb(edit);
                }
                tracing::error!(%error, "a commit failed; the changes were not made");
                for (_, answer) in decided {
                    reply(answer, Err(WriteError::Store(error.to_string())));
                }
                return;
            }
            self.state.revision = revision;
            self.published.send_replace(Arc::new(self.state.clone()));
            adit_fault::passing("writer/published");
        }
        let state = Arc::clone(&self.published.borrow());
        for (edits, answer) in decided {
            reply(
                answer,
                Ok(Committed {
                    revision: state.revision,
                    edits,
                    state: Arc::clone(&state),
                }),
            );
        }
    }

    fn decide(&self, change: Change, facts: &Facts) -> Result<Vec<Edit>, WriteError> {
        // A listener may have come since the facts were observed, and sends no event.
        let fresh;
        let facts = if matches!(
            change,
            Change::AddForward(_) | Change::SetForward(..) | Change::SetSettings(_)
        ) {
            fresh = self.with_listeners(facts);
            &fresh
        } else {
            facts
        };
        let mut random: Random = [0; 64];
        getrandom::fill(&mut random)
            .map_err(|error| WriteError::Store(format!("cannot get random bytes: {error}")))?;
        decide(&self.state, change, facts, seconds_since_1970(), &random)
            .map_err(WriteError::Refused)
    }

    fn with_listeners(&self, facts: &Facts) -> Facts {
        match adit_host::listener::observe() {
            Ok(listeners) => Facts {
                listeners,
                ..facts.clone()
            },
            Err(error) => {
                tracing::warn!(%error, "cannot look for listeners");
                facts.clone()
            }
        }
    }
}

/// The caller may have gone away; the change stays.
fn reply(
    answer: oneshot::Sender<Result<Committed, WriteError>>,
    result: Result<Committed, WriteError>,
) {
    if answer.send(result).is_err() {
        tracing::debug!("a caller did not wait for its answer");
    }
}

fn to_write(edit: &Edit, version: u64) -> Write {
    let key = edit.key();
    let (kind, id) = (key.kind().to_owned(), key.id());
    match edit {
        Edit::Set(object) => Write::Set {
            kind,
            id,
            version,
            body: object.to_body().to_string(),
        },
        Edit::Remove(_) => Write::Remove { kind, id },
    }
}

/// The wall clock, as decisions take it.
pub(crate) fn seconds_since_1970() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use adit_model::change::{AddSubnet, Ipv6Wish};
    use adit_model::state::Delivery;

    use super::*;

    fn subnet(name: &str, third: u8) -> Change {
        Change::AddSubnet(AddSubnet {
            name: name.to_owned(),
            ipv4: format!("10.{third}.0.0/24").parse().unwrap(),
            ipv6: Ipv6Wish::None,
            delivery: Delivery::Auto,
            egress: None,
            peers: true,
            host_access: false,
            force: false,
        })
    }

    fn start(directory: &std::path::Path) -> (Writer, watch::Receiver<Arc<State>>) {
        let (store, loaded) = Store::open(directory).unwrap();
        let state = restore(loaded).unwrap();
        let (published, receiver) = watch::channel(Arc::new(state.clone()));
        let (_, facts) = watch::channel(Arc::new(Facts::default()));
        (
            Writer {
                store,
                state,
                facts,
                published,
            },
            receiver,
        )
    }

    #[test]
    fn changes_that_arrive_together_share_a_commit_and_are_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, receiver) = start(directory.path());
        let mut answers = Vec::new();
        let mut batch = Vec::new();
        for (name, third) in [("a", 1), ("b", 2), ("b", 3), ("c", 2)] {
            let (answer, receive) = oneshot::channel();
            batch.push(Request {
                change: subnet(name, third),
                answer,
            });
            answers.push(receive);
        }
        writer.commit(batch);
        let results: Vec<_> = answers
            .into_iter()
            .map(|answer| answer.blocking_recv().unwrap())
            .collect();
        assert_eq!(results[0].as_ref().unwrap().revision, 1);
        assert_eq!(results[1].as_ref().unwrap().revision, 1);
        assert!(matches!(
            &results[2],
            Err(WriteError::Refused(Refusal::NameTaken { .. }))
        ));
        assert!(matches!(
            &results[3],
            Err(WriteError::Refused(Refusal::Overlap { .. }))
        ));
        let before = State::clone(&receiver.borrow());
        drop(writer);
        let (again, _) = start(directory.path());
        assert_eq!(again.state, before);
        assert_eq!(again.state.subnets.len(), 2);
    }
}
