//! The gateway's private key: a file of its own, made at the first start and never again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use adit_model::key::{PrivateKey, PublicKey};

/// Name of the file in the state directory.
const NAME: &str = "private.key";

/// Name of a key that becomes the gateway's with the change that takes it over.
const NEXT: &str = "private.key.next";

/// What can be wrong with the key file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyFileError {
    /// It is gone, while the state is there.
    #[error(
        "the gateway's private key {} is missing. Every device knows the gateway by this key, so no new one is made: \
         put the file back from a backup, or, to start anew with every device, remove the state directory",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("cannot {operation} the gateway's private key {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It does not hold a key.
    #[error(
        "the gateway's private key {} is malformed: {reason}. Put the file back from a backup; no new key is made",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Others can read it.
    #[error("the gateway's private key {} can be read by others (mode {mode:o}). Run: chmod 600 {}", path.display(), path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It holds another key than that by which devices know the gateway.
    #[error(
        "the private key {} is not the gateway's: it belongs to {found}, and devices know the gateway by {expected}. \
         Put the right file back from a backup",
        path.display()
    )]
    Other {
        /// The file.
        path: PathBuf,
        /// What belongs to it.
        found: PublicKey,
        /// What devices know.
        expected: PublicKey,
    },
    /// No randomness for a new key.
    #[error("cannot get random bytes for the gateway's private key: {0}")]
    Random(String),
}

/// Reads the key; makes it if this is the first start with this state directory. Where a key was taken over, `expected`
/// belongs to it.
pub(crate) fn load_or_create(
    directory: &Path,
    first_start: bool,
    expected: Option<PublicKey>,
) -> Result<PrivateKey, KeyFileError> {
    let path = directory.join(NAME);
    let Some(expected) = expected else {
        // Its change was never committed.
        discard(directory)?;
        return match load(&path) {
            Err(KeyFileError::Missing { .. }) if first_start => create(&path),
            result => result,
        };
    };
    let key = load(&path);
    if let Ok(key) = &key
        && key.public_key() == expected
    {
        discard(directory)?;
        return Ok(*key);
    }
    match load(&directory.join(NEXT)) {
        // Its change was committed, and then the daemon was killed.
        Ok(next) if next.public_key() == expected => {
            adopt(directory)?;
            Ok(next)
        }
        Ok(_) | Err(_) => Err(KeyFileError::Other {
            path,
            found: key?.public_key(),
            expected,
        }),
    }
}

/// Reads the key, and leaves everything as it is.
pub(crate) fn read(directory: &Path) -> Result<PrivateKey, KeyFileError> {
    load(&directory.join(NAME))
}

/// Puts a key on the disk that is to become the gateway's.
pub(crate) fn stage(directory: &Path, key: &PrivateKey) -> Result<(), KeyFileError> {
    write(&directory.join(NEXT), key)
}

/// Makes the staged key the gateway's.
pub(crate) fn adopt(directory: &Path) -> Result<(), KeyFileError> {
    let path = directory.join(NAME);
    let failed = |source| KeyFileError::Io {
        path: path.clone(),
        operation: "replace",
        source,
    };
    adit_fault::point("key/adopt").map_err(failed)?;
    fs::rename(directory.join(NEXT), &path)
        .and_then(|()| File::open(directory)?.sync_all())
        .map_err(failed)
}

/// Removes a key that was staged and is not to become the gateway's.
pub(crate) fn discard(directory: &Path) -> Result<(), KeyFileError> {
    let path = directory.join(NEXT);
    // A disk that takes no writes refuses to remove what is not there, too.
    if matches!(path.try_exists(), Ok(false)) {
        return Ok(());
    }
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(KeyFileError::Io {
            path,
            operation: "remove",
            source,
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn load(path: &Path) -> Result<PrivateKey, KeyFileError> {
    let failed = |operation| {
        move |source| KeyFileError::Io {
            path: path.to_owned(),
            operation,
            source,
        }
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(KeyFileError::Missing {
                path: path.to_owned(),
            });
        }
        Err(error) => return Err(failed("open")(error)),
    };
    let metadata = file.metadata().map_err(failed("look at"))?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    let malformed = |reason: String| KeyFileError::Malformed {
        path: path.to_owned(),
        reason,
    };
    let mut text = String::new();
    // A key has 44 characters; whatever is much longer is another file.
    match file.take(1024).read_to_string(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(malformed("it is not text".to_owned()));
        }
        Err(error) => return Err(failed("read")(error)),
    }
    if text.trim().is_empty() {
        return Err(malformed("it is empty".to_owned()));
    }
    text.trim()
        .parse()
        .map_err(|error: adit_model::key::KeyError| malformed(error.to_string()))
}

fn create(path: &Path) -> Result<PrivateKey, KeyFileError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| KeyFileError::Random(error.to_string()))?;
    let key = PrivateKey::from_random(bytes);
    write(path, &key)?;
    Ok(key)
}

