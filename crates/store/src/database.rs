//! The SQLite connection: how it is set up, and what is checked before anything is read.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::Write;
use crate::error::StoreError;
use crate::files::{self, Files};
use crate::migration;
use crate::rows::{self, Head};

/// "Adit"
pub(crate) const APPLICATION: i64 = 0x4164_6974;

/// Earlier versions could lose commits when a log was reset while a checkpoint ran.
const NEEDED: (i32, &str) = (3_051_003, "3.51.3");

const BUSY: Duration = Duration::from_secs(5);

/// The build can be told to link the system's SQLite in place of the bundled one.
pub(crate) fn check_library() -> Result<(), StoreError> {
    let (number, needed) = NEEDED;
    if rusqlite::version_number() < number {
        return Err(StoreError::Library {
            found: rusqlite::version(),
            needed,
        });
    }
    Ok(())
}

/// Makes a database with the newest schema. It gets its name when it is whole, so a database with that name is never
/// one that was still being made.
pub(crate) fn create(files: &Files) -> Result<(), StoreError> {
    let unfinished = files::sibling(&files.database, ".new");
    build(files, &unfinished, 0, &[])?;
    files::remove_unfinished(&files.database)?;
    files::rename(&unfinished, &files.database)?;
    files.sync_directory()
}

/// Makes a database of its own at `path` that holds what `writes` set.
pub(crate) fn build(
    files: &Files,
    path: &Path,
    revision: u64,
    writes: &[Write],
) -> Result<(), StoreError> {
    files::remove_unfinished(path)?;
    files::create_private(path)?;
    let mut connection = connect(path)?;
    migration::create(&mut connection, path)?;
    let failed = |error| StoreError::from_sqlite(error, "fill the new database", path);
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    let mut head = Head::new(revision);
    for write in writes {
        rows::apply(&transaction, path, write, &mut head)?;
    }
    rows::set_head(&transaction, path, head)?;
    transaction.commit().map_err(failed)?;
    rows::load(&mut connection, path)?;
    connection
        .close()
        .map_err(|(_, error)| StoreError::from_sqlite(error, "close the new database", path))?;
    files::sync(path)?;
    files.sync_directory()
}

/// Opens a database that is whole, ours, and of a schema that we know. Until `keep_tidy`, closing it leaves the log
/// as it is: what is refused is not touched.
pub(crate) fn open(path: &Path) -> Result<Connection, StoreError> {
    let failed = |operation: &str, error| StoreError::from_sqlite(error, operation, path);
    check_header(path)?;
    let mut connection = connect(path)?;
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(|error| failed("open the database", error))?;
    check_identity(&connection, path)?;
    check_integrity(&connection, path)?;
    check_schema(&connection, path)?;
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(|error| failed("switch to a write-ahead log", error))?;
    if mode != "wal" {
        let operation = "switch to a write-ahead log".to_owned();
        return Err(StoreError::ReadOnly {
            path: path.to_owned(),
            operation,
        });
    }
    // Nothing is written by this, but a database that cannot be written is found now and not at the first commit.
    connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .and_then(rusqlite::Transaction::rollback)
        .map_err(|error| failed("begin a commit", error))?;
    Ok(connection)
}

/// Opens a database of the newest schema where nothing can be written, for reading it once.
pub(crate) fn open_read_only(path: &Path) -> Result<Connection, StoreError> {
    let connection = open_unchecked(path)?;
    check_identity(&connection, path)?;
    check_integrity(&connection, path)?;
    check_schema(&connection, path)?;
    Ok(connection)
}

/// Opens a database that may be damaged, and writes nothing.
pub(crate) fn open_unchecked(path: &Path) -> Result<Connection, StoreError> {
    // Beside an empty database SQLite would remove the log.
    check_header(path)?;
    let log = files::sibling(path, "-wal");
    // Locks, and a log that is not there, would be written; our own lock is held, so nobody else writes.
    let (name, flags, system) = match std::fs::metadata(&log) {
        Ok(metadata) if metadata.len() > 0 => (path.to_owned(), OpenFlags::empty(), c"unix-none"),
        Ok(_) | Err(_) => (immutable(path), OpenFlags::SQLITE_OPEN_URI, c"unix"),
    };
    let flags = flags | OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags_and_vfs(name, flags, system)
        .map_err(|error| StoreError::from_sqlite(error, "open the database", path))?;
    set_up(&connection, path)?;
    Ok(connection)
}

