//! Backups: what goes into one, and how one takes the place of the state. It is written down first and put in place when no
//! daemon has the state open, so that a crash at any moment leaves the old state or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use adit_api::timestamp::Timestamp;
use adit_api::types::backup::{Backup, Kept, KeptObject};
use adit_model::edit::{Key, Object};
use adit_model::facts::Facts;
use adit_model::problem::Origin;
use adit_model::state::State;
use adit_store::{Store, StoredObject};
use anyhow::{Context as _, bail};

use crate::claim::Claim;
use crate::key;
use crate::options::RunOptions;
use crate::owner::Owner;
use crate::ports::forget_epoch;
use crate::writer::restore;

/// A backup that is to take the place of the state.
const STAGED: &str = "adit.restore";
/// What the host was like that the state was restored from.
const ORIGIN: &str = "adit.origin";

/// Everything that is committed. What awaits a confirmation is for this gateway alone.
pub(crate) fn kept(state: &State, facts: &Facts, state_dir: &Path) -> Kept {
    let objects = state.objects().filter_map(|(version, object)| {
        let key = object.key();
        (key != Key::Confirmation).then(|| KeptObject {
            kind: key.kind().to_owned(),
            id: key.id(),
            version,
            body: object.to_body(),
        })
    });
    Kept {
        revision: state.revision,
        state_dir: state_dir.display().to_string(),
        objects: objects.collect(),
        origin: Origin::of(state, facts),
    }
}

/// A backup of what a gateway answered, with the private key that is beside its state.
///
/// # Errors
///
/// When the key cannot be read.
pub fn complete(kept: Kept, state_dir: &Path) -> anyhow::Result<Backup> {
    let private_key = key::read(state_dir)?;
    let settings = kept.objects.iter().find(|object| object.kind == "settings");
    let taken_over = settings.and_then(|settings| settings.body.get("gateway-key")?.as_str());
    if taken_over.is_some_and(|key| key != private_key.public_key().to_base64()) {
        bail!("the gateway is about to take another private key over; make the backup again");
    }
    Ok(Backup {
        format: Backup::FORMAT,
        time: Timestamp::from(SystemTime::now()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: kept.revision,
        private_key,
        objects: kept.objects,
        origin: kept.origin,
    })
}

/// A backup of a gateway that does not run.
///
/// # Errors
///
/// When it runs, or its state cannot be read.
pub async fn back_up(options: RunOptions) -> anyhow::Result<Backup> {
    let directory = options.settle()?.state_dir;
    if !directory.join("private.key").exists() {
        bail!(
            "there is no state in {}: name the directory with `--state-dir`",
            directory.display()
        );
    }
    let _claim = Claim::take().await?;
    let _owner = Owner::act(&directory);
    let (_store, loaded) = Store::open(&directory).context("cannot open the state")?;
    let state = restore(loaded).context("the state cannot be read")?;
    let facts = Facts::default();
    complete(kept(&state, &facts, &directory), &directory)
}

/// Puts a backup in the place of the state of a gateway that does not run; the revision that it has then.
///
/// # Errors
///
/// When it runs, when the backup cannot be used, or when the disk refuses.
pub async fn restore_from(options: RunOptions, backup: &Backup) -> anyhow::Result<u64> {
    let directory = options.settle()?.state_dir;
    let _claim = Claim::take().await?;
    check(backup)?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(failed("make", &directory))?;
    let _owner = Owner::act(&directory);
    stage(&directory, backup)?;
    let revision = finish(&directory)?;
    revision.context("the backup that was written down is gone")
}

/// Refuses a backup of which this version does not understand all.
pub(crate) fn check(backup: &Backup) -> anyhow::Result<()> {
    if backup.format != Backup::FORMAT {
        bail!(
            "the backup has format {}, made by version {}; this version of Adit knows format {}: install a newer one",
            backup.format,
            backup.version,
            Backup::FORMAT
        );
    }
    for object in &backup.objects {
        Object::from_body(&object.kind, object.id, object.body.clone()).with_context(|| {
            format!(
                "the backup holds what this version of Adit does not know (it was made by version {})",
                backup.version
            )
        })?;
    }
    Ok(())
}

/// Writes a backup down, durably, to be put in place at the next start.
pub(crate) fn stage(directory: &Path, backup: &Backup) -> anyhow::Result<()> {
    let text = serde_json::to_string(backup).context("write the backup")?;
    write_whole(&directory.join(STAGED), &text)
}

/// Puts a backup in place that was written down; the revision that the state has then. None when there is none. What a crash
/// interrupts is done again.
pub(crate) fn finish(directory: &Path) -> anyhow::Result<Option<u64>> {
    let path = directory.join(STAGED);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let backup: Backup = serde_json::from_str(&text).with_context(|| {
        format!(
            "{} is no backup that this version of Adit can restore; move it away to go on with the state as it is",
            path.display()
        )
    })?;
    let objects = backup.objects.into_iter().map(|object| StoredObject {
        kind: object.kind,
        id: object.id,
        version: object.version,
        body: object.body,
    });
    adit_fault::passing("restore/staged");
    let origin = serde_json::to_string(&backup.origin).context("write the origin")?;
    write_whole(&directory.join(ORIGIN), &origin)?;
    key::replace(directory, &backup.private_key)?;
    // The leases of now are lost, which devices are to be told.
    forget_epoch(directory).map_err(failed("forget the epoch in", directory))?;
    adit_fault::passing("restore/key");
    let revision = adit_store::replace(directory, backup.revision, objects.collect())
        .context("cannot put the backup in the place of the state")?;
    adit_fault::passing("restore/state");
    fs::remove_file(&path).map_err(failed("remove", &path))?;
    sync(directory)?;
    tracing::info!(revision, "the state was restored from a backup");
    Ok(Some(revision))
}

/// What the host was like that the state was restored from.
pub(crate) fn origin(directory: &Path) -> Option<Origin> {
    let text = fs::read_to_string(directory.join(ORIGIN)).ok()?;
    serde_json::from_str(&text).ok()
}

/// A file of mode 0600 that is there whole or not at all.
fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let unfinished = PathBuf::from(format!("{}.new", path.display()));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    };
    write().map_err(failed("write", path))?;
    path.parent().map_or(Ok(()), sync)
}

fn sync(directory: &Path) -> anyhow::Result<()> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(failed("write to the disk", directory))
}

fn failed<'a>(operation: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> anyhow::Error + 'a {
    move |error| anyhow::Error::new(error).context(format!("cannot {operation} {}", path.display()))
}
