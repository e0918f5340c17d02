//! Keeps a snapshot of the state beside the database, has the database put on record, and tells how the disk of both does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use adit_model::problem::Problem;
use adit_model::state::State;
use adit_store::snapshot::Snapshot;
use adit_store::{Health, Snapshots, StoredObject};
use nix::sys::statvfs::{FsFlags, statvfs};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::writer::Order;

/// How long it has to be quiet after a change.
const QUIET: Duration = Duration::from_millis(1500);

/// The longest that a change waits while others keep coming.
const LONGEST: Duration = Duration::from_secs(10);

/// How soon a snapshot that failed is tried again.
const AGAIN: Duration = Duration::from_secs(3);

/// How long what devices opened may be not on record, where power failures are concerned. It is on disk already.
const UNRECORDED: Duration = Duration::from_millis(20);

/// How often the disk is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// With less space than this left, in bytes, changes are about to be refused.
const LITTLE: u64 = 128 << 10;

pub(crate) struct Keeper {
    pub(crate) directory: PathBuf,
    pub(crate) health: Health,
    pub(crate) state: watch::Receiver<Arc<State>>,
    pub(crate) problems: watch::Sender<Vec<Problem>>,
}

impl Keeper {
    /// Works until the writer is gone; the last state is kept then.
    pub(crate) async fn run(mut self) {
        let mut failure = None;
        let mut first_change = Instant::now();
        let mut due = Some(first_change);
        let mut look = Instant::now();
        loop {
            tokio::select! {
                changed = self.state.changed() => {
                    if changed.is_err() {
                        self.keep().await;
                        return;
                    }
                    let now = Instant::now();
                    if due.is_none() {
                        first_change = now;
                    }
                    due = Some((now + QUIET).min(first_change + LONGEST));
                }
                () = sleep_until(due.unwrap_or(look)), if due.is_some() => {
                    failure = self.keep().await;
                    due = failure.as_ref().map(|_| Instant::now() + AGAIN);
                    if due.is_some() {
                        look = Instant::now();
                    }
                }
                () = sleep_until(look) => {
                    self.tell(failure.as_ref()).await;
                    look = Instant::now() + LOOK;
                }
            }
        }
    }

    /// Writes the snapshot, unless the one that is there is of the same revision; what kept it from that.
    async fn keep(&mut self) -> Option<String> {
        let state = Arc::clone(&self.state.borrow_and_update());
        let snapshots = Snapshots::new(&self.directory);
        let written = tokio::task::spawn_blocking(move || {
            let is_there = |kept: Snapshot| kept.revision == state.revision;
            if snapshots.newest().is_ok_and(is_there) {
                return Ok(());
            }
            snapshots.write(&snapshot_of(&state))
        });
        match written.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => {
                tracing::warn!(%error, "no snapshot of the state was kept");
                Some(error.to_string())
            }
            Err(error) => Some(error.to_string()),
        }
    }

    async fn tell(&self, failure: Option<&String>) {
        let (directory, health) = (self.directory.clone(), self.health.clone());
        let found = tokio::task::spawn_blocking(move || look_at(directory, &health));
        let Ok(mut problems) = found.await else {
            return;
        };
        if let Some(failure) = failure {
            problems.push(problem(
                &self.directory,
                "snapshot-failed",
                format!("no snapshot is kept: {failure}"),
                "see to the disk of the state directory (space, rights, errors); it is tried again by itself",
            ));
        }
        self.problems.send_if_modified(|told| {
            let is_new = *told != problems;
            *told = problems;
            is_new
        });
    }
}

/// Has what changes put on record a moment later.
pub(crate) async fn record(mut state: watch::Receiver<Arc<State>>, orders: mpsc::Sender<Order>) {
    while state.changed().await.is_ok() {
        sleep(UNRECORDED).await;
        if orders.send(Order::Record).await.is_err() {
            return;
        }
    }
}

fn problem(directory: &Path, code: &str, message: String, fix: &str) -> Problem {
    Problem {
        code: code.to_owned(),
        object: format!("state {}", directory.display()),
        message,
        fix: fix.to_owned(),
    }
}

fn look_at(directory: PathBuf, health: &Health) -> Vec<Problem> {
    let mut problems = Vec::new();
    if health.is_disk_trouble() && Snapshots::new(&directory).probe().is_ok() {
        tracing::info!("the disk of the state takes writes again");
        health.clear();
    }
    let trouble = health.trouble().or_else(|| shortage(&directory));
    if let Some(trouble) = trouble {
        problems.push(problem(
            &directory,
            "state-not-writable",
            format!("{trouble}. Changes are refused; packets keep flowing"),
            "make the state directory writable, with some space left; changes are taken again by themselves then",
        ));
    }
    for restoration in adit_store::restorations(&directory) {
        let kept = restoration.kept.display();
        problems.push(problem(
            &directory,
            "state-restored",
            restoration.message,
            &format!(
                "see whether all is as it should be, and what damaged the disk (`dmesg`); this is told until `rm {kept}*`"
            ),
        ));
    }
    problems
}

/// What is about to keep changes from the disk.
fn shortage(directory: &Path) -> Option<String> {
    let found = statvfs(directory).ok()?;
    let free = found.blocks_free().saturating_mul(found.fragment_size());
    if found.flags().contains(FsFlags::ST_RDONLY) {
        Some("its file system is read-only".to_owned())
    } else if free < LITTLE {
        Some(format!("its file system has {} KiB left", free >> 10))
    } else {
        None
    }
}

/// The state as it is stored.
fn snapshot_of(state: &State) -> Snapshot {
    let mut objects: Vec<StoredObject> = state
        .objects()
        .map(|(version, object)| {
            let key = object.key();
            StoredObject {
                kind: key.kind().to_owned(),
                id: key.id(),
                version,
                body: object.to_body(),
            }
        })
        .collect();
    objects.sort_by(|left, right| (&left.kind, left.id).cmp(&(&right.kind, right.id)));
    Snapshot {
        revision: state.revision,
        objects,
    }
}
