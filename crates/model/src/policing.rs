//! How much each source may send to the tunnel's UDP port while more arrives there than the dataplane can carry.
//!
//! A userspace WireGuard reads all peers' packets from one socket. When its buffer is full the kernel drops whatever comes
//! next, so a device that sends more than is carried takes the others' share. Only then each source is held to a limit,
//! before the socket: it begins at half of what was carried, falls while packets are still dropped, rises again slowly, and
//! is gone when nobody exceeds it.

use std::time::Duration;

/// The nftables table that holds a limit; it is there only while there is one.
pub const TABLE: &str = "inet adit_police";

/// The sets of that table that count what exceeded the limit, by address and source port.
pub const CLIPPED: [&str; 2] = ["clipped4", "clipped6"];

/// How often a [`Sample`] is to be taken.
pub const TICK: Duration = Duration::from_millis(50);

/// A limit is at least this, in packets per second: ordinary use of a device is not cut where the dataplane gets no core.
const LOWEST: u64 = 2_000;

/// It begins at least at this, as the first tick is seldom overloaded from its beginning.
const FIRST: u64 = 4_000;

/// Fewer packets than this within a tick say nothing.
const FEW: u64 = 10;

/// So many ticks in succession have to lose a little before a limit begins; TCP backs off sooner.
const PERSISTENT: u32 = 3;

/// A limit that loses nobody anything is raised after this ...
const FIRST_PATIENCE: Duration = Duration::from_secs(1);

/// ... after this once it was found to be too high ...
const PATIENCE: Duration = Duration::from_secs(5);

/// ... and after at most this, when raising it went wrong again and again.
const LAST_PATIENCE: Duration = Duration::from_secs(60);

/// After a change of the limit the socket's buffer still holds what came before.
const SETTLING: Duration = Duration::from_millis(250);

/// Whether a limit is too high shows within this: a dataplane that waits for a core loses some packets all the same.
const WINDOW: Duration = Duration::from_millis(500);

/// A limit that nobody has exceeded for so long is lifted.
const UNNEEDED: Duration = Duration::from_secs(10);

/// How many times the limit of a session may come from one address: a household, or a provider's NAT.
const ADDRESS_SHARE: u64 = 4;

/// Totals that grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// When they were read, since any moment.
    pub at: Duration,
    /// Datagrams that were read from sockets.
    pub delivered: u64,
    /// Datagrams that the tunnel's socket had no room for.
    pub dropped: u64,
    /// Datagrams that exceeded the limit.
    pub clipped: u64,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it as it is.
    Keep,
    /// Hold every source to so many packets per second.
    Limit(u64),
    /// No limit any more.
    Lift,
}

/// The limit over time.
#[derive(Clone, Debug, Default)]
pub struct Policing {
    last: Option<Sample>,
    /// Ticks in succession in which packets were lost without a limit.
    losing: u32,
    limit: Option<Limit>,
}

#[derive(Clone, Debug)]
struct Limit {
    value: u64,
    /// When it was set.
    since: Duration,
    /// When somebody exceeded it last.
    exceeded: Duration,
    /// How long it is to hold before it is raised.
    patience: Duration,
    /// Where the present window begins.
    window: Sample,
}

impl Policing {
    /// The limit for each source in packets per second, while there is one.
    pub fn limit(&self) -> Option<u64> {
        self.limit.as_ref().map(|limit| limit.value)
    }

    /// Takes a sample; what it says to do is taken as done.
    pub fn handle_sample(&mut self, sample: Sample) -> Verdict {
        let Some(last) = self.last.replace(sample) else {
            return Verdict::Keep;
        };
        let tick = Loss::between(&last, &sample);
        if let Some(limit) = &mut self.limit {
            let verdict = limit.adapt(&last, &sample, tick);
            if verdict == Verdict::Lift {
                self.limit = None;
            }
            return verdict;
        }
        let is_losing = tick.dropped >= FEW && tick.dropped * 20 > tick.delivered;
        self.losing = if is_losing { self.losing + 1 } else { 0 };
        let is_severe = tick.dropped >= 10 * FEW && tick.dropped * 4 > tick.delivered;
        if !is_severe && self.losing < PERSISTENT {
            return Verdict::Keep;
        }
        self.losing = 0;
        let value = (tick.delivered_per_second() / 2).max(FIRST);
        self.limit = Some(Limit {
            value,
            since: sample.at,
            exceeded: sample.at,
            patience: FIRST_PATIENCE,
            window: sample,
        });
        Verdict::Limit(value)
    }
}

