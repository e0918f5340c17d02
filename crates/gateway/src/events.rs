//! The stream of events: commits, kept for a while so that a listener can go on where it was, and what is told of the
//! network while somebody listens.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use adit_api::types::event::{Event, Mark};
use adit_model::edit::Edit;
use adit_model::problem::Problem;
use adit_model::state::State;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};

mod watcher;

pub(crate) use watcher::watch_network;

/// How many may listen at a time.
pub(crate) const LISTENERS: usize = 64;

/// Commits that are kept for those who come back.
const KEPT: usize = 512;
/// Edits in them, all together.
const KEPT_EDITS: usize = 8192;
/// Items that a listener may be behind.
const BEHIND: usize = 256;

/// A commit, as the writer tells it.
pub(crate) struct Commit {
    pub(crate) revision: u64,
    pub(crate) edits: Vec<Edit>,
    pub(crate) state: Arc<State>,
    /// Made for the first listener, and the same for all.
    pub(crate) text: OnceLock<Arc<str>>,
}

/// What is sent to every listener.
#[derive(Clone)]
pub(crate) enum Item {
    Commit(Arc<Commit>),
    Event(Arc<Event>),
}

/// What a listener begins with, and where the rest comes from.
pub(crate) struct Subscription {
    pub(crate) first: Option<Event>,
    pub(crate) missed: Vec<Arc<Commit>>,
    /// Problems as they are told so far.
    pub(crate) problems: Vec<Problem>,
    pub(crate) items: broadcast::Receiver<Item>,
    pub(crate) stop: watch::Receiver<bool>,
    /// Given back when the listener goes.
    pub(crate) place: OwnedSemaphorePermit,
}

/// Why nobody more can listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotNow {
    Full,
    Stopping,
}

pub(crate) struct Events {
    recent: Mutex<Recent>,
    items: broadcast::Sender<Item>,
    places: Arc<Semaphore>,
    stop: watch::Sender<bool>,
    /// Wakes the watcher of the network.
    came: tokio::sync::Notify,
}

struct Recent {
    /// The revision before the first commit that is kept.
    before: u64,
    /// The newest revision.
    revision: u64,
    commits: VecDeque<Arc<Commit>>,
    edits: usize,
    /// What listeners know of problems; none while nobody listens.
    problems: Option<Vec<Problem>>,
}

impl Events {
    pub(crate) fn new(revision: u64) -> Self {
        Self {
            recent: Mutex::new(Recent {
                before: revision,
                revision,
                commits: VecDeque::new(),
                edits: 0,
                problems: None,
            }),
            items: broadcast::Sender::new(BEHIND),
            places: Arc::new(Semaphore::new(LISTENERS)),
            stop: watch::Sender::new(false),
            came: tokio::sync::Notify::new(),
        }
    }

    /// Tells of a commit.
    pub(crate) fn commit(&self, revision: u64, edits: Vec<Edit>, state: Arc<State>) {
        let mut recent = self.lock();
        recent.revision = revision;
        recent.edits += edits.len();
        let commit = Arc::new(Commit {
            revision,
            edits,
            state,
            text: OnceLock::new(),
        });
        recent.commits.push_back(Arc::clone(&commit));
        while recent.commits.len() > KEPT || recent.edits > KEPT_EDITS {
            let Some(oldest) = recent.commits.pop_front() else {
                break;
            };
            recent.edits -= oldest.edits.len();
            recent.before = oldest.revision;
        }
        // Told under the lock: a listener that subscribes meanwhile has it either kept or told.
        let _ = self.items.send(Item::Commit(commit));
    }

