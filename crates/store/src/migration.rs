//! Numbered schemas. A database of an older one is copied, the copy is verified, and then it is brought forward.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::database::{self, APPLICATION};
use crate::error::StoreError;
use crate::files::{self, Files};
use crate::rows;

/// The statements that lead to schema 1, 2, …. What was released is never edited, only followed.
pub(crate) const SCHEMAS: &[&str] = &[
    include_str!("migration/1.sql"),
    include_str!("migration/2.sql"),
    include_str!("migration/3.sql"),
];

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
        transaction
            .pragma_update(None, "user_version", version)
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

fn back_up(connection: &mut Connection, files: &Files, version: i64) -> Result<(), StoreError> {
    let backup = files.backup(version);
    let unfinished = files::sibling(&backup, ".new");
    files::remove_unfinished(&unfinished)?;
    files::create_private(&unfinished)?;
    connection
        .execute("VACUUM INTO ?1", [unfinished.to_string_lossy()])
        .map_err(|error| {
            StoreError::from_sqlite(error, "copy the database before a migration", &unfinished)
        })?;
    verify(connection, &files.database, &unfinished)?;
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
