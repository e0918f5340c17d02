//! The server's epoch: how long its state has been whole (RFC 6887 section 8.5, RFC 6886 section 3.6).

use std::time::{Duration, Instant, SystemTime};

/// Counts the seconds since state was last lost, or an external address last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// What it was at `since`.
    base: Duration,
    since: Instant,
}

/// An epoch as it outlives the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedEpoch {
    /// Its value when it was saved, in seconds.
    pub value: u32,
    /// When that was, by the clock that goes on while the process is away.
    pub at: SystemTime,
}

impl Epoch {
    /// Begins: nothing was there before, or it is lost.
    pub const fn begin(now: Instant) -> Self {
        Self {
            base: Duration::ZERO,
            since: now,
        }
    }

    /// Goes on after a time in which state was kept. The time counts as well, or clients would find that this clock and theirs
    /// differ. With a clock that was put back nobody knows how long it was, so it begins anew.
    pub fn resume(saved: &SavedEpoch, wall: SystemTime, now: Instant) -> Self {
        match wall.duration_since(saved.at) {
            Ok(away) => Self {
                base: Duration::from_secs(saved.value.into()).saturating_add(away),
                since: now,
            },
            Err(_) => Self::begin(now),
        }
    }

    /// Its value, in seconds.
    pub fn value(&self, now: Instant) -> u32 {
        let passed = self
            .base
            .saturating_add(now.saturating_duration_since(self.since));
        // After 136 years it begins anew, as it may.
        u32::try_from(passed.as_secs() % (1 << 32)).unwrap_or(0)
    }

    /// What is to be stored so that it can be resumed.
    pub fn save(&self, wall: SystemTime, now: Instant) -> SavedEpoch {
        SavedEpoch {
            value: self.value(now),
            at: wall,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any point in time will do")]
    fn time_away_counts_unless_the_clock_went_back() {
        let start = Instant::now();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let epoch = Epoch::begin(start);
        assert_eq!(epoch.value(start + Duration::from_millis(99_900)), 99);
        let saved = epoch.save(wall, start + Duration::from_secs(100));

        let later = start + Duration::from_secs(5000);
        let resumed = Epoch::resume(&saved, wall + Duration::from_secs(40), later);
        assert_eq!(resumed.value(later + Duration::from_secs(3)), 143);
        let put_back = Epoch::resume(&saved, wall - Duration::from_secs(1), later);
        assert_eq!(put_back.value(later), 0);
    }
}
