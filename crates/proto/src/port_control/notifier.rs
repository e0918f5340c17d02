//! What clients are told without having asked: that state is lost, or that their mappings are others now.
//!
//! Everything goes to one client at a time: no AllowedIPs of a tunnel match a multicast address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::Transmit;
use crate::pcp::server::{Granted, Mapping, Refused, Target};
use crate::{nat_pmp, pcp};

/// How often an announcement is sent (RFC 6887 section 14.1.3, RFC 6886 section 3.2.1).
const ANNOUNCEMENTS: u32 = 10;

/// How often an announcement is sent at the least: who was answered may be one of several programs at its address.
const ANNOUNCED: u32 = 3;

/// How often an update is sent (RFC 6887 section 14.2).
const UPDATES: u32 = 3;

/// The time before the second of a kind, which doubles for each after it.
const FIRST_GAP: Duration = Duration::from_millis(250);

/// The time between what begins at once: thousands of mappings may be lost in one moment, and nobody's buffer holds thousands
/// of datagrams.
const PACE: Duration = Duration::from_micros(250);

/// An announcement to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// In PCP, with whether TLS names are offered.
    Pcp {
        /// Whether the capability option is sent along.
        hostnames: bool,
    },
    /// In NAT-PMP, with the external address.
    NatPmp(Ipv4Addr),
}

/// Repeats what has to be told until it was told often enough, or the client shows that it knows.
#[derive(Debug, Default)]
pub struct Notifier {
    notices: BTreeMap<u64, Notice>,
    schedule: BTreeSet<(Instant, u64)>,
    /// By client; few each.
    announcements: BTreeMap<IpAddr, BTreeSet<u64>>,
    /// There may be thousands for one client.
    updates: BTreeMap<Subject, u64>,
    last: u64,
    /// Before this nothing more begins.
    free: Option<Instant>,
}

/// Which mapping of whom an update is about: the client, its port, and the remote peer of an outbound one.
type Subject = (IpAddr, Target, Option<SocketAddr>);

#[derive(Debug)]
struct Notice {
    to: SocketAddr,
    what: What,
    sent: u32,
    due: Instant,
    /// Its client was answered since.
    is_heard: bool,
}

#[derive(Debug)]
enum What {
    Announcement(Announcement),
    Update(Box<Update>),
}

#[derive(Debug)]
struct Update {
    mapping: Mapping,
    outcome: Result<Granted, Refused>,
    since: Instant,
}

impl Notifier {
    /// Nothing to tell.
    pub fn new() -> Self {
        Self::default()
    }

    /// State was lost, or may be, or an external address changed, and the epoch began anew: tells a client. One that was being
    /// told something older is told this instead.
    pub fn announce(&mut self, to: SocketAddr, announcement: Announcement, now: Instant) {
        let same = |notice: &Notice| match (&notice.what, &announcement) {
            (What::Announcement(Announcement::Pcp { .. }), Announcement::Pcp { .. })
            | (What::Announcement(Announcement::NatPmp(_)), Announcement::NatPmp(_)) => {
                notice.to == to
            }
            (What::Announcement(_) | What::Update(_), _) => false,
        };
        self.forget_announcements(to.ip(), same);
        let id = self.begin(to, What::Announcement(announcement), now);
        self.announcements.entry(to.ip()).or_default().insert(id);
    }

    /// A mapping has another external address or port, or cannot stay: tells who made it, at the place of its last request.
    pub fn update(
        &mut self,
        to: SocketAddr,
        mapping: Mapping,
        outcome: Result<Granted, Refused>,
        now: Instant,
    ) {
        let subject = (to.ip(), mapping.target, mapping.remote);
        self.renewed(to.ip(), mapping.target, mapping.remote);
        let update = Update {
            mapping,
            outcome,
            since: now,
        };
        let id = self.begin(to, What::Update(Box::new(update)), now);
        self.updates.insert(subject, id);
    }

    /// A client was answered: the answer had the epoch, so few further announcements are needed.
    pub fn heard(&mut self, client: IpAddr) {
        let Some(ids) = self.announcements.get(&client) else {
            return;
        };
        for id in ids.clone() {
            let Some(notice) = self.notices.get_mut(&id) else {
                continue;
            };
            notice.is_heard = true;
            if notice.sent >= notice.times() {
                self.end(id);
            }
        }
    }

    /// A client renewed or deleted a mapping: it needs no further update about it.
    pub fn renewed(&mut self, client: IpAddr, target: Target, remote: Option<SocketAddr>) {
        if let Some(id) = self.updates.get(&(client, target, remote)) {
            self.end(*id);
        }
    }

