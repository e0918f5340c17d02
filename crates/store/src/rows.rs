//! Objects and the revision as rows, each with a digest of its own; the row of the revision also sums the others up.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use crate::digest::short_digest;
use crate::error::StoreError;
use crate::{Loaded, StoredObject, Write, answer, log};

/// What the row of the revision says about the whole: a row that is missing, or an older one in its place, has a digest
/// that is as good as any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) revision: u64,
    /// How many objects there are.
    count: u64,
    /// Their digests, added up.
    sum: i64,
}

/// Reads everything, and refuses all of it when one row is not what was written.
pub(crate) fn load(connection: &mut Connection, path: &Path) -> Result<Loaded, StoreError> {
    // One snapshot, although nobody else can write.
    let transaction = connection
        .transaction()
        .map_err(|error| unreadable(error, path))?;
    let head = head(&transaction, path)?;
    let mut found = Head::new(head.revision);
    let mut objects = Vec::new();
    let mut statement = transaction
        .prepare("SELECT kind, id, version, body, digest FROM object ORDER BY kind, id")
        .map_err(|error| unreadable(error, path))?;
    let rows = statement
        .query_map([], ObjectRow::read)
        .map_err(|error| unreadable(error, path))?;
    for row in rows {
        let row = row.map_err(|error| unreadable(error, path))?;
        found.add(row.digest);
        objects.push(row.verified(path)?);
    }
    if found != head {
        return Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail: format!(
                "it holds {} objects where revision {} has {}, or others than it had",
                found.count, head.revision, head.count
            ),
        });
    }
    let answers = answer::load(&transaction, path)?;
    Ok(Loaded {
        revision: head.revision,
        objects,
        answers,
    })
}

/// The head to which a commit of `revision` adds its writes.
pub(crate) fn advance(
    transaction: &Transaction<'_>,
    path: &Path,
    revision: u64,
) -> Result<Head, StoreError> {
    let head = head(transaction, path)?;
    if revision <= head.revision {
        return Err(StoreError::Stale {
            path: path.to_owned(),
            revision,
            found: head.revision,
        });
    }
    Ok(Head { revision, ..head })
}

/// Before schema 3 the row of the revision did not sum the others up: now it does.
pub(crate) fn sum_up(transaction: &Transaction<'_>, path: &Path) -> Result<(), StoreError> {
    match revision_text(transaction, path)?.parse() {
        Ok(revision) => sum_up_at(transaction, path, revision),
        Err(_) => Ok(()),
    }
}

fn sum_up_at(transaction: &Transaction<'_>, path: &Path, revision: u64) -> Result<(), StoreError> {
    let mut head = Head::new(revision);
    let mut statement = transaction
        .prepare("SELECT digest FROM object")
        .map_err(|error| unreadable(error, path))?;
    let digests = statement
        .query_map([], |row| row.get(0))
        .map_err(|error| unreadable(error, path))?;
    for digest in digests {
        head.add(digest.map_err(|error| unreadable(error, path))?);
    }
    drop(statement);
    set_head(transaction, path, head)
}

/// Objects were removed without counting them.
pub(crate) fn sum_up_again(transaction: &Transaction<'_>, path: &Path) -> Result<(), StoreError> {
    let head = head(transaction, path)?;
    sum_up_at(transaction, path, head.revision)
}

/// Whether there is an object of a kind.
pub(crate) fn has_kind(
    transaction: &Transaction<'_>,
    path: &Path,
    kind: &str,
) -> Result<bool, StoreError> {
    transaction
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM object WHERE kind = ?1)",
            [kind],
            |row| row.get(0),
        )
        .map_err(|error| unreadable(error, path))
}

/// As it was before schema 3.
pub(crate) fn forget_sums(transaction: &Transaction<'_>, path: &Path) -> Result<(), StoreError> {
    let head = head(transaction, path)?;
    set_revision_text(transaction, path, &head.revision.to_string())
}

pub(crate) fn set_head(
    transaction: &Transaction<'_>,
    path: &Path,
    head: Head,
) -> Result<(), StoreError> {
    let value = format!("{} {} {}", head.revision, head.count, head.sum);
    set_revision_text(transaction, path, &value)
}

fn set_revision_text(
    transaction: &Transaction<'_>,
    path: &Path,
    value: &str,
) -> Result<(), StoreError> {
    transaction
        .prepare_cached("INSERT OR REPLACE INTO meta (key, value, digest) VALUES (?1, ?2, ?3)")
        .and_then(|mut statement| {
            statement.execute(params![REVISION, value, meta_digest(REVISION, value)])
        })
        .map(drop)
        .map_err(|error| StoreError::from_sqlite(error, "write the revision", path))
}

