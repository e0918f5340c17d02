//! Waiting times that differ between clients. Nothing secret comes from here.

use std::time::Duration;

/// A generator of numbers that spread well (SplitMix64), from a seed that is an argument.
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A time of at least `from` and at most `to`.
    pub(crate) fn between(&mut self, from: Duration, to: Duration) -> Duration {
        // 53 bits are what a float holds.
        let share = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        from + to.saturating_sub(from).mul_f64(share)
    }

    /// A time a tenth longer or shorter at most.
    pub(crate) fn around(&mut self, time: Duration) -> Duration {
        self.between(time.mul_f64(0.9), time.mul_f64(1.1))
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