    /// When [`Self::poll_transmit`] has something next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.schedule.first().map(|(at, _)| *at)
    }

    /// A datagram that is due, with the epoch of this moment; nothing when none is.
    pub fn poll_transmit(&mut self, epoch: u32, now: Instant) -> Option<Transmit> {
        loop {
            let (at, id) = self
                .schedule
                .first()
                .copied()
                .filter(|(at, _)| *at <= now)?;
            self.schedule.remove(&(at, id));
            let Some(notice) = self.notices.get_mut(&id) else {
                continue;
            };
            let datagram = notice.render(epoch, now);
            let to = notice.to;
            let gap = FIRST_GAP.saturating_mul(1 << notice.sent);
            notice.sent += 1;
            let is_last = notice.sent >= notice.times();
            if is_last || datagram.is_none() {
                self.end(id);
            } else {
                notice.due = now + gap;
                self.schedule.insert((notice.due, id));
            }
            if let Some(datagram) = datagram {
                return Some(Transmit { to, datagram });
            }
        }
    }

    fn begin(&mut self, to: SocketAddr, what: What, now: Instant) -> u64 {
        self.last += 1;
        let id = self.last;
        // What was told before and is told no more leaves its time to others.
        let pending = u32::try_from(self.notices.len()).unwrap_or(u32::MAX);
        let latest = now + PACE.saturating_mul(pending);
        let due = self.free.map_or(now, |free| free.clamp(now, latest));
        self.free = Some(due + PACE);
        let notice = Notice {
            to,
            what,
            sent: 0,
            due,
            is_heard: false,
        };
        self.notices.insert(id, notice);
        self.schedule.insert((due, id));
        id
    }

    fn end(&mut self, id: u64) {
        let Some(notice) = self.notices.remove(&id) else {
            return;
        };
        self.schedule.remove(&(notice.due, id));
        let client = notice.to.ip();
        match &notice.what {
            What::Announcement(_) => {
                if let Some(ids) = self.announcements.get_mut(&client) {
                    ids.remove(&id);
                    if ids.is_empty() {
                        self.announcements.remove(&client);
                    }
                }
            }
            What::Update(update) => {
                let subject = (client, update.mapping.target, update.mapping.remote);
                self.updates.remove(&subject);
            }
        }
    }

    fn forget_announcements(&mut self, client: IpAddr, is_told: impl Fn(&Notice) -> bool) {
        for id in self.announcements.get(&client).cloned().unwrap_or_default() {
            if self.notices.get(&id).is_some_and(&is_told) {
                self.end(id);
            }
        }
    }
}

impl Notice {
    fn times(&self) -> u32 {
        match self.what {
            What::Announcement(_) if self.is_heard => ANNOUNCED,
            What::Announcement(_) => ANNOUNCEMENTS,
            What::Update(_) => UPDATES,
        }
    }