pub(crate) fn apply(
    transaction: &Transaction<'_>,
    path: &Path,
    write: &Write,
    head: &mut Head,
) -> Result<(), StoreError> {
    match write {
        Write::Answer(answer) => answer::add(transaction, path, answer),
        Write::Log(entry) => log::add(transaction, path, entry),
        Write::Set {
            kind,
            id,
            version,
            body,
        } => {
            let unstorable = |detail: &str| StoreError::Unstorable {
                kind: kind.clone(),
                id: *id,
                detail: detail.to_owned(),
            };
            // Checked with the parser that will read it back.
            if let Err(error) = serde_json::from_str::<serde_json::Value>(body) {
                return Err(unstorable(&format!("its body is not JSON: {error}")));
            }
            let row = i64::try_from(*id).map_err(|_| unstorable("its id is above 2^63"))?;
            let version =
                i64::try_from(*version).map_err(|_| unstorable("its version is above 2^63"))?;
            let digest = object_digest(kind, row, version, body);
            let failed =
                |error| StoreError::from_sqlite(error, &format!("write {kind} {id}"), path);
            head.remove(take(transaction, kind, row).map_err(failed)?);
            transaction
                .prepare_cached(
                    "INSERT INTO object (kind, id, version, body, digest) VALUES (?1, ?2, ?3, ?4, ?5)",
                )
                .and_then(|mut statement| {
                    statement.execute(params![kind, row, version, body, digest])
                })
                .map_err(failed)?;
            head.add(digest);
            Ok(())
        }
        Write::Remove { kind, id } => {
            // An id that cannot be stored is not there.
            let Ok(row) = i64::try_from(*id) else {
                return Ok(());
            };
            let taken = take(transaction, kind, row).map_err(|error| {
                StoreError::from_sqlite(error, &format!("remove {kind} {id}"), path)
            })?;
            head.remove(taken);
            Ok(())
        }
    }
}

/// Removes a row; its digest, if it was there.
fn take(transaction: &Transaction<'_>, kind: &str, id: i64) -> rusqlite::Result<Option<i64>> {
    let digest = transaction
        .prepare_cached("SELECT digest FROM object WHERE kind = ?1 AND id = ?2")?
        .query_row(params![kind, id], |row| row.get(0))
        .optional()?;
    if digest.is_some() {
        transaction
            .prepare_cached("DELETE FROM object WHERE kind = ?1 AND id = ?2")?
            .execute(params![kind, id])?;
    }
    Ok(digest)
}

impl Head {
    /// Of a database without objects.
    pub(crate) const fn new(revision: u64) -> Self {
        Self {
            revision,
            count: 0,
            sum: 0,
        }
    }

    const fn add(&mut self, digest: i64) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(digest);
    }

    const fn remove(&mut self, digest: Option<i64>) {
        if let Some(digest) = digest {
            self.count = self.count.wrapping_sub(1);
            self.sum = self.sum.wrapping_sub(digest);
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let head = Self {
            revision: words.next()?.parse().ok()?,
            count: words.next()?.parse().ok()?,
            sum: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(head)
    }
}

const REVISION: &str = "revision";

struct ObjectRow {
    kind: String,
    id: i64,
    version: i64,
    body: String,
    digest: i64,
}

impl ObjectRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            kind: row.get(0)?,
            id: row.get(1)?,
            version: row.get(2)?,
            body: row.get(3)?,
            digest: row.get(4)?,
        })
    }

    fn verified(self, path: &Path) -> Result<StoredObject, StoreError> {
        let corrupt = |what: &str| StoreError::Corrupt {
            path: path.to_owned(),
            detail: format!("{what} in the row of {} {}", self.kind, self.id),
        };
        if object_digest(&self.kind, self.id, self.version, &self.body) != self.digest {
            return Err(corrupt("there is a wrong digest"));
        }
        let id = u64::try_from(self.id).map_err(|_| corrupt("there is a negative id"))?;
        let version =
            u64::try_from(self.version).map_err(|_| corrupt("there is a negative version"))?;
        let body = serde_json::from_str(&self.body).map_err(|_| corrupt("there is no JSON"))?;
        Ok(StoredObject {
            kind: self.kind,
            id,
            version,
            body,
        })
    }
}

pub(crate) fn head(connection: &Connection, path: &Path) -> Result<Head, StoreError> {
    let text = revision_text(connection, path)?;
    Head::parse(&text).ok_or_else(|| StoreError::Corrupt {
        path: path.to_owned(),
        detail: "its revision is not a number".to_owned(),
    })
}

fn revision_text(connection: &Connection, path: &Path) -> Result<String, StoreError> {
    let corrupt = |detail: &str| StoreError::Corrupt {
        path: path.to_owned(),
        detail: detail.to_owned(),
    };
    let row: Option<(String, i64)> = connection
        .prepare_cached("SELECT value, digest FROM meta WHERE key = ?1")
        .and_then(|mut statement| {
            statement
                .query_row([REVISION], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })
        .map_err(|error| unreadable(error, path))?;
    let (value, digest) = row.ok_or_else(|| corrupt("it has no revision"))?;
    if meta_digest(REVISION, &value) != digest {
        return Err(corrupt(
            "there is a wrong digest in the row of the revision",
        ));
    }
    Ok(value)
}

/// A database whose identity and integrity were found good, and which still does not answer, is damaged: only
/// failures of the disk are not.
pub(crate) fn unreadable(error: rusqlite::Error, path: &Path) -> StoreError {
    let io = matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::SystemIoFailure | rusqlite::ErrorCode::OutOfMemory)
    );
    match StoreError::from_sqlite(error, "read the state", path) {
        StoreError::Database { path, source, .. } if !io => StoreError::Corrupt {
            path,
            detail: source.to_string(),
        },
        other => other,
    }
}

fn object_digest(kind: &str, id: i64, version: i64, body: &str) -> i64 {
    short_digest(&[
        kind.as_bytes(),
        &id.to_be_bytes(),
        &version.to_be_bytes(),
        body.as_bytes(),
    ])
}

fn meta_digest(key: &str, value: &str) -> i64 {
    short_digest(&[key.as_bytes(), value.as_bytes()])
}
