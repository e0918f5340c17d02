//! How many handshakes are computed: for everybody together, and for one source once many come.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// As many a second are computed for whoever asks; above it a source has to show that it receives what we send to it.
const UNQUESTIONED: u32 = 300;
/// While there are more, as many a second are computed for sources that have shown nothing, but ask seldom.
const UNPROVEN: u32 = 100;
/// One source's share while there are more: this many at once, and one more every `INTERVAL`.
const BURST: u32 = 5;
const INTERVAL: Duration = Duration::from_millis(50);
/// Sources remembered at a time; those that are not wait until the table is emptied.
const SOURCES: usize = 16 * 1024;
const SECOND: Duration = Duration::from_secs(1);

/// Counts handshakes.
pub(crate) struct Limiter {
    asked: Rate,
    unproven: Rate,
    /// Until when handshakes are questioned.
    loaded_until: Duration,
    proven_shares: Shares,
    unproven_shares: Shares,
}

#[derive(Default)]
struct Rate {
    second: Duration,
    count: u32,
}

#[derive(Default)]
struct Shares {
    /// When all of a source's burst is there again.
    full_at: HashMap<IpAddr, Duration>,
    emptied: Duration,
}

impl Limiter {
    pub(crate) fn new() -> Self {
        Self {
            asked: Rate::default(),
            unproven: Rate::default(),
            loaded_until: Duration::ZERO,
            proven_shares: Shares::default(),
            unproven_shares: Shares::default(),
        }
    }

    /// Counts an initiation.
    pub(crate) fn count(&mut self, now: Duration) {
        if self.asked.count(now) > UNQUESTIONED {
            self.loaded_until = now + SECOND;
        }
    }

    /// Whether there are so many that sources have to show a cookie.
    pub(crate) fn is_loaded(&self, now: Duration) -> bool {
        now < self.loaded_until
    }

    /// Whether a source that has shown a cookie may have one more handshake.
    pub(crate) fn admits(&mut self, now: Duration, source: IpAddr) -> bool {
        self.proven_shares.take(now, source)
    }

    /// Whether a source that has shown none may. An initiator that gets a cookie does not try again for five seconds, so those who
    /// cannot be part of the flood are spared it; what a flood takes here is none of what is kept for those with a cookie.
    pub(crate) fn admits_unproven(&mut self, now: Duration, source: IpAddr) -> bool {
        self.unproven_shares.take(now, source) && self.unproven.count(now) <= UNPROVEN
    }
}

impl Rate {
    /// The count of this second, with this one.
    fn count(&mut self, now: Duration) -> u32 {
        if now.saturating_sub(self.second) >= SECOND {
            self.second = now;
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.count
    }
}

impl Shares {
    fn take(&mut self, now: Duration, source: IpAddr) -> bool {
        if now.saturating_sub(self.emptied) >= SECOND {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.emptied = now;
        }
        let source = network(source);
        if self.full_at.len() >= SOURCES && !self.full_at.contains_key(&source) {
            return false;
        }
        let bucket = self.full_at.entry(source).or_insert(now);
        let full_at = (*bucket).max(now) + INTERVAL;
        if full_at > now + INTERVAL * BURST {
            return false;
        }
        *bucket = full_at;
        true
    }
}

/// One customer has a /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let bits = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(bits))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_begins_with_many_and_ends_when_they_end() {
        let mut limiter = Limiter::new();
        let start = Duration::from_secs(50);
        for _ in 0..UNQUESTIONED {
            limiter.count(start);
        }
        assert!(!limiter.is_loaded(start));
        limiter.count(start);
        assert!(limiter.is_loaded(start));
        limiter.count(start + SECOND / 2);
        assert!(limiter.is_loaded(start + SECOND));
        limiter.count(start + SECOND * 2);
        assert!(!limiter.is_loaded(start + SECOND * 2));
    }

    #[test]
    fn a_source_has_its_share_and_takes_nobody_elses() {
        let mut limiter = Limiter::new();
        let start = Duration::from_secs(50);
        let greedy: IpAddr = "2001:db8::1".parse().unwrap();
        let same: IpAddr = "2001:db8::2".parse().unwrap();
        let other: IpAddr = "2001:db8:0:1::1".parse().unwrap();
        for _ in 0..BURST {
            assert!(limiter.admits(start, greedy));
        }
        assert!(!limiter.admits(start, greedy));
        assert!(!limiter.admits(start, same));
        assert!(limiter.admits(start, other));
        assert!(limiter.admits(start + INTERVAL, greedy));
        assert!(!limiter.admits(start + INTERVAL, greedy));
    }

    #[test]
    fn who_asks_seldom_needs_no_cookie_while_another_floods() {
        let mut limiter = Limiter::new();
        let start = Duration::from_secs(50);
        let flooder = IpAddr::from([192, 0, 2, 1]);
        let other = IpAddr::from([192, 0, 2, 2]);
        let passed = (0..20_000).filter(|_| limiter.admits_unproven(start, flooder));
        assert_eq!(passed.count(), BURST as usize);
        assert!(limiter.admits_unproven(start, other));
        assert!(limiter.admits(start, flooder), "with a cookie");
        let forged = (0..20_000_u32).map(|number| IpAddr::from(number.to_be_bytes()));
        let passed = forged.filter(|source| limiter.admits_unproven(start, *source));
        assert!(passed.count() <= UNPROVEN as usize);
        assert!(limiter.admits_unproven(start + SECOND, other));
    }

    #[test]
    fn the_table_of_sources_is_bounded_and_becomes_free_again() {
        let mut limiter = Limiter::new();
        let start = Duration::from_secs(50);
        for number in 0..u32::try_from(SOURCES).unwrap() * 2 {
            limiter.admits(start, IpAddr::from(number.to_be_bytes()));
        }
        assert!(limiter.proven_shares.full_at.len() <= SOURCES);
        let fresh = IpAddr::from([255, 1, 1, 1]);
        assert!(!limiter.admits(start, fresh));
        assert!(limiter.admits(start + SECOND, fresh));
    }
}
