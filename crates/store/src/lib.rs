//! Loads the state and commits changes, in one SQLite database that is never silently empty, older or damaged.

pub mod answer;
mod database;
mod digest;
mod error;
mod files;
pub mod foreign;
mod health;
mod lock;
mod log;
mod migration;
mod opening;
mod record;
mod rows;
pub mod snapshot;

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};
use serde::{Deserialize, Serialize};

use crate::answer::Answer;
pub use crate::error::{Left, StoreError};
use crate::files::Files;
pub use crate::health::Health;
use crate::lock::Lock;
pub use crate::log::{Entry, KEPT_ENTRIES, LogQuery, NewEntry};
use crate::opening::Start;
pub use crate::opening::{Downgraded, Recovered, Recovery, Restoration};
use crate::record::Record;
use crate::snapshot::Snapshot;
pub use crate::snapshot::Snapshots;

/// The state of one daemon, which is the only process that has it open.
#[derive(Debug)]
pub struct Store {
    files: Files,
    /// None while the disk refuses: then nothing there is kept open, and each commit tries anew.
    open: Option<Open>,
    /// The last that was committed.
    revision: u64,
    health: Health,
}

#[derive(Debug)]
struct Open {
    // Closed before the lock is given up: fields are dropped in this order.
    connection: Connection,
    record: Record,
    _lock: Lock,
}

/// What was committed when the store was opened, ordered by kind and id.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub revision: u64,
    pub objects: Vec<StoredObject>,
    /// The oldest first.
    pub answers: Vec<Answer>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredObject {
    pub kind: String,
    pub id: u64,
    pub version: u64,
    pub body: serde_json::Value,
}

/// Something that a commit writes. Removing what is not there is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// `body` is JSON.
    Set {
        kind: String,
        id: u64,
        version: u64,
        body: String,
    },
    Remove {
        kind: String,
        id: u64,
    },
    /// What its caller is told when it asks again.
    Answer(Answer),
    /// An entry of the audit log.
    Log(NewEntry),
}

/// The state in a directory that no daemon has open, as it is; nothing is written or restored.
pub fn read(directory: &Path) -> Result<Loaded, StoreError> {
    database::check_library()?;
    opening::read_only(&Files::new(directory))
}

impl Store {
    /// Opens the state in `directory`, and begins one when there never was any. What is damaged is restored from the
    /// snapshot when that is known to lack nothing; what cannot be written is read, and refuses commits.
    pub fn open(directory: &Path) -> Result<(Self, Loaded), StoreError> {
        database::check_library()?;
        let files = Files::new(directory);
        files.create_directory()?;
        let health = Health::default();
        let (open, loaded) = match Open::new(&files, Start::Any) {
            Ok((open, loaded)) => (Some(open), loaded),
            Err(error @ StoreError::ReadOnly { .. }) => match opening::read_only(&files) {
                Ok(loaded) => {
                    health.set(&error);
                    (None, loaded)
                }
                Err(lost @ StoreError::Lost { .. }) => return Err(lost),
                Err(_) => return Err(error),
            },
            Err(error) => return Err(error),
        };
        Ok((
            Self {
                files,
                open,
                revision: loaded.revision,
                health,
            },
            loaded,
        ))
    }

    /// [`Self::put`] and [`Self::acknowledge`].
    pub fn commit(&mut self, revision: u64, writes: &[Write]) -> Result<(), StoreError> {
        self.put(revision, writes)?;
        self.acknowledge();
        Ok(())
    }

    /// Puts the last revision on record: a database that ends before it is refused. To be done before anyone is told that a
    /// change was made; does nothing the second time.
    pub fn acknowledge(&mut self) {
        if let Some(open) = &mut self.open {
            open.record.follow(self.revision);
        }
    }

    /// The same as far as a power failure is not concerned: for that it is to be [acknowledged](Self::acknowledge) soon.
    pub fn acknowledge_for_now(&mut self) {
        if let Some(open) = &mut self.open {
            open.record.say(self.revision);
        }
    }

    /// Makes all of `writes` and the revision durable, or nothing. After an error the store holds what it held
    /// before, and takes the next commit. Answers and entries of the log alone leave the revision as it is.
    pub fn put(&mut self, revision: u64, writes: &[Write]) -> Result<(), StoreError> {
        let result = match self.write(revision, writes) {
            // To SQLite a file system that went read-only is an I/O error like any other.
            Err(error @ StoreError::Database { .. }) => match Snapshots::of(&self.files).probe() {
                Err(cause @ (StoreError::ReadOnly { .. } | StoreError::Full { .. })) => Err(cause),
                Ok(()) | Err(_) => Err(error),
            },
            result => result,
        };
        match &result {
            Ok(()) => self.health.clear(),
            Err(error @ StoreError::Full { .. }) => {
                if let Some(open) = &self.open {
                    database::forget_unacknowledged(&open.connection);
                }
                self.health.set(error);
            }
            Err(StoreError::Stale { .. } | StoreError::Unstorable { .. }) => {}
            Err(error) => {
                // What is closed here can be checked, mounted anew or replaced, and is looked at whole again.
                if let Some(open) = self.open.take() {
                    database::forget_unacknowledged(&open.connection);
                }
                self.health.set(error);
            }
        }
        result
    }

