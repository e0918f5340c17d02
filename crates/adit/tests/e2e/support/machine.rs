//! Who runs beside whom: tests that count lost packets have the machine for themselves.

use std::cell::Cell;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The machine, until it is dropped: for itself or beside others.
#[derive(Debug)]
pub(crate) struct Machine {
    is_alone: bool,
}

#[derive(Debug)]
struct Users {
    sharing: usize,
    alone: bool,
    /// Those that want it for themselves; nobody begins before them.
    waiting: usize,
}

static USERS: Mutex<Users> = Mutex::new(Users {
    sharing: 0,
    alone: false,
    waiting: 0,
});
static CHANGED: Condvar = Condvar::new();

thread_local! {
    /// How often this test has it already: a second world of it does not wait.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

impl Machine {
    /// Beside other tests.
    pub(crate) fn share() -> Self {
        let is_first = HELD.get() == 0;
        let mut users = users();
        while is_first && (users.alone || users.waiting > 0) {
            users = CHANGED.wait(users).unwrap_or_else(PoisonError::into_inner);
        }
        users.sharing += 1;
        HELD.set(HELD.get() + 1);
        Self { is_alone: false }
    }

    /// With no other test of this program. To be taken before the first world is made.
    pub(crate) fn alone() -> Self {
        let mut users = users();
        users.waiting += 1;
        while users.alone || users.sharing > 0 {
            users = CHANGED.wait(users).unwrap_or_else(PoisonError::into_inner);
        }
        users.waiting -= 1;
        users.alone = true;
        HELD.set(HELD.get() + 1);
        Self { is_alone: true }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let mut users = users();
        if self.is_alone {
            users.alone = false;
        } else {
            users.sharing -= 1;
        }
        HELD.set(HELD.get().saturating_sub(1));
        CHANGED.notify_all();
    }
}

fn users() -> MutexGuard<'static, Users> {
    USERS.lock().unwrap_or_else(PoisonError::into_inner)
}
