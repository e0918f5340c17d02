//! The time as callers tell it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    /// Since some fixed moment, running on while the host sleeps.
    pub(crate) monotonic: Duration,
    /// Since 1970.
    pub(crate) wall: Duration,
}

impl Now {
    /// What the host's clocks say. The system call fails for no clock that there is.
    pub(crate) fn read() -> Self {
        let read = |clock| clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
        Self {
            monotonic: read(ClockId::CLOCK_BOOTTIME),
            wall: read(ClockId::CLOCK_REALTIME),
        }
    }

    /// TAI64N, with the last 24 bits of the nanoseconds cleared, so that nobody measures our clock by it.
    pub(crate) fn timestamp(self) -> [u8; 12] {
        let seconds = (1 << 62) + 10 + self.wall.as_secs();
        let nanoseconds = self.wall.subsec_nanos() & !0x00ff_ffff;
        let mut timestamp = [0; 12];
        let (first, last) = timestamp.split_at_mut(8);
        first.copy_from_slice(&seconds.to_be_bytes());
        last.copy_from_slice(&nanoseconds.to_be_bytes());
        timestamp
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
