//! Whether the server still has what it had (RFC 6887 section 8.5).

use std::time::Instant;

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
        if u64::from(epoch) + 1 < u64::from(server) {
            return true;
        }
        let client_passed = now.saturating_duration_since(client).as_secs();
        let server_passed = u64::from(epoch.saturating_sub(server));
        client_passed + 2 < server_passed - server_passed / 16
            || server_passed + 2 < client_passed - client_passed / 16
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any point in time will do")]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Two answers, that many seconds apart here and there.
    fn loses(client: u64, server: i64) -> bool {
        let start = Instant::now();
        let mut watch = EpochWatch::default();
        assert!(!watch.shows_loss(10_000, start));
        let epoch = u32::try_from(10_000 + server).unwrap();
        watch.shows_loss(epoch, start + Duration::from_secs(client))
    }

    #[test]
    fn clocks_may_differ_by_a_sixteenth_and_two_seconds() {
        assert!(!loses(0, 0));
        // Answers that overtook each other.
        assert!(!loses(0, -1));
        assert!(loses(0, -2));
        assert!(!loses(1600, 1600 + 106));
        assert!(loses(1600, 1600 + 112));
        assert!(!loses(1600, 1600 - 102));
        assert!(loses(1600, 1600 - 103));
        assert!(!loses(0, 2));
        assert!(loses(0, 3));
    }
}
