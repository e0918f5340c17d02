//! Whether the disk took the last commit, for those who do not write.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::StoreError;

/// Shared by the store and those who tell about it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    trouble: Arc<Mutex<Option<Trouble>>>,
}

#[derive(Clone, Debug)]
struct Trouble {
    message: String,
    is_disk: bool,
}

impl Health {
    /// Why the last commit was not taken.
    pub fn trouble(&self) -> Option<String> {
        self.lock().as_ref().map(|trouble| trouble.message.clone())
    }

    /// Whether it was the disk, so that a disk that takes writes again is the end of it.
    pub fn is_disk_trouble(&self) -> bool {
        self.lock().as_ref().is_some_and(|trouble| trouble.is_disk)
    }

    /// The disk takes writes again, as someone found out.
    pub fn clear(&self) {
        *self.lock() = None;
    }

    pub(crate) fn set(&self, error: &StoreError) {
        let is_disk = matches!(
            error,
            StoreError::Full { .. }
                | StoreError::ReadOnly { .. }
                | StoreError::Away { .. }
                | StoreError::Io { .. }
                | StoreError::Database { .. }
        );
        *self.lock() = Some(Trouble {
            message: error.to_string(),
            is_disk,
        });
    }

    fn lock(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