    /// The datagram of this moment; nothing when the mapping has run out.
    fn render(&self, epoch: u32, now: Instant) -> Option<Vec<u8>> {
        match &self.what {
            What::Announcement(Announcement::Pcp { hostnames }) => {
                Some(pcp::server::announcement(*hostnames, epoch))
            }
            What::Announcement(Announcement::NatPmp(address)) => {
                Some(nat_pmp::server::announcement(*address, epoch))
            }
            What::Update(update) => {
                let passed = now.saturating_duration_since(update.since).as_secs();
                let passed = u32::try_from(passed).unwrap_or(u32::MAX);
                let outcome = match update.outcome {
                    // It was taken away, and stays so.
                    Ok(granted) if granted.lifetime == 0 => Ok(granted),
                    Ok(granted) => Ok(Granted {
                        lifetime: granted.lifetime.checked_sub(passed).filter(|it| *it > 0)?,
                        ..granted
                    }),
                    Err(refused) => Err(refused),
                };
                Some(update.mapping.update(&outcome, epoch))
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any point in time will do")]
mod tests {
    use std::num::NonZeroU16;

    use adit_model::protocol::Protocol;

    use super::*;
    use crate::pcp::wire::{Nonce, ResponseMessage};

    fn client() -> SocketAddr {
        "10.59.0.2:5350".parse().unwrap()
    }

    fn port() -> NonZeroU16 {
        NonZeroU16::new(8080).unwrap()
    }

    fn mapping() -> Mapping {
        Mapping {
            nonce: Nonce([7; 12]),
            target: Target::Port(Protocol::Tcp, port()),
            remote: None,
            third_party: None,
            prefer_failure: false,
            filters: Vec::new(),
            hostnames: Vec::new(),
        }
    }

    fn granted() -> Result<Granted, Refused> {
        Ok(Granted {
            external: "198.51.100.8".parse().unwrap(),
            port: Some(port()),
            lifetime: 100,
            ports: 1,
        })
    }

    /// The times at which something is sent, in milliseconds.
    fn times(notifier: &mut Notifier, start: Instant) -> Vec<u128> {
        let mut times = Vec::new();
        while let Some(at) = notifier.poll_timeout() {
            while notifier.poll_transmit(5, at).is_some() {
                times.push(at.duration_since(start).as_millis());
            }
        }
        times
    }

    #[test]
    fn announcement_is_sent_ten_times_with_doubling_gaps() {
        let start = Instant::now();
        let mut notifier = Notifier::new();
        notifier.announce(client(), Announcement::Pcp { hostnames: true }, start);
        let expected = [0, 250, 750, 1750, 3750, 7750, 15750, 31750, 63750, 127_750];
        assert_eq!(times(&mut notifier, start), expected);
        let address = Ipv4Addr::new(198, 51, 100, 8);
        notifier.announce(client(), Announcement::NatPmp(address), start);
        notifier.announce(client(), Announcement::Pcp { hostnames: true }, start);
        let soon = start + 3 * PACE;
        assert!(notifier.poll_transmit(5, soon).is_some());
        assert!(notifier.poll_transmit(5, soon).is_some());
        assert!(notifier.poll_transmit(5, soon).is_none());
    }

    #[test]
    fn announcement_is_sent_three_times_to_who_was_answered() {
        let start = Instant::now();
        let announce = |notifier: &mut Notifier| {
            notifier.announce(client(), Announcement::Pcp { hostnames: true }, start);
        };
        let mut notifier = Notifier::new();
        announce(&mut notifier);
        notifier.heard(client().ip());
        notifier.heard("10.59.0.3".parse().unwrap());
        assert_eq!(times(&mut notifier, start), [0, 250, 750]);
        announce(&mut notifier);
        for after in [0, 250, 750, 1750] {
            let at = start + Duration::from_millis(after);
            assert!(notifier.poll_transmit(5, at).is_some());
        }
        notifier.heard(client().ip());
        assert_eq!(notifier.poll_timeout(), None);
        announce(&mut notifier);
        assert_eq!(times(&mut notifier, start).len(), 10);
        assert!(notifier.notices.is_empty() && notifier.announcements.is_empty());
    }

    #[test]
    fn what_was_begun_again_and_again_does_not_wait_for_what_is_told_no_more() {
        let start = Instant::now();
        let mut notifier = Notifier::new();
        for _ in 0..100_000 {
            notifier.announce(client(), Announcement::Pcp { hostnames: true }, start);
        }
        let due = notifier.poll_timeout().unwrap();
        assert!(due <= start + PACE, "{:?}", due - start);
    }

    #[test]
    fn update_is_sent_three_times_unless_the_client_renews() {
        let start = Instant::now();
        let mut notifier = Notifier::new();
        notifier.update(client(), mapping(), granted(), start);
        assert_eq!(times(&mut notifier, start), [0, 250, 750]);
        notifier.update(client(), mapping(), granted(), start);
        notifier.heard(client().ip());
        assert_eq!(notifier.poll_timeout(), Some(start));
        notifier.renewed(client().ip(), mapping().target, None);
        assert_eq!(notifier.poll_timeout(), None);
    }

    #[test]
    fn what_is_lost_in_one_moment_is_told_one_by_one() {
        let start = Instant::now();
        let mut notifier = Notifier::new();
        let target = |port| Target::Port(Protocol::Tcp, NonZeroU16::new(port).unwrap());
        for port in 1..=1000 {
            let lost = Mapping {
                target: target(port),
                ..mapping()
            };
            notifier.update(client(), lost, granted(), start);
        }
        let mut count = |after: Duration| {
            let now = start + after;
            std::iter::from_fn(|| notifier.poll_transmit(5, now)).count()
        };
        assert_eq!(count(Duration::ZERO), 1);
        assert_eq!(count(Duration::from_millis(1)), 4);
        assert_eq!(count(Duration::from_millis(200)), 796);
        for port in 1..=1000 {
            notifier.renewed(client().ip(), target(port), None);
        }
        assert_eq!(notifier.poll_timeout(), None);
        assert!(notifier.updates.is_empty() && notifier.notices.is_empty());
    }

    #[test]
    fn update_tells_what_is_left_of_the_lifetime() {
        let start = Instant::now();
        let mut notifier = Notifier::new();
        notifier.update(client(), mapping(), granted(), start);
        let late = start + Duration::from_secs(60);
        let transmit = notifier.poll_transmit(9, late).unwrap();
        assert_eq!(transmit.to, client());
        let Some(ResponseMessage::Answer(answer)) = ResponseMessage::decode(&transmit.datagram)
        else {
            panic!("no answer");
        };
        assert_eq!((answer.lifetime, answer.epoch, answer.error), (40, 9, None));
        assert!(
            notifier
                .poll_transmit(9, start + Duration::from_secs(101))
                .is_none()
        );
        assert_eq!(notifier.poll_timeout(), None);
        let gone = granted().map(|it| Granted { lifetime: 0, ..it });
        notifier.update(client(), mapping(), gone, start);
        assert_eq!(times(&mut notifier, start), [0, 250, 750]);
    }
}