    /// How the disk does, as the last commit found it.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Entries of the audit log.
    pub fn log(&self, query: &LogQuery) -> Result<Vec<Entry>, StoreError> {
        let path = &self.files.database;
        match &self.open {
            Some(open) => log::read(&open.connection, path, query),
            None => Err(StoreError::Closed { path: path.clone() }),
        }
    }

    fn write(&mut self, revision: u64, writes: &[Write]) -> Result<(), StoreError> {
        let path = &self.files.database;
        let failed = |operation: &str, error| StoreError::from_sqlite(error, operation, path);
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open::again(&self.files, self.revision)?),
        };
        let transaction = open
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| failed("begin a commit", error))?;
        let fault = |error| StoreError::from_io(error, "commit to", path);
        adit_fault::point("store/begin").map_err(fault)?;
        let is_change = |write: &Write| match write {
            Write::Set { .. } | Write::Remove { .. } => true,
            Write::Answer(_) | Write::Log(_) => false,
        };
        let mut head = if writes.is_empty() || writes.iter().any(is_change) {
            rows::advance(&transaction, path, revision)?
        } else {
            rows::head(&transaction, path)?
        };
        for write in writes {
            rows::apply(&transaction, path, write, &mut head)?;
        }
        rows::set_head(&transaction, path, head)?;
        adit_fault::point("store/commit").map_err(fault)?;
        transaction
            .commit()
            .map_err(|error| failed("commit", error))?;
        adit_fault::passing("store/committed");
        self.revision = head.revision;
        Ok(())
    }
}

/// What was put in the place of damaged states in `directory`, and not cleared away yet.
pub fn restorations(directory: &Path) -> Vec<Restoration> {
    opening::restorations(&Files::new(directory))
}

/// Puts the best there is, or nothing at all, in the place of a state that cannot be trusted, whatever is lost by that;
/// the files that are there are kept under other names. None when nothing is wrong.
pub fn recover(directory: &Path, recovery: Recovery) -> Result<Option<Recovered>, StoreError> {
    database::check_library()?;
    opening::recover(&Files::new(directory), recovery)
}

/// Puts objects in the place of the state in `directory`, which no daemon may have open; the files that are there are kept
/// under other names. The revision that it has then, which no state there had before.
pub fn replace(
    directory: &Path,
    revision: u64,
    objects: Vec<StoredObject>,
) -> Result<u64, StoreError> {
    database::check_library()?;
    let files = Files::new(directory);
    files.create_directory()?;
    opening::replace(&files, Snapshot { revision, objects })
}

/// Leads the database in `directory`, which no daemon may have open, back to an older schema; the one that was there is kept.
/// What the older schema has no room for.
pub fn downgrade(directory: &Path, schema: i64) -> Result<Downgraded, StoreError> {
    database::check_library()?;
    opening::downgrade(&Files::new(directory), schema)
}

impl Open {
    fn new(files: &Files, start: Start) -> Result<(Self, Loaded), StoreError> {
        let lock = Lock::take(&files.lock)?;
        let (connection, loaded) = opening::open(files, start)?;
        database::keep_tidy(&connection, &files.database)?;
        let record = Record::begin(&files.record, loaded.revision);
        files.mark_created()?;
        let open = Self {
            connection,
            record,
            _lock: lock,
        };
        Ok((open, loaded))
    }

    /// Opens what was closed, if it still ends at `revision`.
    fn again(files: &Files, revision: u64) -> Result<Self, StoreError> {
        opening::check_presence(files)?;
        let (open, loaded) = Self::new(files, Start::Again)?;
        if loaded.revision == revision {
            return Ok(open);
        }
        drop(open);
        let found = loaded.revision;
        let ahead = StoreError::Ahead {
            directory: files.directory.clone(),
            expected: revision,
            found,
        };
        let content = Snapshots::of(files).newest()?;
        if content.revision != revision {
            return Err(ahead);
        }
        let message = format!(
            "the database held revision {found}, which failed and was not acknowledged; it was put back to revision {revision}"
        );
        let lock = Lock::take(&files.lock)?;
        opening::restore(files, &content, &message)?;
        drop(lock);
        Self::new(files, Start::Again).map(|(open, _)| open)
    }
}