/// The address of a database without a log that does not change.
fn immutable(path: &Path) -> PathBuf {
    let mut address = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                address.push(char::from(*byte));
            }
            _ => address.push_str(&format!("%{byte:02x}")),
        }
    }
    address.push_str("?immutable=1");
    address.into()
}

/// From now on the log is brought into the database when the connection closes.
pub(crate) fn keep_tidy(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
        .map(drop)
        .map_err(|error| StoreError::from_sqlite(error, "open the database", path))
}

/// After a commit that failed its sync, the log may hold it whole, and the next start would take it for done. Emptying
/// the log forgets it; when that fails too, the next commit overwrites it.
pub(crate) fn forget_unacknowledged(connection: &Connection) {
    let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}

pub(crate) fn schema_version(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    pragma(connection, path, "user_version")
}

pub(crate) fn check_integrity(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let operation = "check the integrity of the database";
    let verdict: String = connection
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(|error| StoreError::from_sqlite(error, operation, path))?;
    if verdict != "ok" {
        return Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail: verdict,
        });
    }
    Ok(())
}

/// SQLite takes a file that is shorter than its header for an empty database.
fn check_header(path: &Path) -> Result<(), StoreError> {
    let mut header = [0; 100];
    match File::open(path).and_then(|mut file| file.read_exact(&mut header)) {
        Ok(()) if header.starts_with(b"SQLite format 3\0") => Ok(()),
        Ok(()) => Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail: "it does not begin like a database".to_owned(),
        }),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail: "it ends within its header".to_owned(),
        }),
        Err(error) => Err(StoreError::from_io(error, "read the header of", path)),
    }
}

pub(crate) fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)
        .map_err(|error| StoreError::from_sqlite(error, "open the database", path))?;
    set_up(&connection, path)?;
    Ok(connection)
}

fn set_up(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::from_sqlite(error, "open the database", path);
    connection.busy_timeout(BUSY).map_err(failed)?;
    // In exclusive mode the index of the log is in memory: opening and reading work on a full disk.
    connection
        .execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE;
             PRAGMA synchronous = FULL;
             PRAGMA foreign_keys = ON;
             PRAGMA cell_size_check = ON;
             PRAGMA trusted_schema = OFF;",
        )
        .map_err(failed)
}

/// A bit that flips in the schema, or in its version, leaves a database that SQLite finds whole.
fn check_schema(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let version = schema_version(connection, path)?;
    let failed = |error| StoreError::from_sqlite(error, "read the schema", path);
    let texts = |connection: &Connection| -> rusqlite::Result<Vec<Option<String>>> {
        connection
            .prepare("SELECT sql FROM sqlite_schema ORDER BY sql")?
            .query_map([], |row| row.get(0))?
            .collect()
    };
    let expected = Connection::open_in_memory().map_err(failed)?;
    for (statements, _) in migration::SCHEMAS.iter().zip(0..version) {
        expected.execute_batch(statements).map_err(failed)?;
    }
    if texts(connection).map_err(failed)? != texts(&expected).map_err(failed)? {
        return Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail: format!("its tables are not those of schema {version}"),
        });
    }
    Ok(())
}

fn check_identity(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let application = pragma(connection, path, "application_id")?;
    if application != APPLICATION {
        return Err(StoreError::Foreign {
            path: path.to_owned(),
            application,
        });
    }
    let found = schema_version(connection, path)?;
    let known = migration::newest(migration::SCHEMAS);
    if found > known {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found,
            known,
        });
    }
    // The first schema and the application id are written together.
    if found < 1 {
        return Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail: format!("its schema version is {found}"),
        });
    }
    Ok(())
}

fn pragma(connection: &Connection, path: &Path, name: &str) -> Result<i64, StoreError> {
    connection
        .pragma_query_value(None, name, |row| row.get(0))
        .map_err(|error| StoreError::from_sqlite(error, "read the header", path))
}
