//! The files of a state directory, and what their presence tells.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::StoreError;

#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) directory: PathBuf,
    pub(crate) database: PathBuf,
    pub(crate) lock: PathBuf,
    pub(crate) record: PathBuf,
    pub(crate) snapshot: PathBuf,
    pub(crate) previous_snapshot: PathBuf,
    /// There from the first start on: without a database beside it, something was lost.
    created: PathBuf,
}

/// What the daemon keeps beside the database, and makes after it.
const NEIGHBORS: [&str; 2] = ["private.key", "interface"];

impl Files {
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            database: directory.join("adit.db"),
            lock: directory.join("adit.lock"),
            record: directory.join("adit.revision"),
            snapshot: directory.join("adit.snapshot"),
            previous_snapshot: directory.join("adit.snapshot.1"),
            created: directory.join("adit.created"),
        }
    }

    /// A directory that we make, or find empty, is closed to others. One that holds something is left as it is: it
    /// may have been named by mistake, and our files in it have modes of their own.
    pub(crate) fn create_directory(&self) -> Result<(), StoreError> {
        let failed =
            |operation| move |error| StoreError::from_io(error, operation, &self.directory);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(failed("create the directory"))?;
        let mut entries = fs::read_dir(&self.directory).map_err(failed("list the directory"))?;
        if entries.next().is_none() {
            fs::set_permissions(&self.directory, Permissions::from_mode(0o700))
                .map_err(failed("close to others the directory"))?;
        }
        Ok(())
    }

    /// Whether there is a database with anything in it.
    pub(crate) fn has_database(&self) -> Result<bool, StoreError> {
        Ok(length(&self.database)?.is_some_and(|length| length > 0))
    }

    /// A file that shows that there was a database here.
    pub(crate) fn witness(&self) -> Result<Option<PathBuf>, StoreError> {
        let log = sibling(&self.database, "-wal");
        if length(&log)?.is_some_and(|length| length > 0) {
            return Ok(Some(log));
        }
        let witnesses = [
            &self.created,
            &self.record,
            &self.snapshot,
            &self.previous_snapshot,
        ];
        let neighbors = NEIGHBORS.map(|name| self.directory.join(name));
        for path in witnesses.into_iter().chain(&neighbors) {
            if length(path)?.is_some() {
                return Ok(Some(path.clone()));
            }
        }
        Ok(None)
    }

    pub(crate) fn mark_created(&self) -> Result<(), StoreError> {
        if length(&self.created)?.is_none() {
            create_private(&self.created)?;
            self.sync_directory()?;
        }
        Ok(())
    }

    pub(crate) fn sync_directory(&self) -> Result<(), StoreError> {
        sync(&self.directory)
    }

    /// Where the database as it was before schema `version` is kept.
    pub(crate) fn backup(&self, version: i64) -> PathBuf {
        sibling(&self.database, &format!(".before-{version}"))
    }
}

/// A file of mode 0600 with nothing in it.
pub(crate) fn create_private(path: &Path) -> Result<(), StoreError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|error| StoreError::from_io(error, "create", path))
}

pub(crate) fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| StoreError::from_io(error, "write to the disk", path))
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to)
        .map_err(|error| StoreError::from_io(error, "rename to its final name", from))
}

/// Removes a database that was not finished, with the files that SQLite keeps beside it.
pub(crate) fn remove_unfinished(database: &Path) -> Result<(), StoreError> {
    for path in [
        database.to_owned(),
        sibling(database, "-wal"),
        sibling(database, "-shm"),
        sibling(database, "-journal"),
    ] {
        remove(&path)?;
    }
    Ok(())
}

pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(StoreError::from_io(error, "remove", path))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(crate) fn sibling(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn length(path: &Path) -> Result<Option<u64>, StoreError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::from_io(error, "look at", path)),
    }
}
