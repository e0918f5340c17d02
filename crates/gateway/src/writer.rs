//! The one writer: decides on changes, commits those that arrived together in one transaction, and only then publishes
//! the new state.

mod listeners;

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use adit_host::listener;
use adit_model::change::{Change, Expected};
use adit_model::decide::{Random, decide, decide_awaiting};
use adit_model::edit::{Edit, Key, Object, ObjectError};
use adit_model::facts::Facts;
use adit_model::key::PrivateKey;
use adit_model::protocol::Protocol;
use adit_model::refusal::Refusal;
use adit_model::state::State;
use adit_model::{confinement, confirmation};
use adit_store::answer::Answer;
use adit_store::{Entry, Loaded, LogQuery, NewEntry, Store, Write};
use tokio::sync::{mpsc, oneshot, watch};

use crate::answers::{Answers, Repeatable};
use crate::audit::{self, Note};
use crate::caller::Caller;
use crate::confirmation::Confirm;
use crate::events::Events;
use crate::key;
use crate::metrics::Metrics;
use crate::names::Holding;

pub(crate) use self::listeners::with_listeners;

/// The most changes that share one commit.
const BATCH: usize = 256;

/// What the writer is asked for.
pub(crate) enum Order {
    /// A change.
    Change(Box<Request>),
    /// An entry for the audit log that tells of no change; answered when it is durable, or cannot be.
    Note(Note, oneshot::Sender<()>),
    /// To put on record what was answered already.
    Record,
    /// A part of the audit log.
    Read(LogQuery, oneshot::Sender<Result<Vec<Entry>, String>>),
}

/// Someone's change, and where the answer goes.
pub(crate) struct Request {
    pub(crate) change: Change,
    /// What the caller saw of the object that the change is for.
    pub(crate) expected: Option<Expected>,
    pub(crate) caller: Caller,
    pub(crate) confirm: Confirm,
    pub(crate) repeatable: Option<Repeatable>,
    pub(crate) answer: Reply,
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
    /// It is not for this caller to make.
    Forbidden,
    /// The disk did not take it.
    Store(String),
    /// It was made before, or something else was under the same key.
    Repeated,
}

impl WriteError {
    fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Store(_) => "store",
            Self::Repeated => "repeated",
            Self::Forbidden => "forbidden",
        }
    }
}

/// Makes a state of what was stored.
pub(crate) fn restore(loaded: Loaded) -> Result<State, ObjectError> {
    let mut state = State::default();
    for stored in loaded.objects {
        let object = Object::from_body(&stored.kind, stored.id, stored.body)?;
        state.revision = stored.version;
        state.absorb(&Edit::Set(object));
    }
    state.revision = loaded.revision;
    Ok(state)
}

/// The writer's own things; lives on a thread of its own, since commits block.
pub(crate) struct Writer {
    pub(crate) store: Store,
    /// The committed state, and while a batch is decided what it will be.
    pub(crate) state: State,
    pub(crate) facts: watch::Receiver<Arc<Facts>>,
    pub(crate) observer: listener::Observer,
    /// Where the kernel is led: what is on disk.
    pub(crate) leading: watch::Sender<Arc<State>>,
    /// What everybody sees: what is on record, too.
    pub(crate) published: watch::Sender<Arc<State>>,
    pub(crate) answers: Answers,
    /// Where the private key is.
    pub(crate) directory: PathBuf,
    pub(crate) private_key: watch::Sender<PrivateKey>,
    pub(crate) holding: Holding,
    pub(crate) events: Arc<Events>,
    pub(crate) metrics: Arc<Metrics>,
}

/// A change that is decided and not yet on disk.
struct Decided {
    edits: Vec<Edit>,
    repeatable: Option<Repeatable>,
    answer: Reply,
}

type Reply = oneshot::Sender<Result<Committed, WriteError>>;

