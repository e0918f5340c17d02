//! How long something takes, counted in buckets.

use std::time::Duration;

use super::exposition::{Exposition, Kind};

/// Upper bounds in microseconds, and as they are written in seconds.
const BOUNDS: [(u64, &str); 12] = [
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (10_000_000, "10"),
];

#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// How many were not above a bound, and above the one before it.
    counts: [u64; BOUNDS.len()],
    count: u64,
    sum: Duration,
}

impl Histogram {
    pub(super) fn observe(&mut self, time: Duration) {
        let position = BOUNDS
            .iter()
            .position(|(bound, _)| time <= Duration::from_micros(*bound));
        if let Some(count) = position.and_then(|position| self.counts.get_mut(position)) {
            *count += 1;
        }
        self.count += 1;
        self.sum += time;
    }

    pub(super) fn tell(&self, text: &mut Exposition, name: &'static str, help: &str) {
        text.family(name, Kind::Histogram, help);
        let mut below = 0;
        for ((_, bound), count) in BOUNDS.iter().zip(self.counts) {
            below += count;
            text.part("_bucket", &[("le", bound)], below);
        }
        text.part("_bucket", &[("le", "+Inf")], self.count);
        text.part("_sum", &[], self.sum.as_secs_f64());
        text.part("_count", &[], self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_all_below_them() {
        let mut histogram = Histogram::default();
        for milliseconds in [1, 3, 3, 20_000] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let mut text = Exposition::default();
        histogram.tell(&mut text, "x_seconds", "Help.");
        let text = text.finish();
        for line in [
            "x_seconds_bucket{le=\"0.001\"} 1",
            "x_seconds_bucket{le=\"0.0025\"} 1",
            "x_seconds_bucket{le=\"0.005\"} 3",
            "x_seconds_bucket{le=\"10\"} 3",
            "x_seconds_bucket{le=\"+Inf\"} 4",
            "x_seconds_sum 20.007",
            "x_seconds_count 4",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
    }
}
