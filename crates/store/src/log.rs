//! The audit log: entries that are committed with what they tell of, bounded in number.

use std::path::Path;

use rusqlite::{Connection, Row, Transaction, params};

use crate::digest::short_digest;
use crate::error::StoreError;
use crate::rows::unreadable;

/// How many entries are kept; the oldest go first.
pub const KEPT_ENTRIES: usize = 20_000;

/// An entry to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// Seconds since 1970.
    pub time: u64,
    /// The revision that it came with; the present one where it changed nothing.
    pub revision: u64,
    /// What it is about: `device/5`, `device/nas`.
    pub subjects: Vec<String>,
    /// JSON.
    pub body: String,
}

/// An entry that was added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log.
    pub number: u64,
    /// Seconds since 1970.
    pub time: u64,
    /// The revision that it came with.
    pub revision: u64,
    /// JSON; none where the row is not what was written.
    pub body: Option<String>,
}

/// Which entries are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// The oldest first, in place of the newest.
    pub oldest_first: bool,
    /// Those that follow this number in that order.
    pub after: Option<u64>,
    /// At most so many.
    pub limit: usize,
    /// Those about this subject only.
    pub subject: Option<String>,
    /// Those not older than this, in seconds since 1970.
    pub since: u64,
}

/// Adds one, and forgets the oldest of too many.
pub(crate) fn add(
    transaction: &Transaction<'_>,
    path: &Path,
    entry: &NewEntry,
) -> Result<(), StoreError> {
    let failed = |error| StoreError::from_sqlite(error, "write to the log", path);
    let subjects = format!("\n{}\n", entry.subjects.join("\n"));
    let (time, revision) = (signed(entry.time), signed(entry.revision));
    transaction
        .prepare_cached(
            "INSERT INTO log (time, revision, subjects, body, digest) VALUES (?1, ?2, ?3, ?4, ?5)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                time,
                revision,
                subjects,
                entry.body,
                digest_of(time, revision, &subjects, &entry.body)
            ])
        })
        .map_err(failed)?;
    let kept = i64::try_from(KEPT_ENTRIES).unwrap_or(i64::MAX);
    let oldest = transaction.last_insert_rowid().saturating_sub(kept);
    transaction
        .prepare_cached("DELETE FROM log WHERE number <= ?1")
        .and_then(|mut statement| statement.execute([oldest]))
        .map(drop)
        .map_err(failed)
}

pub(crate) fn read(
    connection: &Connection,
    path: &Path,
    query: &LogQuery,
) -> Result<Vec<Entry>, StoreError> {
    let failed = |error| unreadable(error, path);
    let (comparison, order) = if query.oldest_first {
        (">", "ASC")
    } else {
        ("<", "DESC")
    };
    let edge = if query.oldest_first { 0 } else { i64::MAX };
    let after = query.after.map_or(edge, signed);
    let subject = query
        .subject
        .as_ref()
        .map(|subject| format!("\n{subject}\n"));
    let text = format!(
        "SELECT number, time, revision, subjects, body, digest FROM log
         WHERE number {comparison} ?1 AND time >= ?2 AND (?3 IS NULL OR instr(subjects, ?3) > 0)
         ORDER BY number {order} LIMIT ?4"
    );
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(&text).map_err(failed)?;
    statement
        .query_map(params![after, signed(query.since), subject, limit], entry)
        .and_then(Iterator::collect)
        .map_err(failed)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let (time, revision): (i64, i64) = (row.get(1)?, row.get(2)?);
    let (subjects, body): (String, String) = (row.get(3)?, row.get(4)?);
    let is_whole = digest_of(time, revision, &subjects, &body) == row.get::<_, i64>(5)?;
    Ok(Entry {
        number: unsigned(row.get(0)?),
        time: unsigned(time),
        revision: unsigned(revision),
        body: is_whole.then_some(body),
    })
}

fn digest_of(time: i64, revision: i64, subjects: &str, body: &str) -> i64 {
    short_digest(&[
        &time.to_be_bytes(),
        &revision.to_be_bytes(),
        subjects.as_bytes(),
        body.as_bytes(),
    ])
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Store, Write};

    fn entry(time: u64, subjects: &[&str]) -> Write {
        Write::Log(NewEntry {
            time,
            revision: 7,
            subjects: subjects.iter().map(|&subject| subject.to_owned()).collect(),
            body: "{}".to_owned(),
        })
    }

    fn numbers(store: &Store, query: &LogQuery) -> Vec<u64> {
        let entries = store.log(query).unwrap();
        entries.iter().map(|entry| entry.number).collect()
    }

    #[test]
    fn entries_are_found_by_place_time_and_subject_and_the_oldest_go() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(directory.path()).unwrap();
        let mut all = vec![entry(5, &["device/1", "device/nas"])];
        all.extend((1..KEPT_ENTRIES).map(|_| entry(6, &[])));
        store.commit(1, &all).unwrap();
        store.commit(1, &[entry(9, &["device/11"])]).unwrap();
        drop(store);

        let (store, loaded) = Store::open(directory.path()).unwrap();
        assert_eq!(loaded.revision, 0, "a log entry is no change");
        let last = KEPT_ENTRIES as u64 + 1;
        let query = LogQuery {
            limit: 2,
            ..LogQuery::default()
        };
        assert_eq!(numbers(&store, &query), [last, last - 1]);
        let oldest = LogQuery {
            oldest_first: true,
            ..query.clone()
        };
        assert_eq!(numbers(&store, &oldest), [2, 3], "the first one is gone");
        let page = LogQuery {
            after: Some(3),
            ..oldest
        };
        assert_eq!(numbers(&store, &page), [4, 5]);
        let since = LogQuery {
            since: 7,
            ..query.clone()
        };
        assert_eq!(numbers(&store, &since), [last]);
        for (subject, found) in [("device/11", vec![last]), ("device/1", vec![])] {
            let about = LogQuery {
                subject: Some(subject.to_owned()),
                ..query.clone()
            };
            assert_eq!(numbers(&store, &about), found, "{subject}");
        }
    }

    #[test]
    fn a_damaged_entry_is_told_apart_and_hides_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(directory.path()).unwrap();
        store
            .commit(1, &[entry(5, &["a/1"]), entry(5, &["a/1"])])
            .unwrap();
        store
            .open
            .as_ref()
            .unwrap()
            .connection
            .execute("UPDATE log SET time = 4 WHERE number = 1", [])
            .unwrap();
        let query = LogQuery {
            limit: 9,
            ..LogQuery::default()
        };
        let bodies: Vec<bool> = store
            .log(&query)
            .unwrap()
            .iter()
            .map(|entry| entry.body.is_some())
            .collect();
        assert_eq!(bodies, [true, false]);
    }
}