impl Writer {
    /// Works until every sender is gone.
    pub(crate) fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        while let Some(first) = orders.blocking_recv() {
            let mut requests = Vec::new();
            let mut notes = Vec::new();
            let mut reads = Vec::new();
            let mut is_to_record = false;
            let mut next = Some(first);
            while let Some(order) = next {
                match order {
                    Order::Change(request) => requests.push(*request),
                    Order::Note(note, answer) => notes.push((note, answer)),
                    Order::Record => is_to_record = true,
                    Order::Read(query, answer) => reads.push((query, answer)),
                }
                let is_full = requests.len() + notes.len() + reads.len() >= BATCH;
                next = if is_full {
                    None
                } else {
                    orders.try_recv().ok()
                };
            }
            self.commit(requests);
            self.note(notes);
            if is_to_record {
                self.store.acknowledge();
            }
            for (query, answer) in reads {
                let entries = self.store.log(&query).map_err(|error| error.to_string());
                // Whoever asked may have gone away.
                let _ = answer.send(entries);
            }
        }
        self.store.acknowledge();
    }

    /// Entries that tell of no change have a commit of their own: what keeps them from the disk must stop no change.
    fn note(&mut self, notes: Vec<(Note, oneshot::Sender<()>)>) {
        if notes.is_empty() {
            return;
        }
        let revision = self.state.revision;
        let (notes, answers): (Vec<Note>, Vec<_>) = notes.into_iter().unzip();
        let writes: Vec<Write> = notes
            .into_iter()
            .map(|note| Write::Log(to_entry(note, revision)))
            .collect();
        if let Err(error) = self.store.commit(revision, &writes) {
            tracing::warn!(%error, entries = writes.len(), "the audit log could not be written");
        }
        for answer in answers {
            let _ = answer.send(());
        }
    }

    fn commit(&mut self, batch: Vec<Request>) {
        if batch.is_empty() {
            return;
        }
        let facts = Arc::clone(&self.facts.borrow());
        // For all that devices ask together, it is looked once which services there are.
        let asked = batch.iter().map(|request| &request.change);
        let asked: BTreeSet<Protocol> = asked.flat_map(listeners::protocols_of).collect();
        let listening = listeners::with_present(&facts, &asked, &mut self.observer, &self.holding);
        let before = self.state.clone();
        let mut decided = Vec::new();
        let mut repeated = Vec::new();
        let mut begun = HashSet::new();
        let mut notes = Vec::new();
        let mut changes = Vec::new();
        let mut is_of_devices_alone = true;
        let mut key = None;
        let revision = before.revision + 1;
        self.state.revision = revision;
        for request in batch {
            let Request {
                change,
                expected,
                caller,
                confirm,
                repeatable,
                answer,
            } = request;
            let action = audit::action_of(&change);
            let taken = taken_key(&change);
            let is_of_devices = is_of_devices(&change);
            if let Some(repeatable) = &repeatable
                && (begun.contains(&repeatable.key) || self.is_answered(repeatable))
            {
                repeated.push(answer);
                continue;
            }
            let is_first = decided.iter().all(|it: &Decided| it.edits.is_empty());
            let seen = if is_first { before.revision } else { revision };
            let facts = listening
                .as_ref()
                .filter(|_| is_of_devices)
                .unwrap_or(&facts);
            match self.decide(change, (&caller, confirm), expected.as_ref(), seen, facts) {
                Ok(edits) => {
                    let previous = self.state.clone();
                    for edit in &edits {
                        self.state.absorb(edit);
                    }
                    // A device that asks a lot must not drive what administrators did out of the log.
                    let note = if is_of_devices {
                        None
                    } else {
                        audit::of_change(&caller, action, &previous, &self.state, &edits)
                    };
                    if note.is_some() || (is_of_devices && !edits.is_empty()) {
                        changes.push(action);
                    }
                    notes.extend(note);
                    is_of_devices_alone &= is_of_devices || edits.is_empty();
                    key = taken.or(key);
                    begun.extend(repeatable.as_ref().map(|repeatable| repeatable.key.clone()));
                    decided.push(Decided {
                        edits,
                        repeatable,
                        answer,
                    });
                }
                Err(error) => {
                    tracing::debug!(%caller, ?error, "a change was not made");
                    self.metrics.refused(error.code());
                    reply(answer, Err(error));
                }
            }
        }
        let is_changed = decided.iter().any(|decided| !decided.edits.is_empty());
        if !is_changed {
            self.state = before.clone();
        }
        let state = Arc::new(self.state.clone());
        let (told, committed) = settle(decided, &state);
        let edits: Vec<Edit> = committed
            .iter()
            .flat_map(|(committed, _)| committed.edits.iter().cloned())
            .collect();
        let entries = notes.into_iter().map(|note| to_entry(note, revision));
        let writes: Vec<Write> = edits
            .iter()
            .map(|edit| to_write(edit, revision))
            .chain(entries.map(Write::Log))
            .chain(told.iter().cloned().map(Write::Answer))
            .collect();
        let started = Instant::now();
        if !writes.is_empty()
            && let Err(error) = self.put(revision, &writes, key.as_ref())
        {
            self.state = before;
            tracing::error!(%error, "a commit failed; the changes were not made");
            let answers = committed.into_iter().map(|(_, answer)| answer);
            for answer in answers.chain(repeated) {
                let error = WriteError::Store(error.to_string());
                self.metrics.refused(error.code());
                reply(answer, Err(error));
            }
            return;
        }
        if is_changed {
            self.metrics.committed(started.elapsed());
            // Whoever sees the state sees the key that belongs to it.
            if let Some(key) = key {
                self.private_key.send_replace(key);
            }
            for (action, kind) in changes {
                self.metrics.changed(action, kind);
            }
            self.leading.send_replace(Arc::clone(&state));
            // While the kernel is led there; before anyone is told.
            if is_of_devices_alone {
                self.store.acknowledge_for_now();
            } else {
                self.store.acknowledge();
            }
            self.publish(&state);
            self.events.commit(revision, edits, state);
            adit_fault::passing("writer/published");
        }
        for answer in told {
            self.answers.add(answer);
        }
        for (committed, answer) in committed {
            reply(answer, Ok(committed));
        }
        for answer in repeated {
            reply(answer, Err(WriteError::Repeated));
        }
        if is_changed {
            self.announce();
        }
    }

    /// Whoever is answered sees the change; those who wait for any are woken after the answers.
    fn publish(&self, state: &Arc<State>) {
        self.published.send_if_modified(|published| {
            published.clone_from(state);
            false
        });
    }

    fn announce(&self) {
        self.published.send_modify(|_| {});
    }

    /// Commits, with the key that is taken over: after a crash at any moment both are there or neither is.
    fn put(
        &mut self,
        revision: u64,
        writes: &[Write],
        key: Option<&PrivateKey>,
    ) -> Result<(), String> {
        let Some(key) = key else {
            let committed = self.store.put(revision, writes);
            return committed.map_err(|error| error.to_string());
        };
        key::stage(&self.directory, key).map_err(|error| error.to_string())?;
        adit_fault::passing("writer/staged");
        if let Err(error) = self.store.put(revision, writes) {
            if let Err(error) = key::discard(&self.directory) {
                tracing::error!(%error, "a key that was not taken over is left");
            }
            return Err(error.to_string());
        }
        adit_fault::passing("writer/taken");
        if let Err(error) = key::adopt(&self.directory) {
            tracing::error!(%error, "the key that was taken over is put in its place at the next start");
        }
        Ok(())
    }

    fn is_answered(&self, repeatable: &Repeatable) -> bool {
        let now = seconds_since_1970();
        self.answers.get(&repeatable.key, now).is_some()
    }

    fn decide(
        &self,
        change: Change,
        (caller, confirm): (&Caller, Confirm),
        expected: Option<&Expected>,
        seen: u64,
        facts: &Facts,
    ) -> Result<Vec<Edit>, WriteError> {
        // Here, because nothing can change any more between the look and the change; and first, so that no version of what
        // belongs to others is told.
        if let Some(device) = caller.device()
            && !confinement::permits(&self.state, &change, device)
        {
            return Err(WriteError::Forbidden);
        }
        if let Some(expected) = expected {
            self.check(&change, expected).map_err(WriteError::Refused)?;
        }
        if let Change::Apply(apply) = &change
            && let Some(expected) = apply.revision.filter(|expected| *expected != seen)
        {
            let revision = seen;
            let refusal = Refusal::RevisionMoved { expected, revision };
            return Err(WriteError::Refused(refusal));
        }
        // A listener may have come since the facts were observed, and sends no event.
        let fresh;
        let facts = if matches!(
            change,
            Change::AddForward(_)
                | Change::SetForward(..)
                | Change::SetSettings(_)
                | Change::Apply(_)
                | Change::Import(_)
        ) {
            fresh = with_listeners(facts, &self.holding);
            &fresh
        } else {
            facts
        };
        let random = random().map_err(WriteError::Store)?;
        let now = seconds_since_1970();
        let terms = match confirm {
            // Who has a token for one device could keep others from their way back.
            _ if caller.device().is_some() => None,
            Confirm::Never => None,
            Confirm::Usual(source) => Some((now + confirmation::USUAL, Some(source))),
            Confirm::Within(seconds) => Some((now + seconds, None)),
        };
        let decided = match terms {
            Some(terms) => decide_awaiting(&self.state, change, facts, now, &random, terms),
            None => decide(&self.state, change, facts, now, &random),
        };
        decided
            .map_err(|refusal| match caller.device() {
                Some(_) => confinement::redact(refusal),
                None => refusal,
            })
            .map_err(WriteError::Refused)
    }

    fn check(&self, change: &Change, expected: &Expected) -> Result<(), Refusal> {
        // Nothing was said of an uplink when the caller looked: by now something may have been.
        if let Change::SetUplink(Some(name), _) = change
            && let Some(uplink) = self.state.uplink(name)
        {
            let key = Key::Uplink(uplink.id);
            let versions = expected.versions.clone();
            return Expected { key, versions }.check(&self.state);
        }
        expected.check(&self.state)
    }
}