impl Limit {
    fn adapt(&mut self, last: &Sample, now: &Sample, tick: Loss) -> Verdict {
        if now.clipped != last.clipped {
            self.exceeded = now.at;
        }
        let held = now.at.saturating_sub(self.since);
        if held < SETTLING {
            self.window = *now;
            return Verdict::Keep;
        }
        let window = Loss::between(&self.window, now);
        let is_complete = now.at.saturating_sub(self.window.at) >= WINDOW;
        if is_complete {
            self.window = *now;
        }
        let is_severe = tick.dropped >= 5 * FEW && tick.dropped * 10 > tick.delivered;
        let is_losing = window.dropped >= FEW && window.dropped * 100 > window.delivered;
        if (is_severe || is_complete && is_losing) && self.value > LOWEST {
            self.patience = if held < self.patience + SETTLING {
                (self.patience * 2).clamp(PATIENCE, LAST_PATIENCE)
            } else {
                PATIENCE
            };
            let fitting =
                self.value * 9 / 10 * tick.delivered / (tick.delivered + tick.dropped).max(1);
            let lower = fitting.clamp(self.value / 10, self.value * 4 / 5);
            return self.set(now, lower.max(LOWEST));
        }
        if now.at.saturating_sub(self.exceeded) >= UNNEEDED {
            return Verdict::Lift;
        }
        if held >= self.patience {
            return self.set(now, self.value * 5 / 4);
        }
        Verdict::Keep
    }

    fn set(&mut self, now: &Sample, value: u64) -> Verdict {
        self.value = value;
        self.since = now.at;
        self.window = *now;
        Verdict::Limit(value)
    }
}

/// What happened between two samples.
#[derive(Clone, Copy, Debug)]
struct Loss {
    delivered: u64,
    dropped: u64,
    milliseconds: u64,
}

impl Loss {
    /// A socket that was made anew counts from zero.
    fn between(from: &Sample, to: &Sample) -> Self {
        let milliseconds = to.at.saturating_sub(from.at).as_millis();
        Self {
            delivered: to.delivered.saturating_sub(from.delivered),
            dropped: to.dropped.saturating_sub(from.dropped),
            milliseconds: u64::try_from(milliseconds).unwrap_or(u64::MAX).max(1),
        }
    }

    fn delivered_per_second(self) -> u64 {
        self.delivered * 1000 / self.milliseconds
    }
}

/// The script that makes the table, in place of one that is there.
///
/// A source is a WireGuard session, by the receiver's index that every data packet bears (WireGuard, 5.4.6), so that a
/// device with many ports and addresses is one. Besides, an address or an IPv6 /64 gets four times as much, whatever it sends.
pub fn render(port: u16, limit: u64) -> String {
    format!(
        r#"table {TABLE} {{}}
delete table {TABLE}
table {TABLE} {{
    comment "Adit: while more arrives than WireGuard can carry, each source is limited"

    set sessions {{ typeof @th,96,32; size 65536; flags dynamic,timeout; timeout 10s; }}
    set sources4 {{ type ipv4_addr; size 65536; flags dynamic,timeout; timeout 10s; }}
    set sources6 {{ type ipv6_addr; size 65536; flags dynamic,timeout; timeout 10s; }}
    set {clipped4} {{ type ipv4_addr . inet_service; size 1024; flags dynamic,timeout; timeout 1m; }}
    set {clipped6} {{ type ipv6_addr . inet_service; size 1024; flags dynamic,timeout; timeout 1m; }}

    chain arrive {{
        type filter hook prerouting priority raw; policy accept;
        meta l4proto udp udp dport {port} fib daddr type local goto police
    }}

    chain clip {{
        meta nfproto ipv4 update @{clipped4} {{ ip saddr . udp sport counter }}
        meta nfproto ipv6 update @{clipped6} {{ ip6 saddr . udp sport counter }}
        drop
    }}

    chain police {{
{rules}    }}
}}
"#,
        clipped4 = CLIPPED[0],
        clipped6 = CLIPPED[1],
        rules = render_rules("        ", limit),
    )
}

/// The script that sets another limit in the table. What the sources have used up is forgotten: nftables keeps the limit
/// with each of them.
pub fn render_limit(limit: u64) -> String {
    let mut text = String::new();
    for set in ["sessions", "sources4", "sources6"] {
        text.push_str(&format!("flush set {TABLE} {set}\n"));
    }
    text.push_str(&format!("flush chain {TABLE} police\n"));
    text.push_str(&render_rules(&format!("add rule {TABLE} police "), limit));
    text
}

/// The script that removes the table; it must be there.
pub fn render_removal() -> String {
    format!("delete table {TABLE}\n")
}

