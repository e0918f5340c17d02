//! Damaged state directories: restored exactly, or refused with what would be lost; never different, empty or older.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use adit_store::snapshot::Snapshot;
use adit_store::{Left, Loaded, Recovery, Snapshots, Store, StoreError, StoredObject, Write};
use serde_json::json;

/// A state directory as a crash leaves it: some commits are in the database, the last ones in its log.
struct Crashed {
    files: Vec<(String, Vec<u8>)>,
    state: Snapshot,
}

type Damage = fn(&Path);

const IN_DATABASE: u64 = 50;
const IN_LOG: u64 = 10;
const LAST: u64 = IN_DATABASE + IN_LOG;

/// Each makes the database unusable, or older than it was.
const DAMAGES: [(&str, Damage); 10] = [
    ("missing", |directory| {
        fs::remove_file(directory.join("adit.db")).unwrap();
    }),
    ("empty", |directory| {
        change(directory, "adit.db", Vec::clear)
    }),
    ("not a database", |directory| {
        change(directory, "adit.db", |bytes| *bytes = b"hello".to_vec());
    }),
    ("garbage in the header", |directory| {
        change(directory, "adit.db", |bytes| bytes[..100].fill(b'x'));
    }),
    ("cut short", |directory| {
        change(directory, "adit.db", |bytes| {
            bytes.truncate(bytes.len() / 2)
        });
    }),
    ("a page of zeros", |directory| {
        change(directory, "adit.db", |bytes| {
            let page = place_of(bytes, b"text-30 ") / 4096 * 4096;
            bytes[page..page + 4096].fill(0);
        });
    }),
    ("another value", |directory| {
        change(directory, "adit.db", |bytes| {
            let place = place_of(bytes, b"text-30 ");
            bytes[place + 6] = b'1';
        });
    }),
    ("a row is gone", |directory| {
        let connection = rusqlite::Connection::open(directory.join("adit.db")).unwrap();
        let count = connection.execute("DELETE FROM object WHERE id = 30", []);
        assert_eq!(count, Ok(1));
    }),
    ("the log is gone", |directory| {
        fs::remove_file(directory.join("adit.db-wal")).unwrap();
    }),
    ("the log is damaged", |directory| {
        change(directory, "adit.db-wal", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
    }),
];

#[test]
fn what_is_damaged_is_restored_when_nothing_is_lost_by_it() {
    let crashed = Crashed::new(0);
    for (name, damage) in DAMAGES {
        let directory = crashed.lay_out();
        damage(directory.path());
        let damaged = fs::read(directory.path().join("adit.db")).ok();
        let (mut store, loaded) =
            Store::open(directory.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(content(loaded), crashed.state, "{name}");
        let told = adit_store::restorations(directory.path());
        let [restoration] = told.as_slice() else {
            panic!("{name}: {told:?}");
        };
        assert!(
            restoration.message.contains("restored from")
                && restoration.message.contains("adit.snapshot"),
            "{name}: {restoration:?}"
        );
        assert!(
            fs::read(&restoration.kept).ok() == damaged,
            "{name}: the damaged file was changed"
        );

        store
            .commit(LAST + 1, &[set(1, LAST + 1, "after")])
            .unwrap();
        drop(store);
        let (_store, again) = Store::open(directory.path()).unwrap();
        assert_eq!(again.revision, LAST + 1, "{name}");
        assert_eq!(adit_store::restorations(directory.path()), told, "{name}");
    }
}

#[test]
fn only_what_was_acknowledged_is_missed() {
    let directory = in_memory();
    let (mut store, _) = Store::open(directory.path()).unwrap();
    store.commit(1, &[set(1, 1, "told")]).unwrap();
    let log = fs::read(directory.path().join("adit.db-wal")).unwrap();
    let without_the_last = || {
        let copy = in_memory();
        for entry in fs::read_dir(directory.path()).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        fs::write(copy.path().join("adit.db-wal"), &log).unwrap();
        let opened = Store::open(copy.path());
        opened.map(|(_, loaded)| loaded.revision)
    };
    store.put(2, &[set(2, 2, "on its way")]).unwrap();
    assert_eq!(without_the_last().unwrap(), 1);
    store.acknowledge();
    let error = without_the_last().unwrap_err().to_string();
    assert!(error.contains("revision 2"), "{error}");
    store.put(3, &[set(3, 3, "told at once")]).unwrap();
    store.acknowledge_for_now();
    let error = without_the_last().unwrap_err().to_string();
    assert!(error.contains("revision 3"), "{error}");
}

#[test]
fn what_would_lose_changes_is_refused_until_that_is_accepted() {
    for behind in [1, 3] {
        let crashed = Crashed::new(behind);
        let snapshot = LAST - behind;
        for (name, damage) in DAMAGES {
            let directory = crashed.lay_out();
            damage(directory.path());
            let before = files_in(directory.path());
            for _ in 0..2 {
                let error = Store::open(directory.path()).unwrap_err();
                let StoreError::Lost { known, left, .. } = &error else {
                    panic!("{name}: {error:?}");
                };
                assert_eq!(*known, Some(LAST), "{name}");
                assert!(
                    matches!(left, Left::Copy { revision, .. } if *revision == snapshot),
                    "{name}: {left:?}"
                );
                let loss = match behind {
                    1 => format!("revision {LAST} would be lost"),
                    _ => format!("revisions {} to {LAST} would be lost", snapshot + 1),
                };
                let place = directory.path().display();
                let way_out = format!("`adit gateway recover --state-dir {place}`");
                let text = error.to_string();
                assert!(
                    text.contains(&loss) && text.contains(&way_out),
                    "{name}: {text}"
                );
            }
            assert!(
                files_in(directory.path()) == before,
                "{name}: files were changed"
            );

            let recovered = adit_store::recover(directory.path(), Recovery::Best);
            let recovered = recovered.unwrap().unwrap();
            // The lost revisions do not come again with other content.
            assert_eq!(recovered.revision, LAST + 1, "{name}");
            let (store, loaded) = Store::open(directory.path()).unwrap();
            assert_eq!(loaded.revision, LAST + 1, "{name}");
            assert_eq!(loaded.objects.len() as u64, snapshot, "{name}");
            drop(store);
            let again = adit_store::recover(directory.path(), Recovery::Best);
            assert_eq!(again.unwrap(), None, "{name}");
        }
    }
}

#[test]
fn without_a_snapshot_or_a_record_nothing_is_taken_for_granted() {
    let crashed = Crashed::new(0);
    let spoil = |directory: &Path| {
        fs::remove_file(directory.join("adit.db")).unwrap();
        fs::remove_file(directory.join("adit.db-wal")).unwrap();
    };

    let directory = crashed.lay_out();
    spoil(directory.path());
    fs::remove_file(directory.path().join("adit.revision")).unwrap();
    let error = Store::open(directory.path()).unwrap_err().to_string();
    assert!(
        error.contains(&format!("ends at revision {LAST}, and nothing tells")),
        "{error}"
    );

    let directory = crashed.lay_out();
    spoil(directory.path());
    change(directory.path(), "adit.snapshot", |bytes| bytes[40] ^= 1);
    let error = Store::open(directory.path()).unwrap_err().to_string();
    assert!(
        error.contains("there is no copy")
            && error.contains("adit.snapshot cannot be used: its checksum is wrong")
            && error.contains("recover --empty --state-dir"),
        "{error}"
    );
    assert!(adit_store::recover(directory.path(), Recovery::Best).is_err());
    let recovered = adit_store::recover(directory.path(), Recovery::Empty);
    assert_eq!(recovered.unwrap().unwrap().revision, LAST + 1);
    let (_store, loaded) = Store::open(directory.path()).unwrap();
    assert_eq!((loaded.revision, loaded.objects.len()), (LAST + 1, 0));
}

#[test]
fn what_is_left_of_a_state_is_no_new_start() {
    for witness in [
        "adit.created",
        "adit.revision",
        "adit.snapshot",
        "adit.snapshot.1",
        "adit.db-wal",
        "private.key",
        "interface",
    ] {
        let directory = in_memory();
        fs::write(directory.path().join(witness), "something").unwrap();
        let error = Store::open(directory.path()).unwrap_err();
        assert!(
            matches!(error, StoreError::Lost { .. }) && error.to_string().contains(witness),
            "{witness}: {error}"
        );
        assert!(!directory.path().join("adit.db").exists(), "{witness}");
    }
}

#[test]
fn an_older_row_in_the_place_of_a_newer_one_is_noticed() {
    let directory = in_memory();
    let database = directory.path().join("adit.db");
    let row = || -> (i64, String, i64) {
        rusqlite::Connection::open(&database)
            .unwrap()
            .query_row("SELECT version, body, digest FROM object", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .unwrap()
    };
    let commit = |revision, text| {
        let (mut store, _) = Store::open(directory.path()).unwrap();
        store.commit(revision, &[set(1, revision, text)]).unwrap();
    };
    commit(1, "old");
    let old = row();
    commit(2, "new");
    rusqlite::Connection::open(&database)
        .unwrap()
        .execute(
            "UPDATE object SET (version, body, digest) = (?1, ?2, ?3)",
            old,
        )
        .unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(
        error.to_string().contains("or others than it had"),
        "{error}"
    );
}

/// A crash between any two steps of a restoration is found again, or is through.
#[test]
fn a_restoration_that_was_cut_short_is_done_again() {
    let crashed = Crashed::new(0);
    let database = ["adit.db-wal", "adit.db"];
    for steps in 0..=database.len() {
        let directory = crashed.lay_out();
        change(directory.path(), "adit.db", |bytes| bytes[..100].fill(b'x'));
        for name in &database[..steps] {
            let path = directory.path().join(name);
            fs::rename(
                &path,
                directory
                    .path()
                    .join(name.replace("adit.db", "adit.db.damaged-1")),
            )
            .unwrap();
        }
        fs::write(directory.path().join("adit.db.damaged-1.txt"), "begun\n").unwrap();
        fs::write(directory.path().join("adit.db.new"), "half").unwrap();
        let (_store, loaded) = Store::open(directory.path()).unwrap();
        assert_eq!(content(loaded), crashed.state, "after {steps} steps");
        assert_eq!(adit_store::restorations(directory.path()).len(), 2);
    }
}

/// Wherever a bit flips, in the database, its log, the record or the snapshot: the state is as it was, or the start is
/// refused. `ADIT_SOAK=1` tries 10,000.
#[test]
fn a_flipped_bit_never_changes_the_state() {
    let count = match std::env::var_os("ADIT_SOAK") {
        Some(_) => 10_000,
        None => 500,
    };
    let seed = std::env::var("ADIT_SEED").map_or(0x5eed, |text| text.parse().unwrap());
    let mut random = seed;
    let worlds = [Crashed::new(0), Crashed::new(2)];
    let mut seen = [0; 3];
    let directory = in_memory();
    for number in 0..count {
        let crashed = &worlds[number % worlds.len()];
        // The database and its log twice as often as the rest.
        let files: Vec<&(String, Vec<u8>)> = crashed
            .files
            .iter()
            .chain(
                crashed
                    .files
                    .iter()
                    .filter(|(name, _)| name.starts_with("adit.db")),
            )
            .filter(|(_, bytes)| !bytes.is_empty())
            .collect();
        random = next(random);
        let (name, bytes) = files[usize::try_from(random >> 33).unwrap() % files.len()];
        random = next(random);
        let position = usize::try_from(random >> 33).unwrap() % bytes.len();
        random = next(random);
        let bit = (random >> 60) % 8;
        let place = format!("seed {seed}, flip {number}: {name}, byte {position}, bit {bit}");

        clear(directory.path());
        crashed.lay_out_in(directory.path());
        change(directory.path(), name, |bytes| bytes[position] ^= 1 << bit);
        match Store::open(directory.path()) {
            Ok((_store, loaded)) => {
                assert_eq!(content(loaded), crashed.state, "{place}");
                let is_restored = !adit_store::restorations(directory.path()).is_empty();
                seen[usize::from(is_restored)] += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                seen[2] += 1;
            }
        }
    }
    let [harmless, restored, refused] = seen;
    println!(
        "figure: of {count} flips {harmless} were harmless, {restored} restored, {refused} refused"
    );
    assert!(
        seen.iter().all(|seen| *seen > count / 20),
        "{harmless} harmless, {restored} restored, {refused} refused"
    );
}

impl Crashed {
    /// The snapshot is this many revisions behind.
    fn new(behind: u64) -> Self {
        let directory = in_memory();
        let (mut store, _) = Store::open(directory.path()).unwrap();
        let mut state = Snapshot {
            revision: 0,
            objects: Vec::new(),
        };
        for revision in 1..=LAST {
            if revision == IN_DATABASE + 1 {
                drop(store);
                store = Store::open(directory.path()).unwrap().0;
            }
            let text = format!("text-{revision} {}", "filler ".repeat(40));
            store
                .commit(revision, &[set(revision, revision, &text)])
                .unwrap();
            state.revision = revision;
            state.objects.push(StoredObject {
                kind: "device".to_owned(),
                id: revision,
                version: revision,
                body: json!({ "text": text }),
            });
            if revision == LAST - behind {
                Snapshots::new(directory.path()).write(&state).unwrap();
            }
        }
        let files = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, fs::read(entry.path()).unwrap())
            })
            .filter(|(name, _)| name != "adit.lock")
            .collect();
        Self { files, state }
    }

    fn lay_out(&self) -> tempfile::TempDir {
        let directory = in_memory();
        self.lay_out_in(directory.path());
        directory
    }

    fn lay_out_in(&self, directory: &Path) {
        for (name, bytes) in &self.files {
            fs::write(directory.join(name), bytes).unwrap();
        }
    }
}

fn set(id: u64, version: u64, text: &str) -> Write {
    Write::Set {
        kind: "device".to_owned(),
        id,
        version,
        body: json!({ "text": text }).to_string(),
    }
}

/// Where syncing costs nothing: the tests are about what is on the disk, not about getting it there.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn content(loaded: Loaded) -> Snapshot {
    Snapshot {
        revision: loaded.revision,
        objects: loaded.objects,
    }
}

fn change(directory: &Path, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
    let path = directory.join(name);
    let mut bytes = fs::read(&path).unwrap();
    edit(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn place_of(bytes: &[u8], needle: &[u8]) -> usize {
    let mut windows = bytes.windows(needle.len());
    windows.position(|window| window == needle).unwrap()
}

/// What is there and not empty, but for the lock.
fn files_in(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .filter(|(name, bytes)| name != "adit.lock" && !bytes.is_empty())
        .collect()
}

fn clear(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
}

/// Knuth's MMIX generator: the same flips for the same seed.
fn next(random: u64) -> u64 {
    random
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407)
}
