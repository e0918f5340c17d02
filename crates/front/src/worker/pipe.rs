//! Pipes, through which bytes go from one socket to another without being copied (splice(2)).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::admission::{Admission, Files};

/// What a pipe shall hold; the kernel gives less when all of this user's hold much.
const SIZE: usize = 256 << 10;
/// How many empty ones are kept for the next who needs one.
const KEPT: usize = 64;

#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) outlet: OwnedFd,
    pub(super) inlet: OwnedFd,
    _files: Files,
}

/// The empty ones of a worker.
#[derive(Debug)]
pub(super) struct Pipes {
    admission: Arc<Admission>,
    empty: Vec<Pipe>,
}

impl Pipes {
    pub(super) const fn new(admission: Arc<Admission>) -> Self {
        Self {
            admission,
            empty: Vec::new(),
        }
    }

    /// One, unless there are no files for it.
    pub(super) fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.empty.pop() {
            return Some(pipe);
        }
        let files = self.admission.spare_files(2)?;
        let (outlet, inlet) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // A smaller one carries as well.
        let _ = fcntl_setpipe_size(&inlet, SIZE);
        Some(Pipe {
            outlet,
            inlet,
            _files: files,
        })
    }

    /// It has to be empty.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        if self.empty.len() < KEPT {
            self.empty.push(pipe);
        }
    }
}
