//! Looks for free ports: all that is in the way is walked through once, in the order of the ports.

use super::{Draft, Places, Site};
use crate::protocol::PortRange;

/// Places that are looked at before all ports are gone through: leases that lie side by side are many to pass by.
const FAR: u64 = 16;

/// How far they lie apart; odd, so that ports of both remainders are among them.
const FAR_APART: u64 = 10_007;

/// How many ports are looked at together.
const WINDOW: u32 = 256;

/// What is looked for, and the most of it that was found.
struct Search {
    count: u16,
    /// Of the first port by two, if one is wanted.
    remainder: Option<u16>,
    best: Option<PortRange>,
    places: Places,
}

impl Site<'_> {
    /// Looks for so many free ports in a row: first in some places far apart, which a place stands for among the ports that the
    /// device may have, then from that place on over all of them. Where there are not as many, it is for half of them, and so
    /// on. The first port has a remainder by two, if one is wanted.
    pub(in crate::decide) fn search(
        &self,
        draft: &Draft<'_>,
        count: u16,
        start: u64,
        remainder: Option<u16>,
    ) -> Option<PortRange> {
        let ranges = self.device.auto_port_ranges();
        let total = ranges.iter().map(|range| width(*range)).sum::<u64>().max(1);
        let start = start % total;
        let mut search = Search {
            count,
            remainder,
            best: None,
            places: Places::default(),
        };
        for number in 0..FAR {
            let (index, first) = nth(&ranges, (start + number * FAR_APART) % total)?;
            let range = ranges.get(index).and_then(|range| {
                let last = first.checked_add(count.saturating_sub(1))?;
                PortRange::new(first, last).filter(|_| last <= range.last())
            });
            let is_fit = |range: &PortRange| {
                search.fit(*range) == Some(*range) && self.obstacle(draft, *range).is_none()
            };
            if let Some(range) = range.filter(is_fit) {
                return Some(range);
            }
        }
        let (index, first) = nth(&ranges, start)?;
        let around = ranges.iter().cycle().skip(index).take(ranges.len() + 1);
        for (number, range) in around.enumerate() {
            let is_again = number == ranges.len();
            let span = PortRange::new(
                if number == 0 { first } else { range.first() },
                if is_again {
                    // What begins before the place may end after it.
                    range.last().min(first.saturating_add(count))
                } else {
                    range.last()
                },
            );
            let found = span.and_then(|span| self.walk(draft, span, &mut search));
            if found.is_some() {
                return found;
            }
        }
        search.best
    }

    /// As many ports of a span as are looked for; what is less is remembered.
    fn walk(&self, draft: &Draft<'_>, span: PortRange, search: &mut Search) -> Option<PortRange> {
        let last = u32::from(span.last());
        // Where free ports begin, and up to where it is known what is in the way.
        let mut free = u32::from(span.first());
        let mut next = free;
        while next <= last {
            let end = last.min(next + WINDOW - 1);
            let mut taken: Vec<PortRange> = match range(next, end) {
                Some(window) => self
                    .taken(draft, window, &search.places)
                    .map(|it| it.ports)
                    .collect(),
                None => Vec::new(),
            };
            taken.sort_unstable();
            for ports in taken {
                if let Some(found) = search.offer(free, u32::from(ports.first())) {
                    return Some(found);
                }
                free = free.max(u32::from(ports.last()) + 1);
            }
            if end < last && end + 1 > free + u32::from(search.count) {
                return search.offer(free, end + 1);
            }
            next = free.max(end + 1);
        }
        search.offer(free, last + 1)
    }
}

impl Search {
    /// Takes note of free ports from one on and before another.
    fn offer(&mut self, first: u32, end: u32) -> Option<PortRange> {
        let fit = self.fit(range(first, end.checked_sub(1)?)?)?;
        if width(fit) == u64::from(self.count) {
            return Some(fit);
        }
        if self.best.is_none_or(|best| width(best) < width(fit)) {
            self.best = Some(fit);
        }
        None
    }

    /// What of free ports is looked for.
    fn fit(&self, free: PortRange) -> Option<PortRange> {
        let is_other = (self.remainder).is_some_and(|remainder| free.first() % 2 != remainder);
        let first = free.first().checked_add(u16::from(is_other))?;
        let length = (u32::from(free.last()) + 1).checked_sub(first.into())?;
        let mut count = self.count;
        while u32::from(count) > length {
            count /= 2;
        }
        PortRange::new(first, first.checked_add(count.checked_sub(1)?)?)
    }
}

fn range(first: u32, last: u32) -> Option<PortRange> {
    PortRange::new(first.try_into().ok()?, last.try_into().ok()?)
}

fn width(range: PortRange) -> u64 {
    u64::from(range.last() - range.first()) + 1
}

/// The nth of the ports in ranges that do not overlap, and the range that it is of.
fn nth(ranges: &[PortRange], mut place: u64) -> Option<(usize, u16)> {
    for (index, range) in ranges.iter().enumerate() {
        if place < width(*range) {
            let first = range.first().checked_add(u16::try_from(place).ok()?)?;
            return Some((index, first));
        }
        place -= width(*range);
    }
    None
}
