//! From a state directory to an open database: what is there, whether it is all that was committed, and what takes its
//! place if it is not.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::Connection;

use crate::error::{Left, StoreError};
use crate::files::{self, Files};
use crate::lock::Lock;
use crate::record::Record;
use crate::snapshot::{Snapshot, Snapshots};
use crate::{Loaded, Write, database, migration, rows};

/// Whether there may be no state yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Any,
    /// There was one a moment ago.
    Again,
}

/// What `recover` shall make of a state that cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// The newest whole copy, whatever it lacks.
    Best,
    /// Nothing at all.
    Empty,
}

/// What was recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Where it comes from; none for nothing at all.
    pub from: Option<PathBuf>,
    /// The number that the state has now: never one that another state had.
    pub revision: u64,
    pub objects: usize,
    /// The files that were there, under their new name.
    pub kept: PathBuf,
}

/// A state that was put in the place of a damaged one, told until its files are removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Restoration {
    /// The damaged database; others that begin with its name belong to it.
    pub kept: PathBuf,
    pub message: String,
}

enum Found {
    Nothing,
    Whole(Connection, Loaded),
    Damaged(String),
}

/// The database with everything that was ever acknowledged, or an error.
pub(crate) fn open(files: &Files, start: Start) -> Result<(Connection, Loaded), StoreError> {
    let detail = match look(files)? {
        Found::Nothing if start == Start::Any => {
            database::create(files)?;
            return open_whole(files);
        }
        Found::Nothing => return Err(away(files)),
        Found::Whole(connection, loaded) => {
            let known = known(files).max(newest_revision(files));
            match known.filter(|known| *known > loaded.revision) {
                None => return Ok((connection, loaded)),
                Some(known) => format!(
                    "the database ends at revision {}, and changes up to revision {known} were acknowledged",
                    loaded.revision
                ),
            }
        }
        Found::Damaged(detail) => detail,
    };
    let (path, content) = proven(files, detail.clone())?;
    let message = format!(
        "the state was damaged and restored from {}, with nothing lost of it (revision {}): {detail}. What only the \
         database held, such as the log of changes and the answers to repeated requests, begins anew",
        path.display(),
        content.revision
    );
    restore(files, &content, &message)?;
    open_whole(files)
}

/// Whether a state is where one was a moment ago, before anything is made there.
pub(crate) fn check_presence(files: &Files) -> Result<(), StoreError> {
    if files.has_database()? || files.witness()?.is_some() {
        Ok(())
    } else {
        Err(away(files))
    }
}

/// The state as it is on a disk that takes no writes; nothing stays open.
pub(crate) fn read_only(files: &Files) -> Result<Loaded, StoreError> {
    drop(Lock::take_read_only(&files.lock)?);
    let read = database::open_read_only(&files.database)
        .and_then(|mut connection| rows::load(&mut connection, &files.database));
    let detail = match read {
        Ok(loaded) if Some(loaded.revision) >= known(files).max(newest_revision(files)) => {
            return Ok(loaded);
        }
        Ok(loaded) => format!("the database ends at revision {}", loaded.revision),
        Err(error) => error.to_string(),
    };
    let (_, Snapshot { revision, objects }) = proven(files, detail)?;
    Ok(Loaded {
        revision,
        objects,
        answers: Vec::new(),
    })
}

