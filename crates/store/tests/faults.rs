//! What a store must survive, and what it must refuse: crashes, full disks, damaged and foreign files.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs::{self, OpenOptions, Permissions};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use adit_store::{Loaded, Store, StoreError, Write};
use serde_json::json;

/// Set for the copy of this test program that a test starts.
const ROLE: &str = "ADIT_STORE_TEST_DIRECTORY";

#[test]
fn what_was_committed_is_loaded() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("var/lib/adit");
    let (mut store, loaded) = Store::open(&directory).unwrap();
    assert_eq!((loaded.revision, loaded.objects.len()), (0, 0));
    store
        .commit(
            1,
            &[
                set("subnet", 1, 1, "a"),
                set("device", 7, 1, "b"),
                set("device", 3, 1, "c"),
            ],
        )
        .unwrap();
    store
        .commit(
            4,
            &[
                set("device", 7, 2, "d"),
                remove("device", 3),
                remove("device", 99),
            ],
        )
        .unwrap();
    drop(store);

    let (_store, loaded) = Store::open(&directory).unwrap();
    assert_eq!(loaded.revision, 4);
    let seen: Vec<_> = loaded
        .objects
        .iter()
        .map(|object| {
            (
                object.kind.as_str(),
                object.id,
                object.version,
                &object.body["text"],
            )
        })
        .collect();
    assert_eq!(
        seen,
        [("device", 7, 2, &json!("d")), ("subnet", 1, 1, &json!("a"))]
    );
    assert_eq!(mode(&directory), 0o700);
    for file in ["adit.db", "adit.db-wal", "adit.lock", "adit.created"] {
        if let Ok(metadata) = fs::metadata(directory.join(file)) {
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{file}");
        }
    }
    assert_eq!(mode(&directory.join("adit.db")), 0o600);
}

#[test]
fn only_an_empty_directory_is_closed_to_others() {
    let place = tempfile::tempdir().unwrap();
    for (name, content, expected) in [("empty", None, 0o700), ("used", Some("passwd"), 0o755)] {
        let directory = place.path().join(name);
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
        if let Some(file) = content {
            fs::write(directory.join(file), "").unwrap();
        }
        for _ in 0..2 {
            Store::open(&directory).unwrap();
            assert_eq!(mode(&directory), expected, "{name}");
        }
    }
}

#[test]
fn a_commit_is_all_or_nothing() {
    let (directory, before) = filled(3);
    let (mut store, _) = Store::open(directory.path()).unwrap();
    let mut writes: Vec<Write> = (0..99).map(|id| set("device", id, 9, "new")).collect();
    writes.push(Write::Set {
        kind: "device".into(),
        id: 100,
        version: 1,
        body: "{not JSON".into(),
    });
    let error = store.commit(before.revision + 1, &writes).unwrap_err();
    assert!(
        matches!(error, StoreError::Unstorable { id: 100, .. }),
        "{error}"
    );
    let error = store.commit(before.revision, &writes[..99]).unwrap_err();
    assert!(matches!(error, StoreError::Stale { .. }), "{error}");
    drop(store);
    let (mut store, loaded) = Store::open(directory.path()).unwrap();
    assert_eq!(loaded, before);

    store.commit(before.revision + 1, &writes[..99]).unwrap();
    drop(store);
    let (_store, loaded) = Store::open(directory.path()).unwrap();
    assert_eq!(loaded.revision, before.revision + 1);
    assert_eq!(
        loaded
            .objects
            .iter()
            .filter(|object| object.version == 9)
            .count(),
        99
    );
}

