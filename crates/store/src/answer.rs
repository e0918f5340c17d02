//! Answers to changes that may be asked for again: stored with the change, kept for a day, bounded in number.

use std::path::Path;

use rusqlite::{Connection, Row, Transaction, params};

use crate::digest::short_digest;
use crate::error::StoreError;
use crate::rows::unreadable;

/// How many answers are kept.
pub const KEPT: usize = 10_000;
/// How many seconds an answer is kept.
pub const LIFETIME: u64 = 24 * 60 * 60;

/// What was answered to a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Names the attempt.
    pub key: String,
    /// What was asked for; under the same key nothing else may be.
    pub request: String,
    /// Seconds since 1970.
    pub time: u64,
    /// JSON.
    pub body: String,
}

/// All that are kept, the oldest first.
pub(crate) fn load(connection: &Connection, path: &Path) -> Result<Vec<Answer>, StoreError> {
    let failed = |error| unreadable(error, path);
    let mut statement = connection
        .prepare("SELECT key, request, time, body, digest FROM answer ORDER BY number")
        .map_err(failed)?;
    let rows = statement.query_map([], read).map_err(failed)?;
    let mut answers = Vec::new();
    for row in rows {
        let (answer, found) = row.map_err(failed)?;
        if found != digest_of(&answer) {
            return Err(StoreError::Corrupt {
                path: path.to_owned(),
                detail: format!(
                    "there is a wrong digest in the row of answer {}",
                    answer.key
                ),
            });
        }
        answers.push(answer);
    }
    Ok(answers)
}

/// Adds one, and forgets those that are too old or too many.
pub(crate) fn add(
    transaction: &Transaction<'_>,
    path: &Path,
    answer: &Answer,
) -> Result<(), StoreError> {
    let failed = |error| StoreError::from_sqlite(error, "write an answer", path);
    let time = i64::try_from(answer.time).unwrap_or(i64::MAX);
    let oldest = i64::try_from(answer.time.saturating_sub(LIFETIME)).unwrap_or(i64::MAX);
    let kept = i64::try_from(KEPT).unwrap_or(i64::MAX);
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO answer (key, request, time, body, digest) VALUES (?1, ?2, ?3, ?4, ?5)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                answer.key,
                answer.request,
                time,
                answer.body,
                digest_of(answer)
            ])
        })
        .map_err(failed)?;
    let last = transaction.last_insert_rowid();
    transaction
        .prepare_cached("DELETE FROM answer WHERE number <= ?1 OR time < ?2")
        .and_then(|mut statement| statement.execute(params![last.saturating_sub(kept), oldest]))
        .map(drop)
        .map_err(failed)
}

fn read(row: &Row<'_>) -> rusqlite::Result<(Answer, i64)> {
    let time: i64 = row.get(2)?;
    let answer = Answer {
        key: row.get(0)?,
        request: row.get(1)?,
        time: u64::try_from(time).unwrap_or(0),
        body: row.get(3)?,
    };
    Ok((answer, row.get(4)?))
}

fn digest_of(answer: &Answer) -> i64 {
    short_digest(&[
        answer.key.as_bytes(),
        answer.request.as_bytes(),
        &answer.time.to_be_bytes(),
        answer.body.as_bytes(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Store, Write};

    fn answer(key: &str, time: u64) -> Answer {
        Answer {
            key: key.to_owned(),
            request: "request".to_owned(),
            time,
            body: "{}".to_owned(),
        }
    }

    #[test]
    fn answers_come_with_their_change_and_go_with_their_day() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(directory.path()).unwrap();
        let object = Write::Set {
            kind: "device".into(),
            id: 1,
            version: 1,
            body: "{}".into(),
        };
        let day = LIFETIME;
        store
            .commit(1, &[object, Write::Answer(answer("a", 5))])
            .unwrap();
        // An answer alone is no change.
        store
            .commit(2, &[Write::Answer(answer("b", day + 5))])
            .unwrap();
        drop(store);
        let (mut store, loaded) = Store::open(directory.path()).unwrap();
        assert_eq!(loaded.revision, 1);
        assert_eq!(loaded.answers, [answer("a", 5), answer("b", day + 5)]);
        store
            .commit(2, &[Write::Answer(answer("c", day + 6))])
            .unwrap();
        drop(store);
        let (_store, loaded) = Store::open(directory.path()).unwrap();
        assert_eq!(loaded.answers, [answer("b", day + 5), answer("c", day + 6)]);
    }

    #[test]
    fn more_answers_than_are_kept_push_the_oldest_out() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(directory.path()).unwrap();
        let all: Vec<Write> = (0..KEPT + 3)
            .map(|number| Write::Answer(answer(&number.to_string(), 5)))
            .collect();
        store.commit(1, &all).unwrap();
        drop(store);
        let (_store, loaded) = Store::open(directory.path()).unwrap();
        assert_eq!(loaded.answers.len(), KEPT);
        assert_eq!(loaded.answers[0].key, "3");
    }
}
