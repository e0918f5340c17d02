//! Loads the state and commits changes, in one SQLite database that is never silently empty, older or damaged.

pub mod answer;
mod database;
mod error;
mod files;
mod lock;
mod migration;
mod rows;

use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior};

use crate::answer::Answer;
pub use crate::error::StoreError;
use crate::files::Files;
use crate::lock::Lock;

/// The database of one daemon, which is the only process that has it open.
#[derive(Debug)]
pub struct Store {
    // Closed before the lock is given up: fields are dropped in this order.
    connection: Connection,
    database: PathBuf,
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

#[derive(Clone, Debug, PartialEq)]
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
}

impl Store {
    /// Opens the database in `directory`, and creates both when there never was one.
    pub fn open(directory: &Path) -> Result<(Self, Loaded), StoreError> {
        database::check_library()?;
        let files = Files::new(directory);
        files.create_directory()?;
        let lock = Lock::take(&files.lock)?;
        if files.is_first_start()? {
            database::create(&files)?;
        }
        let mut connection = database::open(&files.database)?;
        migration::run(&mut connection, &files, migration::SCHEMAS)?;
        let loaded = rows::load(&mut connection, &files.database)?;
        database::keep_tidy(&connection, &files.database)?;
        files.mark_created()?;
        Ok((
            Self {
                connection,
                database: files.database,
                _lock: lock,
            },
            loaded,
        ))
    }

    /// Makes all of `writes` and the revision durable, or nothing. After an error the store holds what it held
    /// before, and takes the next commit. Answers alone leave the revision as it is.
    pub fn commit(&mut self, revision: u64, writes: &[Write]) -> Result<(), StoreError> {
        let result = self.write(revision, writes);
        if matches!(
            result,
            Err(StoreError::Full { .. } | StoreError::Database { .. })
        ) {
            database::forget_unacknowledged(&self.connection);
        }
        result
    }

    fn write(&mut self, revision: u64, writes: &[Write]) -> Result<(), StoreError> {
        let path = &self.database;
        let failed = |operation: &str, error| StoreError::from_sqlite(error, operation, path);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| failed("begin a commit", error))?;
        let fault = |error| StoreError::from_io(error, "commit to", path);
        adit_fault::point("store/begin").map_err(fault)?;
        let is_answer = |write: &Write| matches!(write, Write::Answer(_));
        if writes.is_empty() || !writes.iter().all(is_answer) {
            rows::advance(&transaction, path, revision)?;
        }
        for write in writes {
            rows::apply(&transaction, path, write)?;
        }
        adit_fault::point("store/commit").map_err(fault)?;
        transaction
            .commit()
            .map_err(|error| failed("commit", error))?;
        adit_fault::passing("store/committed");
        Ok(())
    }
}
