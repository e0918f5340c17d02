//! When a peer is due for a keepalive, a handshake, or for forgetting its keys.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::milliseconds;
use crate::transport::REJECT_AFTER_TIME;

/// No two initiations to a peer within this time.
pub(crate) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Initiations without an answer before nobody is thought to be there: 90 seconds of them.
pub(crate) const ATTEMPTS: u32 = 18;
const ERASE_AFTER_TIME: Duration = Duration::from_secs(3 * REJECT_AFTER_TIME.as_secs());
/// Two peers that began at the same moment shall not do so for ever.
const JITTER_MILLISECONDS: u64 = 334;

const NEVER: u64 = u64::MAX;

/// Deadlines on the monotonic clock. Both directions write them, once a batch.
pub(crate) struct Timers {
    salt: u64,
    interval: AtomicU16,
    keepalive: Deadline,
    needs_another_keepalive: AtomicBool,
    persistent_keepalive: Deadline,
    handshake: Deadline,
    retransmission: Deadline,
    erasure: Deadline,
}

/// What has to be done now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) keepalive: bool,
    /// Data was sent, and nothing came back.
    pub(crate) handshake: bool,
    /// An initiation was not answered.
    pub(crate) retransmission: bool,
    pub(crate) erasure: bool,
}

struct Deadline(AtomicU64);

impl Timers {
    /// The salt spreads the deadlines of several peers.
    pub(crate) fn new(salt: u64) -> Self {
        Self {
            salt,
            interval: AtomicU16::new(0),
            keepalive: Deadline::unset(),
            needs_another_keepalive: AtomicBool::new(false),
            persistent_keepalive: Deadline::unset(),
            handshake: Deadline::unset(),
            retransmission: Deadline::unset(),
            erasure: Deadline::unset(),
        }
    }

    /// Something was sealed for the peer, be it a keepalive.
    pub(crate) fn sent(&self, now: Duration) {
        self.keepalive.clear();
        self.traversed(now);
    }

    pub(crate) fn data_sent(&self, now: Duration) {
        if !self.handshake.is_set() {
            let silence = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + self.jitter(now);
            self.handshake.set(now + silence);
        }
    }

    /// Something authentic came from the peer, be it a keepalive.
    pub(crate) fn received(&self, now: Duration) {
        self.handshake.clear();
        self.traversed(now);
    }

    pub(crate) fn data_received(&self, now: Duration) {
        if self.keepalive.is_set() {
            self.needs_another_keepalive.store(true, Ordering::Relaxed);
        } else {
            self.keepalive.set(now + KEEPALIVE_TIMEOUT);
        }
    }

    pub(crate) fn handshake_begun(&self, now: Duration) {
        self.retransmission
            .set(now + REKEY_TIMEOUT + self.jitter(now));
    }

    pub(crate) fn handshake_completed(&self) {
        self.retransmission.clear();
    }

    pub(crate) fn keys_derived(&self, now: Duration) {
        self.erasure.set(now + ERASE_AFTER_TIME);
    }

    /// Nobody answers: no more attempts, and what keys there are go in time.
    pub(crate) fn gave_up(&self, now: Duration) {
        self.retransmission.clear();
        self.keepalive.clear();
        if !self.erasure.is_set() {
            self.erasure.set(now + ERASE_AFTER_TIME);
        }
    }

    /// In seconds; 0 is none. The first one is due at once.
    pub(crate) fn set_interval(&self, now: Duration, seconds: u16) {
        let before = self.interval.swap(seconds, Ordering::Relaxed);
        match seconds {
            0 => self.persistent_keepalive.clear(),
            _ if before == 0 => self.persistent_keepalive.set(now),
            _ => self.traversed(now),
        }
    }