/// What a decision may use.
pub(crate) fn random() -> Result<Random, String> {
    let mut random: Random = [0; 64];
    getrandom::fill(&mut random).map_err(|error| format!("cannot get random bytes: {error}"))?;
    Ok(random)
}

/// Whether devices ask for a change, or time does.
const fn is_of_devices(change: &Change) -> bool {
    matches!(
        change,
        Change::RequestLease(_)
            | Change::EndLease(_)
            | Change::EndLeases(_)
            | Change::ExpireLeases(_)
    )
}

/// The private key that a change makes the gateway's.
fn taken_key(change: &Change) -> Option<PrivateKey> {
    match change {
        Change::Import(import) => Some(import.private_key),
        Change::AddSubnet(_)
        | Change::SetSubnet(..)
        | Change::RemoveSubnet { .. }
        | Change::AddDevice(_)
        | Change::SetDevice(..)
        | Change::RekeyDevice { .. }
        | Change::RemoveDevice(_)
        | Change::AddForward(_)
        | Change::SetForward(..)
        | Change::RemoveForward(_)
        | Change::AddPinhole(_)
        | Change::SetPinhole(..)
        | Change::RemovePinhole(_)
        | Change::RequestLease(_)
        | Change::EndLease(_)
        | Change::EndLeases(_)
        | Change::RemoveLease(_)
        | Change::ExpireLeases(_)
        | Change::SetUplink(..)
        | Change::SetSettings(_)
        | Change::AddToken(_)
        | Change::RemoveToken(_)
        | Change::Apply(_)
        | Change::Confirm
        | Change::TakeBack(_) => None,
    }
}

/// What is told of the changes of a batch when it is on disk, and what of it is kept for those who ask again.
fn settle(decided: Vec<Decided>, state: &Arc<State>) -> (Vec<Answer>, Vec<(Committed, Reply)>) {
    let mut told = Vec::new();
    let mut all = Vec::new();
    for Decided {
        edits,
        repeatable,
        answer,
    } in decided
    {
        let committed = Committed {
            revision: state.revision,
            edits,
            state: Arc::clone(state),
        };
        if let Some(Repeatable { key, request, tell }) = repeatable {
            told.push(Answer {
                key,
                request,
                time: seconds_since_1970(),
                body: tell(&committed),
            });
        }
        all.push((committed, answer));
    }
    (told, all)
}

/// The caller may have gone away; the change stays.
fn reply(answer: Reply, result: Result<Committed, WriteError>) {
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

fn to_entry(note: Note, revision: u64) -> NewEntry {
    NewEntry {
        time: seconds_since_1970(),
        revision,
        subjects: note.subjects,
        body: serde_json::to_string(&note.event).unwrap_or_default(),
    }
}

/// The wall clock, as decisions take it.
pub(crate) fn seconds_since_1970() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests;