/// Puts the best there is in the place of a state that cannot be trusted; none when it can.
pub(crate) fn recover(files: &Files, recovery: Recovery) -> Result<Option<Recovered>, StoreError> {
    let _lock = Lock::take(&files.lock)?;
    let recorded = known(files);
    let snapshot = Snapshots::of(files).newest_with_path();
    let newest = snapshot.as_ref().ok().map(|(_, content)| content.revision);
    let (database, detail) = match look(files)? {
        Found::Nothing => return Ok(None),
        Found::Whole(_, loaded) if Some(loaded.revision) >= recorded.max(newest) => {
            return Ok(None);
        }
        Found::Whole(_, loaded) => {
            let detail = format!("the database ended at revision {}", loaded.revision);
            let content = Snapshot {
                revision: loaded.revision,
                objects: loaded.objects,
            };
            (Some((files.database.clone(), content)), detail)
        }
        Found::Damaged(detail) => (None, detail),
    };
    let known = recorded.max(newest).max(told(files));
    let best = match recovery {
        Recovery::Empty => None,
        Recovery::Best => {
            let snapshot_error = snapshot.as_ref().err().map(ToString::to_string);
            let best = [database, snapshot.ok()]
                .into_iter()
                .flatten()
                .max_by_key(|(_, content)| content.revision);
            if best.is_none() {
                return Err(lost(
                    files,
                    detail,
                    known,
                    Left::Nothing {
                        reason: snapshot_error.unwrap_or_default(),
                    },
                ));
            }
            best
        }
    };
    let (from, content) = match best {
        Some((path, content)) => (Some(path), content),
        None => (
            None,
            Snapshot {
                revision: 0,
                objects: Vec::new(),
            },
        ),
    };
    let is_all = recorded.is_some() && Some(content.revision) >= known;
    let revision = match known {
        Some(known) if !is_all => known + 1,
        Some(_) | None => content.revision,
    };
    let source = from
        .as_ref()
        .map_or("begun anew with nothing".to_owned(), |path| {
            format!(
                "restored from {} (revision {})",
                path.display(),
                content.revision
            )
        });
    let content = Snapshot {
        revision,
        ..content
    };
    let message = format!(
        "the state was damaged and, as the administrator wanted, {source}; it has revision {revision} now: {detail}"
    );
    let kept = restore(files, &content, &message)?;
    Ok(Some(Recovered {
        from,
        revision,
        objects: content.objects.len(),
        kept,
    }))
}

/// Puts objects in the place of whatever is there, under a revision that it never had.
pub(crate) fn replace(files: &Files, content: Snapshot) -> Result<u64, StoreError> {
    let _lock = Lock::take(&files.lock)?;
    let known = known(files).max(newest_revision(files)).max(told(files));
    let revision = content.revision.max(known.map_or(0, |known| known + 1));
    let content = Snapshot {
        revision,
        ..content
    };
    build(files, &content)?;
    exchange(files, &aside(files, REPLACED), revision)?;
    Ok(revision)
}

/// A database that was led back to an older schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downgraded {
    /// What there was no room for.
    pub lost: Vec<&'static str>,
    /// The database that was there, under its new name.
    pub kept: PathBuf,
}

/// Everything goes to the older schema that it has room for. A crash at any step leaves the one or the other.
pub(crate) fn downgrade(files: &Files, schema: i64) -> Result<Downgraded, StoreError> {
    let _lock = Lock::take(&files.lock)?;
    check_presence(files)?;
    let (connection, loaded) = open_whole(files)?;
    let found = database::schema_version(&connection, &files.database)?;
    if !(1..found).contains(&schema) {
        return Err(StoreError::NoSchema {
            path: files.database.clone(),
            wanted: schema,
            found,
        });
    }
    let unfinished = files::sibling(&files.database, ".new");
    migration::copy(&connection, files, &unfinished)?;
    let mut older = database::connect(&unfinished)?;
    let lost = migration::lead_back(&mut older, &unfinished, schema)?;
    older.close().map_err(|(_, error)| {
        StoreError::from_sqlite(error, "close the older database", &unfinished)
    })?;
    files::sync(&unfinished)?;
    drop(connection);
    let kept = aside(files, REPLACED);
    exchange(files, &kept, loaded.revision)?;
    Ok(Downgraded { lost, kept })
}

/// The restorations whose files are still there.
pub(crate) fn restorations(files: &Files) -> Vec<Restoration> {
    let Ok(entries) = fs::read_dir(&files.directory) else {
        return Vec::new();
    };
    let mut found: Vec<Restoration> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kept = name.strip_suffix(MESSAGE)?;
            kept.starts_with(ASIDE).then_some(())?;
            let message = fs::read_to_string(entry.path()).ok()?;
            Some(Restoration {
                kept: files.directory.join(kept),
                message: message.trim_end().to_owned(),
            })
        })
        .collect();
    found.sort();
    found
}

/// How the name of a damaged database begins.
const ASIDE: &str = "adit.db.damaged-";

/// How the name of a database begins that made way for another.
const REPLACED: &str = "adit.db.replaced-";

/// How the name of the text about it ends.
const MESSAGE: &str = ".txt";

fn look(files: &Files) -> Result<Found, StoreError> {
    if !files.has_database()? {
        return Ok(match files.witness()? {
            None => Found::Nothing,
            Some(witness) => Found::Damaged(format!(
                "{} is missing or empty, but {} shows that there was one",
                files.database.display(),
                witness.display()
            )),
        });
    }
    match open_whole(files) {
        Ok((connection, loaded)) => Ok(Found::Whole(connection, loaded)),
        Err(StoreError::Corrupt { path, detail }) if path == files.database => Ok(Found::Damaged(
            format!("the database {} is damaged: {detail}", path.display()),
        )),
        Err(error) => Err(error),
    }
}