fn render_rules(lead: &str, limit: u64) -> String {
    let burst = (limit / 10).max(1);
    let (address, address_burst) = (limit * ADDRESS_SHARE, burst * ADDRESS_SHARE);
    format!(
        "{lead}@th,64,8 4 update @sessions {{ @th,96,32 limit rate over {limit}/second burst {burst} packets }} goto clip
{lead}meta nfproto ipv4 update @sources4 {{ ip saddr limit rate over {address}/second burst {address_burst} packets }} goto clip
{lead}meta nfproto ipv6 update @sources6 {{ ip6 saddr & ffff:ffff:ffff:ffff:: limit rate over {address}/second burst {address_burst} packets }} goto clip
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a second.
    const TICKS: u64 = 20;

    /// A socket that carries `capacity` packets per second, and sources that send as much as they are let.
    struct Line {
        policing: Policing,
        sample: Sample,
        capacity: u64,
        limit: Option<u64>,
        /// What was dropped at the socket.
        lost: u64,
        /// What one who sends a little lost in the mean, in parts of what it sent, times ticks.
        share_lost: f64,
        ticks: u64,
    }

    impl Line {
        fn new(capacity: u64) -> Self {
            Self {
                policing: Policing::default(),
                sample: Sample::default(),
                capacity,
                limit: None,
                lost: 0,
                share_lost: 0.0,
                ticks: 0,
            }
        }

        fn run(&mut self, seconds: u64, sources: &[u64]) {
            for _ in 0..seconds * TICKS {
                let limit = self.limit.unwrap_or(u64::MAX);
                let offered: u64 = sources.iter().sum::<u64>() / TICKS;
                let arriving: u64 = sources.iter().map(|rate| rate.min(&limit) / TICKS).sum();
                let delivered = arriving.min(self.capacity / TICKS);
                self.sample.at += TICK;
                self.sample.delivered += delivered;
                self.sample.dropped += arriving - delivered;
                self.sample.clipped += offered - arriving;
                self.lost += arriving - delivered;
                self.share_lost += (arriving - delivered) as f64 / arriving.max(1) as f64;
                self.ticks += 1;
                match self.policing.handle_sample(self.sample) {
                    Verdict::Keep => {}
                    Verdict::Limit(limit) => self.limit = Some(limit),
                    Verdict::Lift => self.limit = None,
                }
                assert_eq!(self.limit, self.policing.limit());
            }
        }
    }

    #[test]
    fn nobody_is_limited_while_everything_is_carried() {
        let mut line = Line::new(50_000);
        line.run(60, &[49_000, 500]);
        assert_eq!(line.limit, None);
    }

    #[test]
    fn a_single_burst_limits_nobody() {
        let mut line = Line::new(50_000);
        line.run(1, &[1_000]);
        // TCP that starts loses some hundreds of packets, and backs off.
        line.sample.dropped += 400;
        line.run(10, &[40_000]);
        assert_eq!(line.limit, None);
    }

    #[test]
    fn one_who_floods_costs_the_others_little() {
        let mut line = Line::new(50_000);
        line.run(1, &[200, 200]);
        line.share_lost = 0.0;
        line.ticks = 0;
        line.run(60, &[500_000, 200, 200]);
        let share = line.share_lost / line.ticks as f64;
        assert!(share < 0.01, "others lose {share:.4}");
        let limit = line.limit.expect("there is one");
        assert!((20_000..50_000).contains(&limit), "{limit}");
    }

    #[test]
    fn many_who_flood_together_are_held_to_what_is_carried() {
        let mut line = Line::new(50_000);
        line.run(10, &[20_000; 20]);
        let limit = line.limit.expect("there is one");
        assert!(limit <= 3_125, "{limit}");
        line.run(30, &[20_000; 20]);
        let share = line.share_lost / line.ticks as f64;
        assert!(share < 0.05, "others lose {share:.4}");
    }

    #[test]
    fn it_ends_soon_after_the_flood() {
        let mut line = Line::new(50_000);
        line.run(20, &[500_000, 200]);
        assert!(line.limit.is_some());
        line.run(11, &[200, 200]);
        assert_eq!(line.limit, None);
    }

    #[test]
    fn the_limit_follows_a_capacity_that_grows_again() {
        let mut line = Line::new(10_000);
        line.run(10, &[500_000, 200]);
        let low = line.limit.expect("there is one");
        assert!(low <= 10_000, "{low}");
        line.capacity = 50_000;
        line.run(600, &[500_000, 200]);
        let high = line.limit.expect("there is one");
        assert!(high > 2 * low, "{low} and then {high}");
    }

    #[test]
    fn a_socket_made_anew_is_no_trouble() {
        let mut policing = Policing::default();
        let sample = |at, delivered, dropped| Sample {
            at: TICK * at,
            delivered,
            dropped,
            clipped: 0,
        };
        assert_eq!(policing.handle_sample(sample(0, 900, 5_000)), Verdict::Keep);
        assert_eq!(policing.handle_sample(sample(1, 1_000, 0)), Verdict::Keep);
        assert_eq!(policing.limit(), None);
    }

    #[test]
    fn scripts_name_the_port_and_the_limit() {
        let table = render(51820, 12_345);
        assert!(table.contains("udp dport 51820 fib daddr type local"));
        assert!(table.contains("limit rate over 12345/second burst 1234 packets"));
        assert!(table.contains("ip saddr limit rate over 49380/second"));
        let change = render_limit(500);
        assert_eq!(
            change.lines().filter(|it| it.contains("add rule")).count(),
            3
        );
        assert!(change.contains("@th,96,32 limit rate over 500/second burst 50 packets"));
    }
}
