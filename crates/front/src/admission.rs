//! Who may have how much: connections in total and of a source, the process's files, and what is held for those who wait.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::table::Limits;

/// One in so many files is for nothing else.
const KEPT_FOR_DEVICES: u32 = 8;
/// Parts of the count by source, so that workers seldom want the same at once.
const PARTS: usize = 16;

#[derive(Debug)]
pub(crate) struct Admission {
    /// What the process may have for connections.
    files: u32,
    files_used: AtomicU32,
    limit: AtomicU32,
    per_source: AtomicU32,
    waiting_limit: AtomicUsize,
    total: AtomicU32,
    waiting: AtomicUsize,
    hasher: RandomState,
    sources: [Mutex<HashMap<Source, u32>>; PARTS],
}

/// An address of IPv4, or a /64 of IPv6, which is what one customer has at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Source(IpAddr);

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    source: Source,
    files: Files,
}

/// Files that the process may have, until it is dropped.
#[derive(Debug)]
pub(crate) struct Files {
    admission: Arc<Admission>,
    count: u32,
}

/// Bytes held for one who has not said yet where to.
#[derive(Debug)]
pub(crate) struct Held {
    admission: Arc<Admission>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    Total,
    Source,
}

impl Admission {
    pub(crate) fn new(files: u32) -> Arc<Self> {
        let admission = Self {
            files,
            files_used: AtomicU32::new(0),
            limit: AtomicU32::new(0),
            per_source: AtomicU32::new(0),
            waiting_limit: AtomicUsize::new(0),
            total: AtomicU32::new(0),
            waiting: AtomicUsize::new(0),
            hasher: RandomState::new(),
            sources: std::array::from_fn(|_| Mutex::default()),
        };
        admission.set(Limits::default());
        Arc::new(admission)
    }

    pub(crate) fn set(&self, limits: Limits) {
        let Limits {
            connections,
            per_source,
            waiting_bytes,
        } = limits;
        self.limit.store(connections, Ordering::Relaxed);
        self.per_source.store(per_source, Ordering::Relaxed);
        self.waiting_limit.store(waiting_bytes, Ordering::Relaxed);
    }

    /// A place, with one file.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Permit, Excess> {
        let files = self.spare_files(1).ok_or(Excess::Total)?;
        let limit = self.limit.load(Ordering::Relaxed);
        if self.total.fetch_add(1, Ordering::Relaxed) >= limit {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return Err(Excess::Total);
        }
        let source = Source::of(address);
        let mut sources = self.part(source);
        let count = sources.entry(source).or_insert(0);
        if *count >= self.per_source.load(Ordering::Relaxed) {
            if *count == 0 {
                sources.remove(&source);
            }
            self.total.fetch_sub(1, Ordering::Relaxed);
            return Err(Excess::Source);
        }
        *count += 1;
        drop(sources);
        Ok(Permit {
            admission: Arc::clone(self),
            source,
            files,
        })
    }

    /// Files for what can do without, or can be asked to wait: some are left for the devices of those who are admitted.
    pub(crate) fn spare_files(self: &Arc<Self>, count: u32) -> Option<Files> {
        self.take_files(count, self.files - self.files / KEPT_FOR_DEVICES)
    }

    fn take_files(self: &Arc<Self>, count: u32, limit: u32) -> Option<Files> {
        let used = self.files_used.fetch_add(count, Ordering::Relaxed);
        let files = Files {
            admission: Arc::clone(self),
            count,
        };
        (used + count <= limit).then_some(files)
    }

    /// Whether more is held for those who wait than may be.
    pub(crate) fn holds_too_much(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > self.waiting_limit.load(Ordering::Relaxed)
    }

    pub(crate) fn total(&self) -> u32 {
        self.total.load(Ordering::Relaxed)
    }

    fn part(&self, source: Source) -> MutexGuard<'_, HashMap<Source, u32>> {
        let hash = self.hasher.hash_one(source).to_ne_bytes();
        let part = usize::from(hash[0]) % PARTS;
        self.sources[part]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Bytes for this connection; none at first.
    pub(crate) fn hold(&self) -> Held {
        Held {
            admission: Arc::clone(&self.admission),
            bytes: 0,
        }
    }

    /// One more file, for the device's side; whether there is one.
    pub(crate) fn take_file(&mut self) -> bool {
        let taken = self.admission.take_files(1, self.admission.files);
        taken.is_some_and(|more| {
            self.files.merge(more);
            true
        })
    }
}

