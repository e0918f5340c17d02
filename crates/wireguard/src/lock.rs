//! Locks whose holder may have panicked: the state behind ours is whole after every statement, so they go on.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(crate) trait Lock<T> {
    fn hold(&self) -> MutexGuard<'_, T>;
}

pub(crate) trait SharedLock<T> {
    fn look(&self) -> RwLockReadGuard<'_, T>;
    fn change(&self) -> RwLockWriteGuard<'_, T>;
}

impl<T> Lock<T> for Mutex<T> {
    fn hold(&self) -> MutexGuard<'_, T> {
        self.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> SharedLock<T> for RwLock<T> {
    fn look(&self) -> RwLockReadGuard<'_, T> {
        self.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, T> {
        self.write().unwrap_or_else(PoisonError::into_inner)
    }
}
