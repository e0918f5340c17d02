//! Refused credentials, counted: whoever tries a million passwords fills no log.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// Sources that are counted each for itself.
const SOURCES: usize = 64;
/// Sources that are named.
const NAMED: usize = 5;

/// Attempts since the last entry.
#[derive(Debug, Default)]
pub(super) struct Refused {
    by_source: BTreeMap<IpAddr, u64>,
    others: u64,
}

impl Refused {
    pub(super) fn count(&mut self, source: IpAddr) {
        let source = network(source);
        if let Some(count) = self.by_source.get_mut(&source) {
            *count += 1;
        } else if self.by_source.len() < SOURCES {
            self.by_source.insert(source, 1);
        } else {
            self.others += 1;
        }
    }

    /// What is to be said; none when there was no attempt.
    pub(super) fn tell(self) -> Option<String> {
        let total = self.by_source.values().sum::<u64>() + self.others;
        if total == 0 {
            return None;
        }
        let mut sources: Vec<(IpAddr, u64)> = self.by_source.into_iter().collect();
        sources.sort_by_key(|(source, count)| (std::cmp::Reverse(*count), *source));
        let mut named: Vec<String> = sources
            .iter()
            .take(NAMED)
            .map(|(source, count)| match source {
                IpAddr::V4(address) => format!("{address} {count}×"),
                IpAddr::V6(address) => format!("{address}/64 {count}×"),
            })
            .collect();
        let told: u64 = sources.iter().take(NAMED).map(|(_, count)| count).sum();
        if told < total {
            named.push(format!("others {}×", total - told));
        }
        Some(format!(
            "{total} requests without good credentials were refused: {}",
            named.join(", ")
        ))
    }
}

/// One subscriber has a whole /64.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_from_everywhere_is_one_short_sentence() {
        let mut refused = Refused::default();
        for number in 0..100_000_u32 {
            refused.count(IpAddr::V4(number.into()));
        }
        for host in 0..1000 {
            refused.count(IpAddr::V6(Ipv6Addr::new(
                0x2001, 0xdb8, 0, 0, 0, 0, 0, host,
            )));
        }
        assert_eq!(refused.by_source.len(), SOURCES);
        let text = refused.tell().unwrap();
        assert!(
            text.starts_with("101000 requests") && text.len() < 300,
            "{text}"
        );

        let mut refused = Refused::default();
        for host in 0..10 {
            refused.count(IpAddr::V6(Ipv6Addr::new(
                0x2001, 0xdb8, 0, 0, 0, 0, 0, host,
            )));
        }
        refused.count("::ffff:192.0.2.1".parse().unwrap());
        let text = refused.tell().unwrap();
        assert!(text.ends_with("2001:db8::/64 10×, 192.0.2.1 1×"), "{text}");
        assert_eq!(Refused::default().tell(), None);
    }
}