impl Files {
    fn merge(&mut self, mut more: Self) {
        self.count += std::mem::take(&mut more.count);
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let used = &self.admission.files_used;
        used.fetch_sub(self.count, Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut sources = self.admission.part(self.source);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
        drop(sources);
        self.admission.total.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Held {
    pub(crate) fn set(&mut self, bytes: usize) {
        let waiting = &self.admission.waiting;
        waiting.fetch_add(bytes, Ordering::Relaxed);
        waiting.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Source {
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(connections: u32, per_source: u32) -> Arc<Admission> {
        let admission = Admission::new(1000);
        admission.set(Limits {
            connections,
            per_source,
            waiting_bytes: 100,
        });
        admission
    }

    #[test]
    fn a_source_gets_no_more_than_its_share_and_all_no_more_than_there_is() {
        let admission = admission(3, 2);
        let admit = |address: &str| admission.admit(address.parse().unwrap());
        let first = admit("2001:db8::1").unwrap();
        let _second = admit("2001:db8::ffff:1").unwrap();
        assert_eq!(admit("2001:db8::2").unwrap_err(), Excess::Source);
        let _third = admit("2001:db8:0:1::1").unwrap();
        assert_eq!(admit("192.0.2.1").unwrap_err(), Excess::Total);
        drop(first);
        let fourth = admit("2001:db8::3").unwrap();
        assert_eq!(admission.total(), 3);
        drop(fourth);
        assert!(admit("::ffff:192.0.2.1").is_ok());
    }

    #[test]
    fn who_waits_has_one_file_and_leaves_some_for_the_devices_of_others() {
        let admission = Admission::new(16);
        let address = [192, 0, 2, 1].into();
        let mut permits: Vec<Permit> =
            std::iter::from_fn(|| admission.admit(address).ok()).collect();
        assert_eq!(permits.len(), 14);
        assert!(admission.spare_files(2).is_none());
        assert!(permits[0].take_file() && permits[1].take_file());
        assert!(!permits[2].take_file());
        // The place and both files.
        permits.remove(0);
        assert_eq!(admission.admit(address).unwrap_err(), Excess::Total);
        assert!(permits[1].take_file());
        drop(permits);
        assert_eq!(admission.files_used.load(Ordering::Relaxed), 0);
        assert!(admission.spare_files(14).is_some() && admission.spare_files(15).is_none());
    }

    #[test]
    fn nothing_is_remembered_of_who_is_gone() {
        let admission = admission(10, 0);
        assert_eq!(
            admission.admit([192, 0, 2, 1].into()).unwrap_err(),
            Excess::Source
        );
        admission.set(Limits::default());
        drop(admission.admit([192, 0, 2, 1].into()).unwrap());
        assert_eq!(admission.total(), 0);
        let remembered = admission
            .sources
            .iter()
            .map(|part| part.lock().unwrap().len());
        assert_eq!(remembered.sum::<usize>(), 0);
    }

    #[test]
    fn held_bytes_are_counted_until_they_are_dropped() {
        let admission = admission(10, 10);
        let permit = admission.admit([192, 0, 2, 1].into()).unwrap();
        let (mut first, mut second) = (permit.hold(), permit.hold());
        first.set(60);
        second.set(40);
        assert!(!admission.holds_too_much());
        second.set(41);
        assert!(admission.holds_too_much());
        drop(first);
        assert!(!admission.holds_too_much());
    }
}
