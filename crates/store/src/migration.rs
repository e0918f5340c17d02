//! Numbered schemas. A database of an older one is copied, the copy is verified, and then it is brought forward.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::Write;
use crate::database::{self, APPLICATION};
use crate::error::StoreError;
use crate::files::{self, Files};
use crate::rows;

/// The statements that lead to schema 1, 2, …. What was released is never edited, only followed.
pub(crate) const SCHEMAS: &[&str] = &[
    include_str!("migration/1.sql"),
    include_str!("migration/2.sql"),
    include_str!("migration/3.sql"),
    include_str!("migration/4.sql"),
];

/// The schema since which the row of the revision sums the others up.
const SUMS: i64 = 3;

/// The schema since which a gateway that never set `snat-ports` has other ones.
const PORTS: i64 = 4;

/// What a gateway without settings of its own had before.
const EARLIER_SETTINGS: &str = r#"{"snat-first":40000,"snat-last":65535}"#;

/// The statements that lead back from schema 1, 2, … to the one before. What that has no room for is lost, and told.
const BACK: &[(&str, &str)] = &[
    ("", "everything"),
    (
        "DROP TABLE answer;",
        "the answers to requests that may be repeated",
    ),
    ("DROP TABLE log;", "the log of changes"),
    (
        "DELETE FROM object WHERE kind = 'lease';",
        "the ports that devices opened by themselves",
    ),
];

/// Leads a database, which is open by nobody else, back to an older schema; what it had no room for.
pub(crate) fn lead_back(
    connection: &mut Connection,
    path: &Path,
    schema: i64,
) -> Result<Vec<&'static str>, StoreError> {
    let failed = |error| StoreError::from_sqlite(error, "lead back to an older schema", path);
    let current = database::schema_version(connection, path)?;
    let steps: Vec<&(&str, &str)> = (1..)
        .zip(BACK)
        .filter(|(version, _)| (schema + 1..=current).contains(version))
        .map(|(_, step)| step)
        .collect();
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    let mut lost = Vec::new();
    for (statements, what) in steps.into_iter().rev() {
        transaction.execute_batch(statements).map_err(failed)?;
        lost.push(*what);
    }
    rows::sum_up_again(&transaction, path)?;
    if schema < SUMS {
        rows::forget_sums(&transaction, path)?;
    }
    transaction
        .pragma_update(None, "user_version", schema)
        .map_err(failed)?;
    transaction.commit().map_err(failed)?;
    Ok(lost)
}

/// Copies a database to another file, and makes sure that it is the same.
pub(crate) fn copy(connection: &Connection, files: &Files, to: &Path) -> Result<(), StoreError> {
    files::remove_unfinished(to)?;
    files::create_private(to)?;
    connection
        .execute("VACUUM INTO ?1", [to.to_string_lossy()])
        .map_err(|error| {
            StoreError::from_sqlite(error, "copy the database before a migration", to)
        })?;
    verify(connection, &files.database, to)
}

pub(crate) fn newest(schemas: &[&str]) -> i64 {
    i64::try_from(schemas.len()).unwrap_or(i64::MAX)
}

/// Gives an empty database the newest schema and revision 0.
pub(crate) fn create(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::from_sqlite(error, "create the schema", path);
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    transaction
        .execute_batch(&SCHEMAS.concat())
        .map_err(failed)?;
    transaction
        .pragma_update(None, "application_id", APPLICATION)
        .map_err(failed)?;
    transaction
        .pragma_update(None, "user_version", newest(SCHEMAS))
        .map_err(failed)?;
    rows::set_head(&transaction, path, rows::Head::new(0))?;
    transaction.commit().map_err(failed)
}

/// Brings an older database to the newest of `schemas`, each step in a transaction of its own.
pub(crate) fn run(
    connection: &mut Connection,
    files: &Files,
    schemas: &[&str],
) -> Result<(), StoreError> {
    let path = &files.database;
    let current = database::schema_version(connection, path)?;
    for (version, statements) in (1..)
        .zip(schemas)
        .skip_while(|(version, _)| *version <= current)
    {
        back_up(connection, files, version)?;
        let operation = format!("migrate to schema {version}");
        let failed = |error| StoreError::from_sqlite(error, &operation, path);
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        transaction.execute_batch(statements).map_err(failed)?;
        rows::sum_up(&transaction, path)?;
        if version == PORTS {
            keep_settings(&transaction, path)?;
        }
        transaction
            .pragma_update(None, "user_version", version)
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

/// What was a default stays as it was.
fn keep_settings(transaction: &Transaction<'_>, path: &Path) -> Result<(), StoreError> {
    let mut head = rows::head(transaction, path)?;
    if head.revision == 0 || rows::has_kind(transaction, path, "settings")? {
        return Ok(());
    }
    let settings = Write::Set {
        kind: "settings".to_owned(),
        id: 0,
        version: head.revision,
        body: EARLIER_SETTINGS.to_owned(),
    };
    rows::apply(transaction, path, &settings, &mut head)?;
    rows::set_head(transaction, path, head)
}

fn back_up(connection: &mut Connection, files: &Files, version: i64) -> Result<(), StoreError> {
    let backup = files.backup(version);
    let unfinished = files::sibling(&backup, ".new");
    copy(connection, files, &unfinished)?;
    files::sync(&unfinished)?;
    files::rename(&unfinished, &backup)?;
    files.sync_directory()
}

fn verify(connection: &Connection, database: &Path, copy: &Path) -> Result<(), StoreError> {
    let original = Contents::of(connection, database)?;
    let copied = Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .map_err(|error| StoreError::from_sqlite(error, "read back the copy", copy))?;
    database::check_integrity(&copied, copy)?;
    if Contents::of(&copied, copy)? != original {
        return Err(StoreError::Corrupt {
            path: copy.to_owned(),
            detail: format!(
                "it is not what {} holds, of which it is a copy",
                database.display()
            ),
        });
    }
    Ok(())
}

/// Enough to tell two databases of any schema apart: every row of every table, as SQL literals.
#[derive(PartialEq, Eq)]
struct Contents {
    application: i64,
    version: i64,
    rows: Vec<String>,
}

impl Contents {
    fn of(connection: &Connection, path: &Path) -> Result<Self, StoreError> {
        let read = || -> rusqlite::Result<Self> {
            let number = |name| connection.pragma_query_value(None, name, |row| row.get(0));
            let texts = |query: &str| -> rusqlite::Result<Vec<String>> {
                connection
                    .prepare(query)?
                    .query_map([], |row| row.get(0))?
                    .collect()
            };
            let mut rows = Vec::new();
            for table in texts(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name",
            )? {
                let columns = texts(&format!(
                    "SELECT format('quote(%w)', name) FROM pragma_table_info('{table}')"
                ))?;
                rows.push(table.clone());
                rows.extend(texts(&format!(
                    "SELECT {} AS row FROM \"{table}\" ORDER BY row",
                    columns.join(" || ',' || ")
                ))?);
            }
            Ok(Self {
                application: number("application_id")?,
                version: number("user_version")?,
                rows,
            })
        };
        read().map_err(|error| {
            StoreError::from_sqlite(error, "compare the copy with the database", path)
        })
    }
}

#[cfg(test)]
mod tests;
