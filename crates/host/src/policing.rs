//! Limits sources while more arrives for the tunnel than the dataplane can carry, so that one cannot take all of it.

#![warn(clippy::indexing_slicing)]

use std::cmp::Reverse;
use std::fs;
use std::io;
use std::time::Duration;

use adit_model::policing::{Policing, Sample, TICK, Verdict};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::firewall::{FirewallError, Table};

pub use crate::firewall::{Police, Source};

/// How often it is asked who exceeds the limit.
const CLIPPED_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is tried again to remove a table that an earlier daemon left, or that could not be removed.
const REMOVAL_INTERVAL: Duration = Duration::from_secs(1);

/// Sources that are told, those that send most.
const SHOWN: usize = 8;

/// A limit that holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policed {
    /// Packets per second of each source.
    pub limit: u64,
    /// Who exceeds it, the worst first.
    pub sources: Vec<Source>,
}

/// Removes what is left of a limit; succeeds when there is none.
///
/// # Errors
///
/// The table is there and cannot be removed.
pub async fn withdraw() -> Result<(), FirewallError> {
    Police::beside(&Table::default()).remove().await
}

/// Watches the socket at `port` until it is aborted, and tells in `policed` while it holds somebody back.
pub async fn keep(
    police: Police,
    port: watch::Receiver<Option<u16>>,
    policed: watch::Sender<Option<Policed>>,
) {
    let mut keeper = Keeper {
        police,
        port: None,
        policed,
        policing: Policing::default(),
        totals: Totals::default(),
        dropped: 0,
        clipped: 0,
        listed: Instant::now(),
        removal: Some(Instant::now()),
        began: Instant::now(),
    };
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let port = *port.borrow();
        keeper.follow(port);
        if let Some(port) = port
            && let Err(error) = keeper.look(port).await
        {
            tracing::debug!(%error, "cannot tell whether the tunnel's socket overflows");
        }
        keeper.clear().await;
    }
}

struct Keeper {
    police: Police,
    port: Option<u16>,
    policed: watch::Sender<Option<Policed>>,
    policing: Policing,
    /// When it last looked.
    totals: Totals,
    /// What the tunnel's socket had dropped then.
    dropped: u64,
    /// What had exceeded the limit when it was last asked.
    clipped: u64,
    listed: Instant,
    /// When to remove a table that may be there and should not.
    removal: Option<Instant>,
    began: Instant,
}

impl Keeper {
    /// A limit is one of a port: where the tunnel listens on another, it begins anew.
    fn follow(&mut self, port: Option<u16>) {
        if std::mem::replace(&mut self.port, port) == port || self.policing.limit().is_none() {
            return;
        }
        self.policing = Policing::default();
        // What another socket has lost is read anew.
        self.totals = Totals::default();
        self.policed.send_replace(None);
        self.removal = Some(Instant::now());
    }

    async fn look(&mut self, port: u16) -> io::Result<()> {
        let totals = Totals::read()?;
        // Sockets are looked through only when one of them has lost something.
        if totals.overflowed != self.totals.overflowed {
            self.dropped = dropped_at(port)?;
        }
        self.totals = totals;
        if self.policing.limit().is_some() && self.listed.elapsed() >= CLIPPED_INTERVAL {
            self.list().await;
        }
        let verdict = self.policing.handle_sample(Sample {
            at: self.began.elapsed(),
            delivered: totals.delivered,
            dropped: self.dropped,
            clipped: self.clipped,
        });
        match verdict {
            Verdict::Keep => {}
            Verdict::Limit(limit) => self.limit(port, limit).await,
            Verdict::Lift => {
                tracing::info!("nobody overloads the dataplane any more");
                self.policed.send_replace(None);
                self.removal = Some(Instant::now());
            }
        }
        Ok(())
    }

