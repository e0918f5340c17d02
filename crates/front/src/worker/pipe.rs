//! Pipes, through which bytes go from one socket to another without being copied (splice(2)).

use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// What a pipe shall hold; the kernel gives less when all of this user's hold much.
const SIZE: usize = 256 << 10;
/// How many empty ones are kept for the next who needs one.
const KEPT: usize = 64;

#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) outlet: OwnedFd,
    pub(super) inlet: OwnedFd,
}

/// The empty ones of a worker.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    empty: Vec<Pipe>,
}

impl Pipes {
    pub(super) fn take(&mut self) -> io::Result<Pipe> {
        if let Some(pipe) = self.empty.pop() {
            return Ok(pipe);
        }
        let (outlet, inlet) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller one carries as well.
        let _ = fcntl_setpipe_size(&inlet, SIZE);
        Ok(Pipe { outlet, inlet })
    }

    /// It has to be empty.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        if self.empty.len() < KEPT {
            self.empty.push(pipe);
        }
    }
}
