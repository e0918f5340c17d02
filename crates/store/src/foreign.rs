//! Databases of other programs, which are read and never written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// How such a file begins.
pub const MAGIC: &[u8] = b"SQLite format 3\0";

/// More rows than any server has peers.
const MOST: usize = 100_000;

/// A database that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the table {table} of {}: {source}", path.display())]
pub struct ForeignError {
    path: PathBuf,
    table: String,
    source: rusqlite::Error,
}

/// The rows of tables, each as a JSON object; a table that is not there has none.
///
/// # Errors
///
/// [`ForeignError`], also for a file that is no database.
pub fn read_tables(
    path: &Path,
    tables: &[&str],
) -> Result<BTreeMap<String, Vec<Value>>, ForeignError> {
    let failed = |table: &str| {
        let (path, table) = (path.to_owned(), table.to_owned());
        move |source| ForeignError {
            path,
            table,
            source,
        }
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed("sqlite_schema"))?;
    let mut found = BTreeMap::new();
    for table in tables {
        let exists = connection
            .table_exists(None, *table)
            .map_err(failed(table))?;
        let rows = if exists {
            rows(&connection, table).map_err(failed(table))?
        } else {
            Vec::new()
        };
        found.insert((*table).to_owned(), rows);
    }
    Ok(found)
}

fn rows(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Value>> {
    let quoted = table.replace('"', "\"\"");
    let mut statement = connection.prepare(&format!("SELECT * FROM \"{quoted}\" LIMIT {MOST}"))?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let row = |row: &rusqlite::Row<'_>| {
        let mut object = serde_json::Map::new();
        for (index, name) in names.iter().enumerate() {
            object.insert(name.clone(), json(row.get_ref(index)?));
        }
        Ok(Value::Object(object))
    };
    statement.query_map([], row)?.collect()
}

fn json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_while_their_program_has_them_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other.db");
        let other = Connection::open(&path).unwrap();
        other
            .execute_batch(
                "PRAGMA journal_mode=WAL; CREATE TABLE peers (id INTEGER, name TEXT, key BLOB);
                 INSERT INTO peers VALUES (1, 'a', NULL), (2, 'b', x'41');",
            )
            .unwrap();
        let tables = read_tables(&path, &["peers", "absent"]).unwrap();
        let expected = serde_json::json!([
            {"id": 1, "name": "a", "key": null}, {"id": 2, "name": "b", "key": "A"},
        ]);
        assert_eq!(Value::from(tables["peers"].clone()), expected);
        assert!(tables["absent"].is_empty());

        let path = directory.path().join("text.db");
        std::fs::write(&path, "no database at all").unwrap();
        let error = read_tables(&path, &["peers"]).unwrap_err().to_string();
        assert!(error.contains("text.db"), "{error}");
    }
}
