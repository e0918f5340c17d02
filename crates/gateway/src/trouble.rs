//! What is wrong with the daemon itself, beside what is wrong with state and kernel.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use adit_model::problem::Problem;

/// Problems of the daemon by code, one of each.
#[derive(Debug, Default)]
pub(crate) struct Troubles(Mutex<BTreeMap<String, Problem>>);

impl Troubles {
    /// Tells of a problem until it is cleared.
    pub(crate) fn set(&self, problem: Problem) {
        self.lock().insert(problem.code.clone(), problem);
    }

    pub(crate) fn clear(&self, code: &str) {
        self.lock().remove(code);
    }

    pub(crate) fn list(&self) -> Vec<Problem> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Problem>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
