//! What can be wrong with a database, and the way out of each.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;

use crate::snapshot::SnapshotError;

/// What could take the place of a state that cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// This file, as of this revision.
    Copy { path: PathBuf, revision: u64 },
    /// Nothing, since the snapshot cannot be read either.
    Nothing { reason: String },
}

impl Left {
    fn describe(&self, known: Option<u64>) -> String {
        match (self, known) {
            (Self::Copy { path, revision }, Some(known)) if *revision < known => {
                let lost = match known - revision {
                    1 => format!("revision {known}"),
                    _ => format!("revisions {} to {known}", revision + 1),
                };
                format!(
                    "Changes up to revision {known} were made, and the best copy left, {}, ends at revision \
                     {revision}: {lost} would be lost",
                    path.display()
                )
            }
            (Self::Copy { path, revision }, _) => format!(
                "The best copy left, {}, ends at revision {revision}, and nothing tells whether changes were made after it",
                path.display()
            ),
            (Self::Nothing { reason }, Some(known)) => format!(
                "Changes up to revision {known} were made, and there is no copy: {reason}. All of them would be lost"
            ),
            (Self::Nothing { reason }, None) => {
                format!("There is no copy: {reason}. All changes would be lost")
            }
        }
    }

    fn way_out(&self, directory: &Path) -> String {
        let directory = directory.display();
        match self {
            Self::Copy { .. } => {
                format!("accept that loss: `adit gateway recover --state-dir {directory}`")
            }
            Self::Nothing { .. } => format!(
                "begin with nothing: `adit gateway recover --empty --state-dir {directory}`"
            ),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{} is damaged: {detail}", path.display())]
    Corrupt { path: PathBuf, detail: String },

    #[error(
        "the state in {} cannot be trusted: {detail}. {}. Nothing was changed. Put the whole directory back from a \
         backup, or {}",
        directory.display(), left.describe(*known), left.way_out(directory)
    )]
    Lost {
        directory: PathBuf,
        detail: String,
        /// The newest revision that was acknowledged; none when that is not known.
        known: Option<u64>,
        left: Left,
    },

    #[error("the state that was in {} is away. Mount its disk again", directory.display())]
    Away { directory: PathBuf },

    #[error("the snapshot {} cannot be used: {source}", path.display())]
    Snapshot {
        path: PathBuf,
        source: SnapshotError,
    },

    #[error(
        "the database in {} holds revision {found}, which was not acknowledged, after a disk error at revision \
         {expected}. Try again in some seconds, when there is a new snapshot to go back to",
        directory.display()
    )]
    Ahead {
        directory: PathBuf,
        expected: u64,
        found: u64,
    },

    #[error(
        "the database {} has schema {found}, and this version of Adit knows schemas up to {known}. Install the \
         version that wrote it; its `adit gateway downgrade --schema {known}` leads back here with all changes. Without it, \
         remove adit.db-wal beside the database and put the copy {}.before-{} in its place",
        path.display(), path.display(), known + 1
    )]
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },

    #[error("there is no schema {wanted} to lead {} back to: it has schema {found}, and 1 is the first", path.display())]
    NoSchema {
        path: PathBuf,
        wanted: i64,
        found: i64,
    },

    #[error(
        "{} is a database of another program (application id {application:#010x}). Use another state directory",
        path.display()
    )]
    Foreign { path: PathBuf, application: i64 },

    #[error(
        "{} is not open, because its disk refused: see `adit status`. The next change opens it again, if the disk lets it",
        path.display()
    )]
    Closed { path: PathBuf },

    #[error("cannot {operation} in {}: the disk is full. Free some space and try again", path.display())]
    Full { path: PathBuf, operation: String },

    #[error(
        "cannot {operation} in {}: it is read-only for this process. Make its directory writable, or use another \
         state directory", path.display()
    )]
    ReadOnly { path: PathBuf, operation: String },

    #[error(
        "another process{} holds {}. Stop it, or use another state directory",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), path.display()
    )]
    Locked { path: PathBuf, pid: Option<u32> },

    #[error("cannot commit revision {revision} to {}: it already has revision {found}", path.display())]
    Stale {
        path: PathBuf,
        revision: u64,
        found: u64,
    },

    #[error("cannot store {kind} {id}: {detail}")]
    Unstorable {
        kind: String,
        id: u64,
        detail: String,
    },

    #[error(
        "this is SQLite {found}, and versions before {needed} can lose commits. Build Adit with the bundled one"
    )]
    Library {
        found: &'static str,
        needed: &'static str,
    },

    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        path: PathBuf,
        operation: &'static str,
        source: io::Error,
    },

    #[error("cannot {operation} in {}: {source}", path.display())]
    Database {
        path: PathBuf,
        operation: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    pub(crate) fn from_sqlite(error: rusqlite::Error, operation: &str, path: &Path) -> Self {
        let path = path.to_owned();
        let operation = operation.to_owned();
        if let rusqlite::Error::SqliteFailure(failure, _) = &error {
            // The shared index of the log could not grow: SQLite reports a full disk there as an I/O error.
            if failure.code == ErrorCode::DiskFull || failure.extended_code == SQLITE_IOERR_SHMSIZE
            {
                return Self::Full { path, operation };
            }
            if matches!(
                failure.code,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase
            ) {
                return Self::Corrupt {
                    path,
                    detail: format!("{error} (while trying to {operation})"),
                };
            }
            if failure.code == ErrorCode::ReadOnly {
                return Self::ReadOnly { path, operation };
            }
            if failure.code == ErrorCode::DatabaseBusy {
                return Self::Locked { path, pid: None };
            }
        }
        Self::Database {
            path,
            operation,
            source: Box::new(error),
        }
    }

    pub(crate) fn from_io(error: io::Error, operation: &'static str, path: &Path) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full {
                path,
                operation: operation.to_owned(),
            },
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => Self::ReadOnly {
                path,
                operation: operation.to_owned(),
            },
            _ => Self::Io {
                path,
                operation,
                source: error,
            },
        }
    }
}