fn open_whole(files: &Files) -> Result<(Connection, Loaded), StoreError> {
    let mut connection = database::open(&files.database)?;
    migration::run(&mut connection, files, migration::SCHEMAS)?;
    let loaded = rows::load(&mut connection, &files.database)?;
    Ok((connection, loaded))
}

/// The newest acknowledged revision, if it is on record.
fn known(files: &Files) -> Option<u64> {
    Record::read(&files.record)
}

fn newest_revision(files: &Files) -> Option<u64> {
    let newest = Snapshots::of(files).newest();
    newest.ok().map(|content| content.revision)
}

/// What a damaged database still tells.
fn told(files: &Files) -> Option<u64> {
    let connection = database::open_unchecked(&files.database).ok()?;
    let head = rows::head(&connection, &files.database).ok()?;
    Some(head.revision)
}

/// The snapshot, if it is known to lack nothing.
fn proven(files: &Files, detail: String) -> Result<(PathBuf, Snapshot), StoreError> {
    let recorded = known(files);
    let known = recorded.max(told(files));
    match Snapshots::of(files).newest_with_path() {
        Ok((path, content)) if recorded.is_some() && Some(content.revision) >= known => {
            Ok((path, content))
        }
        Ok((path, content)) => {
            let revision = content.revision;
            Err(lost(files, detail, known, Left::Copy { path, revision }))
        }
        Err(error) => {
            let reason = error.to_string();
            Err(lost(files, detail, known, Left::Nothing { reason }))
        }
    }
}

fn away(files: &Files) -> StoreError {
    StoreError::Away {
        directory: files.directory.clone(),
    }
}

fn lost(files: &Files, detail: String, known: Option<u64>, left: Left) -> StoreError {
    StoreError::Lost {
        directory: files.directory.clone(),
        detail,
        known,
        left,
    }
}

/// Makes a database that holds `content`, and gives it the name of the one that is there, whose files are kept under
/// the name that is returned. A crash at any step leaves a state that is found damaged, or the new one.
pub(crate) fn restore(
    files: &Files,
    content: &Snapshot,
    message: &str,
) -> Result<PathBuf, StoreError> {
    build(files, content)?;
    let kept = aside(files, ASIDE);
    let text = files::sibling(&kept, MESSAGE);
    files::create_private(&text)?;
    fs::write(&text, format!("{message}\n"))
        .map_err(|error| StoreError::from_io(error, "write", &text))?;
    files::sync(&text)?;
    exchange(files, &kept, content.revision)?;
    Ok(kept)
}

/// Makes a database that holds `content`, beside the one that is there.
fn build(files: &Files, content: &Snapshot) -> Result<(), StoreError> {
    let unfinished = files::sibling(&files.database, ".new");
    let writes: Vec<Write> = content
        .objects
        .iter()
        .map(|object| Write::Set {
            kind: object.kind.clone(),
            id: object.id,
            version: object.version,
            body: object.body.to_string(),
        })
        .collect();
    database::build(files, &unfinished, content.revision, &writes)
}

/// Gives the new database its name, and the one that is there another.
fn exchange(files: &Files, kept: &Path, revision: u64) -> Result<(), StoreError> {
    let unfinished = files::sibling(&files.database, ".new");
    // The log first: beside the new database it would be taken for its own.
    for ending in ["-wal", "-shm", "-journal", ""] {
        let from = files::sibling(&files.database, ending);
        match fs::rename(&from, files::sibling(kept, ending)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(StoreError::from_io(error, "move out of the way", &from));
            }
            Ok(()) | Err(_) => {}
        }
    }
    files.sync_directory()?;
    files::rename(&unfinished, &files.database)?;
    files.sync_directory()?;
    drop(Record::begin(&files.record, revision));
    files.mark_created()
}

/// A name that nothing has yet.
fn aside(files: &Files, prefix: &str) -> PathBuf {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs());
    let name = |number: u64| files.directory.join(format!("{prefix}{number}"));
    let is_free = |path: &Path| !path.exists() && !files::sibling(path, MESSAGE).exists();
    (seconds..)
        .map(name)
        .find(|path| is_free(path))
        .unwrap_or_else(|| name(seconds))
}
