//! Steps from schema to schema, with schemas made up for the purpose.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::{Loaded, Store, Write};

const NOTE: &str =
    "CREATE TABLE note (text TEXT NOT NULL) STRICT; INSERT INTO note VALUES ('kept');";
const BROKEN: &str =
    "CREATE TABLE half (text TEXT NOT NULL) STRICT; INSERT INTO nowhere VALUES (1);";

#[test]
fn each_step_is_a_transaction_after_a_verified_copy() {
    let directory = tempfile::tempdir().unwrap();
    let before = fill(directory.path());
    let files = Files::new(directory.path());

    let mut connection = database::open(&files.database).unwrap();
    let known = newest(SCHEMAS);
    let schemas = [SCHEMAS, &[NOTE, BROKEN]].concat();
    let error = run(&mut connection, &files, &schemas).unwrap_err();
    let step = format!("migrate to schema {}", known + 2);
    assert!(error.to_string().contains(&step), "{error}");
    assert_eq!(
        database::schema_version(&connection, &files.database).unwrap(),
        known + 1
    );
    assert!(tables(&connection).contains(&"note".to_owned()));
    assert!(!tables(&connection).contains(&"half".to_owned()));
    assert_eq!(
        rows::load(&mut connection, &files.database).unwrap(),
        before
    );
    drop(connection);

    let copy = files.backup(known + 1);
    let name = format!("adit.db.before-{}", known + 1);
    assert_eq!(copy, directory.path().join(name));
    assert_eq!(
        fs::metadata(&copy).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let second = Connection::open(files.backup(known + 2)).unwrap();
    assert!(tables(&second).contains(&"note".to_owned()));

    // The way back that the refusal names.
    let error = Store::open(directory.path()).unwrap_err();
    assert!(
        matches!(error, StoreError::Newer { found, known: newest, .. } if (found, newest) == (known + 1, known)),
        "{error}"
    );
    assert!(
        error.to_string().contains(&*copy.to_string_lossy()),
        "{error}"
    );
    fs::remove_file(files::sibling(&files.database, "-wal")).unwrap();
    fs::rename(&copy, &files.database).unwrap();
    let (_store, loaded) = Store::open(directory.path()).unwrap();
    assert_eq!(loaded, before);
}

/// A database as the first release left it.
#[test]
fn the_first_schema_is_led_to_the_newest_with_all_that_it_holds() {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::new(directory.path());
    let before = fill(directory.path());
    let connection = Connection::open(&files.database).unwrap();
    for table in tables(&connection) {
        if !["meta", "object"].contains(&table.as_str()) {
            connection
                .execute_batch(&format!("DROP TABLE {table}"))
                .unwrap();
        }
    }
    connection.pragma_update(None, "user_version", 1).unwrap();
    drop(connection);
    let (_store, loaded) = Store::open(directory.path()).unwrap();
    assert_eq!(loaded, with_earlier_settings(before));
}

/// What the older version reads is what there was, and it is led to the newest again.
#[test]
fn a_database_is_led_back_with_all_that_an_older_schema_has_room_for() {
    assert_eq!(BACK.len(), SCHEMAS.len(), "a schema without a way back");
    for schema in [1, 2, 3] {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path());
        let before = fill(directory.path());
        let done = crate::downgrade(directory.path(), schema).unwrap();
        assert_eq!(done.lost.len(), usize::try_from(4 - schema).unwrap());
        assert!(done.kept.exists());
        let connection = Connection::open(&files.database).unwrap();
        let texts = |connection: &Connection| -> Vec<Option<String>> {
            let mut statement = connection
                .prepare("SELECT sql FROM sqlite_schema ORDER BY sql")
                .unwrap();
            let rows = statement.query_map([], |row| row.get(0)).unwrap();
            rows.map(Result::unwrap).collect()
        };
        let expected = Connection::open_in_memory().unwrap();
        for statements in SCHEMAS.iter().take(usize::try_from(schema).unwrap()) {
            expected.execute_batch(statements).unwrap();
        }
        assert_eq!(texts(&connection), texts(&expected));
        let version: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(version, schema);
        let mode = fs::metadata(&files.database).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(connection);
        let (_store, loaded) = Store::open(directory.path()).unwrap();
        assert_eq!(loaded, with_earlier_settings(before));
    }
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    for schema in [0, 4, 5, -1] {
        let error = crate::downgrade(directory.path(), schema).unwrap_err();
        assert!(matches!(error, StoreError::NoSchema { .. }), "{error}");
    }
    let nowhere = tempfile::tempdir().unwrap();
    crate::downgrade(nowhere.path(), 1).unwrap_err();
}

#[test]
fn a_copy_that_differs_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    let files = Files::new(directory.path());
    let connection = database::open(&files.database).unwrap();
    let copy = directory.path().join("copy");
    connection
        .execute("VACUUM INTO ?1", [copy.to_string_lossy()])
        .unwrap();
    verify(&connection, &files.database, &copy).unwrap();
    Connection::open(&copy)
        .unwrap()
        .execute("UPDATE object SET version = 2 WHERE id = 1", [])
        .unwrap();
    let error = verify(&connection, &files.database, &copy).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

/// What was a default then is on record.
fn with_earlier_settings(mut before: Loaded) -> Loaded {
    before.objects.push(crate::StoredObject {
        kind: "settings".into(),
        id: 0,
        version: before.revision,
        body: serde_json::from_str(EARLIER_SETTINGS).unwrap(),
    });
    before
}

fn fill(directory: &Path) -> Loaded {
    let (mut store, _) = Store::open(directory).unwrap();
    let set = |id| Write::Set {
        kind: "device".into(),
        id,
        version: 1,
        body: format!("{{\"id\":{id}}}"),
    };
    store.commit(1, &[set(1), set(2)]).unwrap();
    drop(store);
    Store::open(directory).unwrap().1
}

fn tables(connection: &Connection) -> Vec<String> {
    connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect()
}
