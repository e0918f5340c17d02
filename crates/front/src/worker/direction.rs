//! One direction of a connection: what one side sends goes to the other, at the pace of the slower.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use rustix::pipe::{SpliceFlags, splice};

use super::pipe::{Pipe, Pipes};

/// What is copied at once. Who sends as much at a time sends more, and gets a pipe.
pub(super) const CHUNK: usize = 16 << 10;
/// The most that is asked of a pipe at once.
const MOST: usize = 1 << 20;
/// Steps of one connection before others have their turn.
const TURN: usize = 16;

/// What is known of a socket: events say when it becomes ready, a call that would block says that it no longer is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ready {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The other end has closed, or the connection failed: a short read is not the last.
    pub(super) hung_up: bool,
}

impl Ready {
    pub(super) fn note(&mut self, flags: EventFlags) {
        let hung_up = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        self.readable |= hung_up || flags.contains(EventFlags::IN);
        self.writable |= flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
        self.hung_up |= hung_up;
    }

    /// After a read of `count` bytes where there was room for `room`.
    pub(super) fn note_read(&mut self, count: usize, room: usize) {
        if count < room && !self.hung_up {
            self.readable = false;
        }
    }
}

/// A socket and what is known of it.
pub(super) struct Side<'a> {
    pub(super) socket: BorrowedFd<'a>,
    pub(super) ready: &'a mut Ready,
}

impl Side<'_> {
    /// How much was written, if anything.
    fn written(&mut self, result: rustix::io::Result<usize>) -> io::Result<Option<usize>> {
        match result {
            Ok(count) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INPROGRESS) => {
                self.ready.writable = false;
                Ok(None)
            }
            Err(Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Direction {
    /// What was read and is not written yet, from `written` on.
    copied: Vec<u8>,
    written: usize,
    /// What was spliced and is not yet out, and how much it is.
    pipe: Option<Pipe>,
    piped: usize,
    carries_much: bool,
    is_at_end: bool,
    is_shut: bool,
}

impl Direction {
    /// With bytes that go first.
    pub(super) fn beginning_with(bytes: Vec<u8>) -> Self {
        Self {
            copied: bytes,
            ..Self::default()
        }
    }

    /// Whether everything that was sent has arrived, the end included.
    pub(super) const fn is_done(&self) -> bool {
        self.is_shut
    }

    /// Whether something waits to be written.
    pub(super) fn is_waiting(&self) -> bool {
        self.written < self.copied.len() || self.piped > 0
    }

    /// Whether anything of it was written.
    pub(super) fn has_begun(&self) -> bool {
        self.written > 0 || !self.is_waiting()
    }

    /// Carries what can be carried; whether there is more to do at once. The end of the last direction is told by closing,
    /// which is up to the caller.
    pub(super) fn pump(
        &mut self,
        from: Side<'_>,
        mut to: Side<'_>,
        is_last: bool,
        pipes: &mut Pipes,
        chunk: &mut [u8],
    ) -> io::Result<bool> {
        for _ in 0..TURN {
            if self.is_waiting() {
                if !to.ready.writable || !self.put(&mut to)? {
                    return Ok(false);
                }
                continue;
            }
            if self.is_at_end {
                if !self.is_shut && !is_last {
                    // It may be gone already, which the other direction finds out.
                    let _ = shutdown(to.socket, Shutdown::Write);
                }
                self.is_shut = true;
                return Ok(false);
            }
            if !from.ready.readable {
                self.release(pipes);
                return Ok(false);
            }
            self.get(from.socket, from.ready, &mut to, pipes, chunk)?;
        }
        Ok(true)
    }

    /// Writes of what waits; whether there is room for more.
    fn put(&mut self, to: &mut Side<'_>) -> io::Result<bool> {
        let result = match &self.pipe {
            Some(pipe) if self.piped > 0 => {
                let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
                splice(&pipe.outlet, None, to.socket, None, self.piped, flags)
            }
            Some(_) | None => send(
                to.socket,
                self.copied.get(self.written..).unwrap_or_default(),
                SendFlags::NOSIGNAL,
            ),
        };
        let Some(count) = to.written(result)? else {
            return Ok(to.ready.writable);
        };
        if self.piped > 0 {
            self.piped = self.piped.saturating_sub(count);
        } else {
            self.written += count;
            if self.written >= self.copied.len() {
                self.copied = Vec::new();
                self.written = 0;
            }
        }
        Ok(true)
    }

    fn get(
        &mut self,
        from: BorrowedFd<'_>,
        ready: &mut Ready,
        to: &mut Side<'_>,
        pipes: &mut Pipes,
        chunk: &mut [u8],
    ) -> io::Result<()> {
        if self.carries_much && self.pipe.is_none() {
            // Without one it is copied.
            self.pipe = pipes.take();
        }
        let result = match &self.pipe {
            Some(pipe) => {
                let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
                splice(from, None, &pipe.inlet, None, MOST, flags)
            }
            None => recv(from, &mut *chunk, RecvFlags::empty()).map(|(count, _)| count),
        };
        match result {
            Ok(0) => self.is_at_end = true,
            Ok(count) if self.pipe.is_some() => self.piped = count,
            Ok(count) => {
                ready.note_read(count, chunk.len());
                self.carries_much = count == chunk.len();
                let bytes = chunk.get(..count).unwrap_or_default();
                // Most of what is read can be written at once, without a copy that waits.
                let written = if to.ready.writable {
                    to.written(send(to.socket, bytes, SendFlags::NOSIGNAL))?
                } else {
                    None
                };
                let rest = bytes.get(written.unwrap_or(0)..).unwrap_or_default();
                self.copied.extend_from_slice(rest);
            }
            Err(Errno::AGAIN) => ready.readable = false,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Nobody waits with a pipe that others could use.
    fn release(&mut self, pipes: &mut Pipes) {
        if let Some(pipe) = self.pipe.take() {
            pipes.give_back(pipe);
        }
    }
}