    async fn limit(&mut self, port: u16, limit: u64) {
        let known = self.policed.borrow().clone();
        let outcome = match &known {
            Some(_) => self.police.change(port, limit).await,
            None => {
                self.removal = None;
                self.clipped = 0;
                self.listed = Instant::now();
                self.police.begin(port, limit).await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "the dataplane is overloaded, and sources cannot be limited");
            return;
        }
        if known.is_none() {
            tracing::warn!(
                limit,
                "more arrives for the tunnel than the dataplane carries: each source is limited, in packets per second"
            );
        }
        let sources = known.map(|policed| policed.sources).unwrap_or_default();
        self.policed.send_replace(Some(Policed { limit, sources }));
    }

    async fn list(&mut self) {
        self.listed = Instant::now();
        let mut sources = match self.police.clipped().await {
            Ok(sources) => sources,
            Err(error) => {
                tracing::debug!(%error, "cannot list who exceeds the limit");
                return;
            }
        };
        self.clipped = sources.iter().map(|source| source.packets).sum();
        sources.sort_by_key(|source| Reverse(source.packets));
        sources.truncate(SHOWN);
        self.policed.send_modify(|policed| {
            if let Some(policed) = policed {
                policed.sources = sources;
            }
        });
    }

    async fn clear(&mut self) {
        if self.removal.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.removal = match self.police.remove().await {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(%error, "a limit of sources cannot be removed");
                Some(Instant::now() + REMOVAL_INTERVAL)
            }
        };
    }
}

/// Datagrams of all UDP sockets in this network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    delivered: u64,
    overflowed: u64,
}

impl Totals {
    fn read() -> io::Result<Self> {
        let text4 = fs::read_to_string("/proc/thread-self/net/snmp")?;
        let text6 = match fs::read_to_string("/proc/thread-self/net/snmp6") {
            Ok(text) => text,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        Ok(Self {
            delivered: field4(&text4, "InDatagrams") + field6(&text6, "Udp6InDatagrams"),
            overflowed: field4(&text4, "RcvbufErrors") + field6(&text6, "Udp6RcvbufErrors"),
        })
    }
}

/// Names and values of UDP are in a line each.
fn field4(text: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        return 0;
    };
    let mut fields = names.split(' ').zip(values.split(' '));
    fields
        .find(|(known, _)| *known == name)
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0)
}

fn field6(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .find(|(known, _)| *known == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

/// What sockets at this port had no room for.
fn dropped_at(port: u16) -> io::Result<u64> {
    let mut total = 0;
    for table in ["udp", "udp6"] {
        match fs::read_to_string(format!("/proc/thread-self/net/{table}")) {
            Ok(text) => {
                let lines = text.lines().skip(1);
                total += lines.filter_map(|line| drops_of(line, port)).sum::<u64>();
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

/// Number, local address and port are the first fields, drops are the last.
fn drops_of(line: &str, wanted: u16) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace();
    let (_, port) = fields.nth(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let drops = fields.last()?.parse().ok()?;
    (port == wanted).then_some(drops)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_counts() {
        let text = "Ip: Forwarding\nIp: 1\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors\n\
            Udp: 900 4 57 800 56\nUdpLite: InDatagrams\nUdpLite: 0\n";
        assert_eq!(field4(text, "InDatagrams"), 900);
        assert_eq!(field4(text, "RcvbufErrors"), 56);
        assert_eq!(field4("", "RcvbufErrors"), 0);
        let text = "Udp6InDatagrams                 \t12\nUdp6RcvbufErrors                \t3\n";
        assert_eq!(field6(text, "Udp6RcvbufErrors"), 3);
        let line = " 5697: 00000000:CA6C 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 7848233 2 \
            0000000065649b1a 3856    ";
        assert_eq!(drops_of(line, 51820), Some(3856));
        assert_eq!(drops_of(line, 53), None);
        assert_eq!(drops_of("sl local_address", 53), None);
    }

    #[test]
    fn this_kernel_counts_a_socket_that_overflows() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let before = Totals::read().unwrap();
        for _ in 0..2_000 {
            std::net::UdpSocket::bind("127.0.0.1:0")
                .and_then(|sender| sender.send_to(&[0; 512], address))
                .unwrap();
        }
        let dropped = dropped_at(address.port()).unwrap();
        assert!(dropped > 500, "{dropped}");
        let after = Totals::read().unwrap();
        assert!(after.overflowed >= before.overflowed + dropped);
    }
}
