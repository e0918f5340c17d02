//! Whether the disk took the last commit, for those who do not write.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::StoreError;

/// Shared by the store and those who tell about it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    trouble: Arc<Mutex<Option<String>>>,
}

impl Health {
    /// Why the last commit was not taken.
    pub fn trouble(&self) -> Option<String> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The disk takes writes again, as someone found out.
    pub fn clear(&self) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn set(&self, error: &StoreError) {
        let text = error.to_string();
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }
}
