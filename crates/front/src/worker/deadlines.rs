//! When somebody's time is over. Each kind of wait has one length, so those who came first end first.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Waits of a few lengths, each a queue.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    queues: Vec<(Duration, VecDeque<Deadline>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline {
    at: Instant,
    pub(super) key: usize,
    /// Of the connection that had the key then.
    pub(super) id: u64,
}

impl Deadlines {
    pub(super) fn add(&mut self, now: Instant, length: Duration, key: usize, id: u64) {
        let at = now + length;
        let deadline = Deadline { at, key, id };
        match self.queues.iter_mut().find(|(of, _)| *of == length) {
            Some((_, queue)) => queue.push_back(deadline),
            None => self.queues.push((length, [deadline].into())),
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        let firsts = self.queues.iter().filter_map(|(_, queue)| queue.front());
        firsts.map(|deadline| deadline.at).min()
    }

    /// One whose time is over.
    pub(super) fn take_over(&mut self, now: Instant) -> Option<Deadline> {
        let mut queues = self.queues.iter_mut();
        queues.find_map(|(_, queue)| queue.pop_front_if(|deadline| deadline.at <= now))
    }

    /// The one that waits the longest of those who wait this long.
    pub(super) fn take_oldest(&mut self, length: Duration) -> Option<Deadline> {
        let (_, queue) = self.queues.iter_mut().find(|(of, _)| *of == length)?;
        queue.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_are_due_come_out_and_no_others() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut deadlines = Deadlines::default();
        assert_eq!(deadlines.next(), None);
        for key in 0..3 {
            deadlines.add(at(key), Duration::from_secs(10), key as usize, key);
        }
        deadlines.add(at(3), Duration::from_secs(1), 7, 7);
        assert_eq!(deadlines.next(), Some(at(4)));
        assert_eq!(deadlines.take_over(at(3)), None);
        assert_eq!(deadlines.take_over(at(4)).unwrap().key, 7);
        let mut due = std::iter::from_fn(|| deadlines.take_over(at(11)));
        assert_eq!(due.by_ref().map(|due| due.key).collect::<Vec<_>>(), [0, 1]);
        let oldest = deadlines.take_oldest(Duration::from_secs(10));
        assert_eq!(oldest.unwrap().key, 2);
        assert_eq!(deadlines.next(), None);
    }
}