/// A copy of this program commits without end and says so after each commit; it is killed in the middle of that.
#[test]
fn an_acknowledged_commit_outlives_the_process() {
    const PAIRS: u64 = 50;
    if let Some(directory) = role() {
        let (mut store, loaded) = Store::open(&directory).unwrap();
        let mut output = std::io::stderr();
        for revision in loaded.revision + 1.. {
            let text = revision.to_string();
            let writes: Vec<Write> = (0..PAIRS)
                .map(|id| set("device", id, revision, &text))
                .collect();
            store.commit(revision, &writes).unwrap();
            writeln!(output, "acknowledged {revision}").unwrap();
        }
    }

    let directory = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 0..8 {
        let mut child = myself(
            "an_acknowledged_commit_outlives_the_process",
            directory.path(),
            &[],
        )
        .spawn()
        .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        std::thread::sleep(Duration::from_micros(40_000 + 1_700 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut rest = String::new();
        lines.read_to_string(&mut rest).unwrap();
        let acknowledged = format!("{line}{rest}")
            .split_inclusive('\n')
            .filter_map(|line| {
                line.strip_suffix('\n')?
                    .strip_prefix("acknowledged ")?
                    .parse::<u64>()
                    .ok()
            })
            .max()
            .unwrap_or_else(|| panic!("nothing was acknowledged: {line}{rest}"));

        let (_store, loaded) = Store::open(directory.path()).unwrap();
        assert!(acknowledged > last, "round {round} committed nothing");
        // At most one commit was under way, and it may have become durable unacknowledged.
        assert!(
            (acknowledged..=acknowledged + 1).contains(&loaded.revision),
            "{acknowledged}, {}",
            loaded.revision
        );
        assert_eq!(loaded.objects.len(), 50);
        for object in &loaded.objects {
            assert_eq!(
                (object.version, &object.body["text"]),
                (loaded.revision, &json!(loaded.revision.to_string()))
            );
        }
        last = loaded.revision;
    }
}

#[test]
fn a_second_process_is_refused() {
    if let Some(directory) = role() {
        match Store::open(&directory) {
            Ok(_) => eprintln!("opened"),
            Err(error) => eprintln!("refused: {error}"),
        }
        return;
    }
    let (directory, before) = filled(2);
    let (mut store, _) = Store::open(directory.path()).unwrap();
    let said = |name| {
        let output = myself(name, directory.path(), &[]).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let refusal = said("a_second_process_is_refused");
    let me = format!(
        "refused: another process (pid {}) holds {}",
        std::process::id(),
        directory.path().join("adit.lock").display()
    );
    assert!(refusal.contains(&me), "{refusal}");
    store.commit(before.revision + 1, &[]).unwrap();
    drop(store);
    assert!(said("a_second_process_is_refused").contains("opened"));
}

#[test]
fn a_full_disk_refuses_commits_and_loses_none() {
    if let Some(directory) = role() {
        mount_small(&directory);
        let filler = directory.join("filler");
        fs::write(&filler, vec![0; 48 * 1024]).unwrap();
        let (mut store, _) = Store::open(&directory).unwrap();
        let mut revision = 0;
        let text = "x".repeat(2000);
        let error = loop {
            let writes = [
                set("device", revision, 1, &text),
                set("forward", revision, 1, &text),
            ];
            match store.commit(revision + 1, &writes) {
                Ok(()) => revision += 1,
                Err(error) => break error,
            }
            assert!(revision < 1000, "a disk of 256 KiB never got full");
        };
        assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
        assert!(revision > 5, "the disk was full before anything was tried");

        let objects = usize::try_from(2 * revision).unwrap();

        // A start on the full disk reads everything and still cannot write.
        drop(store);
        while OpenOptions::new()
            .append(true)
            .open(&filler)
            .unwrap()
            .write(&[0; 512])
            .is_ok_and(|count| count > 0)
        {}
        let (mut store, loaded) = Store::open(&directory).unwrap();
        assert_eq!((loaded.revision, loaded.objects.len()), (revision, objects));
        let large = [set("device", 5000, 1, &"y".repeat(60_000))];
        let error = store.commit(revision + 1, &large).unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{error:?}");

        fs::remove_file(&filler).unwrap();
        store
            .commit(revision + 1, &[set("device", 6000, 1, "room again")])
            .unwrap();
        drop(store);
        let (_store, loaded) = Store::open(&directory).unwrap();
        assert_eq!(
            (loaded.revision, loaded.objects.len()),
            (revision + 1, objects + 1)
        );
        assert!(loaded.objects.iter().all(|object| object.id != 5000));
        return;
    }
    in_mount_namespace("a_full_disk_refuses_commits_and_loses_none");
}

#[test]
fn a_read_only_disk_is_read_and_refuses_changes_until_it_is_writable() {
    if let Some(directory) = role() {
        mount_small(&directory);
        let remount = |how: &str| {
            run(Command::new("mount")
                .args(["-o", &format!("remount,{how}")])
                .arg(&directory));
        };
        let (mut store, _) = Store::open(&directory).unwrap();
        let database = directory.join("adit.db");
        let log = directory.join("adit.db-wal");
        let mut revision = 0;
        for has_log in [false, true] {
            revision += 1;
            store
                .commit(revision, &[set("device", revision, 1, "old")])
                .unwrap();
            let files = [&database, &log].map(|path| (path, fs::read(path).unwrap()));
            drop(store);
            if has_log {
                // As a crash leaves it.
                for (path, bytes) in files {
                    fs::write(path, bytes).unwrap();
                }
            }
            assert_eq!(log.exists(), has_log);
            remount("ro");
            let loaded;
            (store, loaded) = Store::open(&directory).unwrap();
            assert_eq!(
                (loaded.revision, loaded.objects.len() as u64),
                (revision, revision)
            );
            assert!(store.health().trouble().is_some());
            revision += 1;
            let writes = [set("device", revision, 1, "new")];
            let error = store.commit(revision, &writes).unwrap_err();
            assert!(matches!(error, StoreError::ReadOnly { .. }), "{error:?}");

            remount("rw");
            store.commit(revision, &writes).unwrap();
            assert_eq!(store.health().trouble(), None);
        }
        drop(store);
        let (_store, loaded) = Store::open(&directory).unwrap();
        assert_eq!((loaded.revision, loaded.objects.len()), (4, 4));
        return;
    }
    in_mount_namespace("a_read_only_disk_is_read_and_refuses_changes_until_it_is_writable");
}

#[test]
fn databases_of_others_and_of_the_future_are_refused() {
    let (directory, before) = filled(2);
    let database = directory.path().join("adit.db");
    let pragma = |text: &str| {
        let connection = rusqlite::Connection::open(&database).unwrap();
        connection.execute_batch(text).unwrap();
    };
    let known: i64 = rusqlite::Connection::open(&database)
        .unwrap()
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    pragma("PRAGMA user_version = 40");
    let error = Store::open(directory.path()).unwrap_err();
    assert!(
        matches!(error, StoreError::Newer { found: 40, .. }),
        "{error:?}"
    );
    pragma(&format!(
        "PRAGMA user_version = {known}; PRAGMA application_id = 7"
    ));
    let error = Store::open(directory.path()).unwrap_err();
    assert!(
        matches!(error, StoreError::Foreign { application: 7, .. }),
        "{error:?}"
    );
    pragma("PRAGMA application_id = 0x41646974");
    assert_eq!(Store::open(directory.path()).unwrap().1, before);

    let other = tempfile::tempdir().unwrap();
    let theirs = other.path().join("adit.db");
    rusqlite::Connection::open(&theirs)
        .unwrap()
        .execute_batch("CREATE TABLE theirs (a)")
        .unwrap();
    let bytes = fs::read(&theirs).unwrap();
    let error = Store::open(other.path()).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
    assert_eq!(fs::read(&theirs).unwrap(), bytes);
}

fn set(kind: &str, id: u64, version: u64, text: &str) -> Write {
    Write::Set {
        kind: kind.into(),
        id,
        version,
        body: json!({ "text": text }).to_string(),
    }
}

fn remove(kind: &str, id: u64) -> Write {
    Write::Remove {
        kind: kind.into(),
        id,
    }
}

/// A closed store with `count` devices, and what it holds.
fn filled(count: u64) -> (tempfile::TempDir, Loaded) {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(directory.path()).unwrap();
    for id in 0..count {
        let text = format!("text-{id} {}", "filler ".repeat(20));
        store
            .commit(id + 1, &[set("device", id, 1, &text)])
            .unwrap();
    }
    drop(store);
    let (store, loaded) = Store::open(directory.path()).unwrap();
    drop(store);
    assert_eq!(loaded.objects.len() as u64, count);
    (directory, loaded)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn role() -> Option<PathBuf> {
    std::env::var_os(ROLE).map(PathBuf::from)
}

/// The one test `name` of this program, in its other role.
fn myself(name: &str, directory: &Path, before: &[&str]) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut words = before
        .iter()
        .map(Into::into)
        .chain([program.into_os_string()]);
    let mut command = Command::new(words.next().unwrap());
    command
        .args(words)
        .args(["--exact", name, "--nocapture"])
        .env(ROLE, directory);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Mounts made by the other role end with it.
fn in_mount_namespace(name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let output = myself(
        name,
        directory.path(),
        &["unshare", "--mount", "--propagation", "private"],
    )
    .output()
    .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && said.contains("1 passed"),
        "(mounting needs root) {said}"
    );
}

fn mount_small(directory: &Path) {
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(directory));
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
