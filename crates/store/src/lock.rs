//! One process at a time: a lock that the kernel gives up with the process, however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::StoreError;

#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    pub(crate) fn take(path: &Path) -> Result<Self, StoreError> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let mut lock = Self::take_with(path, &mut options)?;
        // The pid is only a hint for whoever is refused: a full disk must not keep the daemon from starting.
        let _ = lock
            .file
            .set_len(0)
            .and_then(|()| writeln!(lock.file, "{}", std::process::id()));
        Ok(lock)
    }

    /// Where nothing can be written.
    pub(crate) fn take_read_only(path: &Path) -> Result<Self, StoreError> {
        Self::take_with(path, &mut OpenOptions::new())
    }

    fn take_with(path: &Path, options: &mut OpenOptions) -> Result<Self, StoreError> {
        let mut file = options
            .read(true)
            .open(path)
            .map_err(|error| StoreError::from_io(error, "open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked {
                    path: path.to_owned(),
                    pid: holder(&mut file),
                });
            }
            Err(TryLockError::Error(error)) => {
                return Err(StoreError::from_io(error, "lock", path));
            }
        }
        Ok(Self { file })
    }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