    /// Lets somebody listen who has seen `last`; `problems` are those of now.
    pub(crate) fn subscribe(
        &self,
        last: Option<u64>,
        problems: Vec<Problem>,
    ) -> Result<Subscription, NotNow> {
        if *self.stop.borrow() {
            return Err(NotNow::Stopping);
        }
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| NotNow::Full)?;
        let mut recent = self.lock();
        let mark = Mark {
            revision: recent.revision,
        };
        let (first, missed) = match last {
            None => (Some(Event::Start(mark)), Vec::new()),
            Some(last) if (recent.before..=recent.revision).contains(&last) => {
                let commits = recent.commits.iter();
                let missed = commits.filter(|commit| commit.revision > last);
                (None, missed.cloned().collect())
            }
            Some(_) => (Some(Event::Reset(mark)), Vec::new()),
        };
        let problems = recent.problems.get_or_insert(problems).clone();
        let items = self.items.subscribe();
        drop(recent);
        self.came.notify_one();
        Ok(Subscription {
            first,
            missed,
            problems,
            items,
            stop: self.stop.subscribe(),
            place,
        })
    }

    /// Ends every stream, and lets nobody listen any more.
    pub(crate) fn close(&self) {
        self.stop.send_replace(true);
    }

    /// How many listen.
    pub(crate) fn listeners(&self) -> usize {
        LISTENERS - self.places.available_permits()
    }

    fn tell(&self, event: Event) {
        // Nobody may be left.
        let _ = self.items.send(Item::Event(Arc::new(event)));
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use adit_model::edit::Object;

    use super::*;

    fn commit(events: &Events, revision: u64, edits: usize) {
        let edits = (0..edits)
            .map(|number| Edit::Set(Object::Sequence(number as u64)))
            .collect();
        events.commit(revision, edits, Arc::default());
    }

    fn resume(events: &Events, last: u64) -> (Option<Event>, Vec<u64>) {
        let subscription = events.subscribe(Some(last), Vec::new()).unwrap();
        let missed = subscription.missed.iter();
        (
            subscription.first,
            missed.map(|commit| commit.revision).collect(),
        )
    }

    #[test]
    fn a_listener_goes_on_where_it_was_or_is_told_that_it_cannot() {
        let events = Events::new(5);
        assert_eq!(resume(&events, 5), (None, vec![]));
        for revision in 6..=9 {
            commit(&events, revision, 1);
        }
        assert_eq!(resume(&events, 5), (None, vec![6, 7, 8, 9]));
        assert_eq!(resume(&events, 8), (None, vec![9]));
        let reset = |revision| Some(Event::Reset(Mark { revision }));
        assert_eq!(resume(&events, 4), (reset(9), vec![]), "before the start");
        assert_eq!(resume(&events, 10), (reset(9), vec![]), "from elsewhere");

        commit(&events, 10, KEPT_EDITS - 1);
        assert_eq!(resume(&events, 9), (None, vec![10]));
        assert_eq!(resume(&events, 8), (None, vec![9, 10]));
        assert_eq!(resume(&events, 7), (reset(10), vec![]), "too many edits");
        commit(&events, 11, KEPT_EDITS + 1);
        assert_eq!(
            resume(&events, 10),
            (reset(11), vec![]),
            "too large to be kept"
        );
        for revision in 12..12 + KEPT as u64 + 3 {
            commit(&events, revision, 1);
        }
        let recent = events.lock();
        assert_eq!(
            (recent.commits.len(), recent.edits, recent.before),
            (KEPT, KEPT, 14)
        );
    }

    #[test]
    fn so_many_may_listen_and_none_when_it_ends() {
        let events = Events::new(0);
        let all: Vec<_> = (0..LISTENERS)
            .map(|_| events.subscribe(None, Vec::new()).unwrap())
            .collect();
        assert_eq!(events.listeners(), LISTENERS);
        let refused = events.subscribe(None, Vec::new()).err();
        assert_eq!(refused, Some(NotNow::Full));
        drop(all);
        assert_eq!(events.listeners(), 0);
        events.close();
        let refused = events.subscribe(None, Vec::new()).err();
        assert_eq!(refused, Some(NotNow::Stopping));
    }
}
