//! Whether the server still has what it had (RFC 6886 section 3.6).

use std::time::{Duration, Instant};

/// What the server's clock said last, and when.
#[derive(Debug, Default)]
pub(super) struct EpochWatch {
    last: Option<(u32, Instant)>,
}

impl EpochWatch {
    /// Takes in the epoch of an answer; whether it shows that the server lost its state.
    pub(super) fn shows_loss(&mut self, epoch: u32, now: Instant) -> bool {
        let Some((server, client)) = self.last.replace((epoch, now)) else {
            return false;
        };
        let passed = now.saturating_duration_since(client);
        let least = Duration::from_secs(server.into()) + passed * 7 / 8;
        Duration::from_secs(epoch.into()) + Duration::from_secs(2) < least
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any point in time will do")]
mod tests {
    use super::*;

    #[test]
    fn clock_may_be_an_eighth_and_two_seconds_behind() {
        let start = Instant::now();
        for (epoch, is_lost) in [(1000 + 700 - 2, false), (1000 + 700 - 3, true), (0, true)] {
            let mut watch = EpochWatch::default();
            assert!(!watch.shows_loss(1000, start));
            let later = start + Duration::from_secs(800);
            assert_eq!(watch.shows_loss(epoch, later), is_lost, "{epoch}");
        }
    }
}
