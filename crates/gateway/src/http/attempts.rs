//! Counts tokens that are not valid, by where they come from, in bounded memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::source::Source;

/// Sources that are told apart; the others share one count.
const SOURCES: usize = 4096;

/// How many attempts a source has at once, and how soon it gets another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    pub(super) burst: u32,
    pub(super) every: Duration,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            burst: 100,
            every: Duration::from_millis(500),
        }
    }
}

/// The attempts that failed lately.
#[derive(Debug)]
pub(super) struct Attempts {
    allowance: Allowance,
    sources: HashMap<Source, Bucket>,
    /// All sources beyond those, so that many addresses fill no memory.
    others: Bucket,
}

/// An attempt too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany {
    pub(super) retry_after: Duration,
    /// Whether it is the first one since there were none too many.
    pub(super) is_new: bool,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// When it has all its attempts again (a token bucket, told by the time at which it is full).
    full_at: Instant,
    is_told: bool,
}

impl Attempts {
    pub(super) fn new(allowance: Allowance, now: Instant) -> Self {
        Self {
            allowance,
            sources: HashMap::new(),
            others: Bucket::full(now),
        }
    }

    /// Counts a failure. Those of one source leave the allowance of the others alone.
    pub(super) fn fail(&mut self, from: IpAddr, now: Instant) -> Result<(), TooMany> {
        let source = Source::of(from);
        if !self.sources.contains_key(&source) && self.sources.len() >= SOURCES {
            self.sources.retain(|_, bucket| bucket.full_at > now);
        }
        let has_room = self.sources.len() < SOURCES;
        let bucket = match self.sources.get_mut(&source) {
            Some(bucket) => bucket,
            None if has_room => self
                .sources
                .entry(source)
                .or_insert_with(|| Bucket::full(now)),
            None => &mut self.others,
        };
        bucket.take(self.allowance, now)
    }
}

impl Bucket {
    const fn full(now: Instant) -> Self {
        Self {
            full_at: now,
            is_told: false,
        }
    }

    fn take(&mut self, allowance: Allowance, now: Instant) -> Result<(), TooMany> {
        let from = self.full_at.max(now);
        let next = from + allowance.every;
        let latest = now + allowance.every * allowance.burst;
        if next > latest {
            let is_new = !self.is_told;
            self.is_told = true;
            return Err(TooMany {
                retry_after: next - latest,
                is_new,
            });
        }
        if from == now {
            self.is_told = false;
        }
        self.full_at = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    const ALLOWANCE: Allowance = Allowance {
        burst: 3,
        every: Duration::from_secs(2),
    };

    #[test]
    fn a_source_has_its_burst_then_one_in_a_while_and_a_64_is_one_source() {
        let start = Instant::now();
        let mut attempts = Attempts::new(ALLOWANCE, start);
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::ffff".parse().unwrap();
        let other: IpAddr = "2001:db8:0:1::1".parse().unwrap();
        for from in [one, neighbour, one] {
            attempts.fail(from, start).unwrap();
        }
        let refusal = attempts.fail(neighbour, start).unwrap_err();
        assert_eq!(refusal.retry_after, Duration::from_secs(2));
        assert!(refusal.is_new);
        assert!(!attempts.fail(one, start).unwrap_err().is_new, "told once");
        attempts.fail(other, start).unwrap();

        let later = start + Duration::from_secs(2);
        attempts.fail(one, later).unwrap();
        attempts.fail(one, later).unwrap_err();
    }

    #[test]
    fn many_sources_take_no_more_memory_and_are_bounded_together() {
        let start = Instant::now();
        let mut attempts = Attempts::new(ALLOWANCE, start);
        let known: IpAddr = "198.51.100.1".parse().unwrap();
        attempts.fail(known, start).unwrap();
        let limited = (0..20_000_u32)
            .map(|number| IpAddr::V6(Ipv6Addr::from(u128::from(number) << 64)))
            .filter(|source| attempts.fail(*source, start).is_err())
            .count();
        assert_eq!(attempts.sources.len(), SOURCES);
        assert_eq!(
            limited,
            20_000 - (SOURCES - 1) - 3,
            "the others share three"
        );
        attempts.fail(known, start).unwrap();

        // Those that have all their attempts again make room.
        let later = start + Duration::from_secs(60);
        let fresh: IpAddr = "203.0.113.9".parse().unwrap();
        attempts.fail(fresh, later).unwrap();
        assert_eq!(attempts.sources.len(), 1);
    }
}