    pub(crate) fn interval(&self) -> u16 {
        self.interval.load(Ordering::Relaxed)
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Duration> {
        let next = self.deadlines().map(Deadline::get).into_iter().min();
        next.filter(|next| *next != NEVER)
            .map(Duration::from_millis)
    }

    /// What is due; each deadline that has passed is told once.
    pub(crate) fn take_due(&self, now: Duration) -> Due {
        let mut due = Due {
            keepalive: self.keepalive.take(now),
            handshake: self.handshake.take(now),
            retransmission: self.retransmission.take(now),
            erasure: self.erasure.take(now),
        };
        if due.keepalive && self.needs_another_keepalive.swap(false, Ordering::Relaxed) {
            self.keepalive.set(now + KEEPALIVE_TIMEOUT);
        }
        if self.persistent_keepalive.take(now) {
            due.keepalive = true;
            self.traversed(now);
        }
        due
    }

    fn traversed(&self, now: Duration) {
        let interval = self.interval();
        if interval != 0 {
            let interval = Duration::from_secs(interval.into());
            self.persistent_keepalive.set(now + interval);
        }
    }

    fn jitter(&self, now: Duration) -> Duration {
        let mixed = (milliseconds(now) ^ self.salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Duration::from_millis((mixed >> 32) % JITTER_MILLISECONDS)
    }

    const fn deadlines(&self) -> [&Deadline; 5] {
        [
            &self.keepalive,
            &self.persistent_keepalive,
            &self.handshake,
            &self.retransmission,
            &self.erasure,
        ]
    }
}

impl Deadline {
    const fn unset() -> Self {
        Self(AtomicU64::new(NEVER))
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn is_set(&self) -> bool {
        self.get() != NEVER
    }

    fn set(&self, at: Duration) {
        self.0.store(milliseconds(at), Ordering::Relaxed);
    }

    fn clear(&self) {
        // Mostly there is nothing to clear, and a write would take the cache line from the other direction.
        if self.is_set() {
            self.0.store(NEVER, Ordering::Relaxed);
        }
    }

    /// Whether it has passed; then it is unset.
    fn take(&self, now: Duration) -> bool {
        let at = self.get();
        at != NEVER
            && at <= milliseconds(now)
            && self
                .0
                .compare_exchange(at, NEVER, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1000);

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(1000 + seconds)
    }

    #[test]
    fn who_only_receives_says_so_after_ten_seconds() {
        let timers = Timers::new(1);
        timers.received(START);
        timers.data_received(START);
        timers.data_received(seconds(5));
        assert_eq!(timers.next(), Some(seconds(10)));
        assert_eq!(timers.take_due(seconds(9)), Due::default());
        let keepalive = Due {
            keepalive: true,
            ..Due::default()
        };
        assert_eq!(timers.take_due(seconds(10)), keepalive);
        assert_eq!(timers.take_due(seconds(10)), Due::default());
        assert_eq!(
            timers.take_due(seconds(20)),
            keepalive,
            "for what came meanwhile"
        );
        assert_eq!(timers.next(), None);
        timers.data_received(seconds(30));
        timers.sent(seconds(31));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn who_sends_and_hears_nothing_begins_anew_after_fifteen_seconds() {
        let timers = Timers::new(2);
        timers.data_sent(START);
        timers.data_sent(seconds(10));
        assert!(!timers.take_due(seconds(14)).handshake);
        assert!(timers.take_due(seconds(16)).handshake);
        timers.data_sent(seconds(20));
        timers.received(seconds(21));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_persistent_keepalive_starts_at_once_and_waits_for_silence() {
        let timers = Timers::new(3);
        timers.set_interval(START, 25);
        assert!(timers.take_due(START).keepalive);
        timers.sent(seconds(10));
        assert_eq!(timers.next(), Some(seconds(35)));
        timers.received(seconds(12));
        assert_eq!(timers.next(), Some(seconds(37)));
        timers.set_interval(seconds(13), 25);
        assert!(!timers.take_due(seconds(13)).keepalive, "nothing new");
        timers.set_interval(seconds(14), 0);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn keys_go_after_three_lifetimes_or_when_nobody_answers() {
        let timers = Timers::new(4);
        timers.keys_derived(START);
        timers.gave_up(seconds(100));
        assert!(!timers.take_due(seconds(539)).erasure);
        assert!(timers.take_due(seconds(540)).erasure);
        timers.gave_up(seconds(600));
        assert_eq!(timers.next(), Some(seconds(1140)));
    }
}