/// Puts a key in the place of the one that is there, which is kept under another name.
pub(crate) fn replace(directory: &Path, key: &PrivateKey) -> Result<(), KeyFileError> {
    let path = directory.join(NAME);
    if load(&path).is_ok_and(|there| there == *key) {
        return Ok(());
    }
    if path.exists() {
        let kept = (1_u64..)
            .map(|number| directory.join(format!("{NAME}.replaced-{number}")))
            .find(|kept| !kept.exists())
            .unwrap_or_else(|| directory.join(format!("{NAME}.replaced")));
        fs::hard_link(&path, &kept).map_err(|source| KeyFileError::Io {
            path: path.clone(),
            operation: "keep",
            source,
        })?;
    }
    write(&path, key)
}

/// Written beside and renamed, so that a crash leaves a whole key or none.
fn write(path: &Path, key: &PrivateKey) -> Result<(), KeyFileError> {
    let failed = |operation| {
        move |source| KeyFileError::Io {
            path: path.to_owned(),
            operation,
            source,
        }
    };
    let temporary = path.with_added_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed("create"))?;
    writeln!(file, "{}", key.to_base64()).map_err(failed("write"))?;
    file.sync_all().map_err(failed("write"))?;
    adit_fault::point("key/rename").map_err(failed("rename"))?;
    fs::rename(&temporary, path).map_err(failed("rename"))?;
    if let Some(directory) = path.parent() {
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(failed("sync the directory of"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_never_replaced_in_silence() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        assert!(matches!(
            load_or_create(directory.path(), false, None),
            Err(KeyFileError::Missing { .. })
        ));
        let key = load_or_create(directory.path(), true, None).unwrap();
        assert_eq!(load_or_create(directory.path(), true, None).unwrap(), key);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);

        for (content, name) in [("", "empty"), ("abc", "short"), ("\0\u{1}\u{2}", "binary")] {
            fs::write(&path, content).unwrap();
            let error = load_or_create(directory.path(), true, None).unwrap_err();
            assert!(
                matches!(error, KeyFileError::Malformed { .. }),
                "{name}: {error}"
            );
            assert!(error.to_string().contains("private.key"), "{error}");
            assert_eq!(
                fs::read_to_string(&path).unwrap(),
                content,
                "left as it was"
            );
        }
        fs::write(&path, key.to_base64()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            load_or_create(directory.path(), false, None),
            Err(KeyFileError::Open { mode: 0o644, .. })
        ));
    }
    #[test]
    fn a_key_is_taken_over_with_its_change_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let own = load_or_create(directory, true, None).unwrap();
        let other = PrivateKey::from_random([9; 32]);
        let staged = directory.join(NEXT);

        // Killed before the change was committed.
        stage(directory, &other).unwrap();
        assert_eq!(fs::metadata(&staged).unwrap().mode() & 0o777, 0o600);
        assert_eq!(load_or_create(directory, false, None).unwrap(), own);
        assert!(!staged.exists());

        // Killed after it was.
        stage(directory, &other).unwrap();
        let expected = Some(other.public_key());
        assert_eq!(load_or_create(directory, false, expected).unwrap(), other);
        assert_eq!(load_or_create(directory, false, expected).unwrap(), other);
        assert!(!staged.exists());

        let wrong = load_or_create(directory, false, Some(own.public_key())).unwrap_err();
        assert!(matches!(wrong, KeyFileError::Other { .. }), "{wrong}");
        assert!(wrong.to_string().contains("private.key"), "{wrong}");
    }
}
