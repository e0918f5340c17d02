//! Who may have how much: connections and flows in total and of a source, the process's files, and what is held for those who wait.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::table::Limits;
use crate::worker::MOST_WORKERS;

/// One in so many files is for nothing else.
const KEPT_FOR_DEVICES: u32 = 8;
/// Flows that are known to be somebody's have one in so many files at the most, and so have all others together.
const FOR_FLOWS: u32 = 4;
/// What a /48 may have, in what a /64 may.
const SHARES_OF_A_NETWORK: u32 = 4;
/// Parts of the count by source, so that workers seldom want the same at once.
const PARTS: usize = 16;

#[derive(Debug)]
pub(crate) struct Admission {
    /// What the process may have for connections.
    files: u32,
    files_used: AtomicU32,
    connections: Places,
    /// Apart from the others, so that neither can take those of the other.
    flows: Places,
    unproven: AtomicU32,
    waiting_limit: AtomicUsize,
    waiting: AtomicUsize,
}

/// How many there are in total, and of each source.
#[derive(Debug, Default)]
struct Places {
    limit: AtomicU32,
    per_source: AtomicU32,
    total: AtomicU32,
    hasher: RandomState,
    sources: [Mutex<HashMap<Source, u32>>; PARTS],
}

/// Addresses that are taken to be one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    /// An address of IPv4, or a /64 of IPv6, which is what one customer has at least.
    Narrow(IpAddr),
    /// A /48 of IPv6, which is what many have.
    Wide(IpAddr),
}

/// What a place is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Connection,
    Flow,
}

/// The place of one connection, or of one flow, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Arc<Admission>,
    kind: Kind,
    address: IpAddr,
}

/// What one connection takes, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _place: Place,
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
            connections: Places::default(),
            flows: Places::default(),
            unproven: AtomicU32::new(0),
            waiting_limit: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        };
        admission.set(Limits::default());
        Arc::new(admission)
    }

    pub(crate) fn set(&self, limits: Limits) {
        let Limits {
            connections,
            flows,
            unproven,
            per_source,
            waiting_bytes,
        } = limits;
        self.connections.set(connections, per_source);
        self.flows
            .set(flows.min(self.files / FOR_FLOWS), per_source);
        let unproven = unproven.min(self.files / FOR_FLOWS / MOST_WORKERS);
        self.unproven.store(unproven, Ordering::Relaxed);
        self.waiting_limit.store(waiting_bytes, Ordering::Relaxed);
    }

    /// A place for a connection, with one file.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Permit, Excess> {
        let files = self.spare_files(1).ok_or(Excess::Total)?;
        let place = Place::take(self, Kind::Connection, address)?;
        Ok(Permit {
            _place: place,
            files,
        })
    }

    /// A place for a flow that is known to come from this address.
    pub(crate) fn admit_flow(self: &Arc<Self>, address: IpAddr) -> Result<Place, Excess> {
        Place::take(self, Kind::Flow, address)
    }

    /// How many flows of unknown origin each worker may have besides.
    pub(crate) fn unproven(&self) -> usize {
        self.unproven.load(Ordering::Relaxed) as usize
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

    /// Bytes for one who waits; none at first.
    pub(crate) fn hold(self: &Arc<Self>) -> Held {
        Held {
            admission: Arc::clone(self),
            bytes: 0,
        }
    }

    /// Whether more is held for those who wait than may be.
    pub(crate) fn holds_too_much(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > self.waiting_limit.load(Ordering::Relaxed)
    }

    /// Connections, those that wait included.
    pub(crate) fn connections(&self) -> u32 {
        self.connections.total.load(Ordering::Relaxed)
    }

    const fn places(&self, kind: Kind) -> &Places {
        match kind {
            Kind::Connection => &self.connections,
            Kind::Flow => &self.flows,
        }
    }
}

impl Places {
    fn set(&self, limit: u32, per_source: u32) {
        self.limit.store(limit, Ordering::Relaxed);
        self.per_source.store(per_source, Ordering::Relaxed);
    }

    fn take(&self, address: IpAddr) -> Result<(), Excess> {
        let limit = self.limit.load(Ordering::Relaxed);
        if self.total.fetch_add(1, Ordering::Relaxed) >= limit {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return Err(Excess::Total);
        }
        for (taken, source) in Source::all(address).enumerate() {
            if !self.take_of(source) {
                for source in Source::all(address).take(taken) {
                    self.give_back_of(source);
                }
                self.total.fetch_sub(1, Ordering::Relaxed);
                return Err(Excess::Source);
            }
        }
        Ok(())
    }

    fn give_back(&self, address: IpAddr) {
        for source in Source::all(address) {
            self.give_back_of(source);
        }
        self.total.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the source has not had its share.
    fn take_of(&self, source: Source) -> bool {
        let share = source.share(self.per_source.load(Ordering::Relaxed));
        let mut sources = self.part(source);
        let count = sources.get(&source).copied().unwrap_or(0);
        if count < share {
            sources.insert(source, count + 1);
        }
        count < share
    }

    fn give_back_of(&self, source: Source) {
        let mut sources = self.part(source);
        if let Some(count) = sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&source);
            }
        }
    }

    fn part(&self, source: Source) -> MutexGuard<'_, HashMap<Source, u32>> {
        let hash = self.hasher.hash_one(source).to_ne_bytes();
        let part = usize::from(hash[0]) % PARTS;
        self.sources[part]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn take(admission: &Arc<Admission>, kind: Kind, address: IpAddr) -> Result<Self, Excess> {
        admission.places(kind).take(address)?;
        Ok(Self {
            admission: Arc::clone(admission),
            kind,
            address,
        })
    }
}

impl Permit {
    /// Bytes for this connection; none at first.
    pub(crate) fn hold(&self) -> Held {
        self.files.admission.hold()
    }

    /// One more file, for the device's side; whether there is one.
    pub(crate) fn take_file(&mut self) -> bool {
        let admission = &self.files.admission;
        let taken = admission.take_files(1, admission.files);
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

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.places(self.kind).give_back(self.address);
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
    /// The widest first.
    fn all(address: IpAddr) -> impl Iterator<Item = Self> {
        let (wide, narrow) = match address.to_canonical() {
            IpAddr::V4(address) => (None, address.into()),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                let wide = Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).into();
                (Some(wide), Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
        };
        let wide = wide.map(Self::Wide);
        wide.into_iter().chain([Self::Narrow(narrow)])
    }

    const fn share(self, per_source: u32) -> u32 {
        match self {
            Self::Narrow(_) => per_source,
            Self::Wide(_) => per_source.saturating_mul(SHARES_OF_A_NETWORK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(connections: u32, per_source: u32) -> Arc<Admission> {
        let admission = Admission::new(1000);
        admission.set(Limits {
            connections,
            flows: connections,
            unproven: 2,
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
        assert_eq!(admission.connections(), 3);
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
        assert_eq!(admission.connections(), 0);
        let six = "2001:db8::1".parse().unwrap();
        drop((admission.admit(six), admission.admit_flow(six)));
        for places in [&admission.connections, &admission.flows] {
            let parts = places.sources.iter();
            let remembered = parts.map(|part| part.lock().unwrap().len());
            assert_eq!(remembered.sum::<usize>(), 0);
            assert_eq!(places.total.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn a_network_of_many_sources_leaves_places_for_others() {
        let admission = admission(100, 2);
        let admit = |network: u16, subnet: u16| {
            let address = Ipv6Addr::new(0x2001, 0xdb8, network, subnet, 0, 0, 0, 1);
            admission.admit(address.into())
        };
        let mut permits: Vec<Permit> = (0..20).filter_map(|subnet| admit(1, subnet).ok()).collect();
        assert_eq!(permits.len(), 8);
        assert_eq!(admit(1, 0).unwrap_err(), Excess::Source);
        assert_eq!(admission.connections(), 8);
        permits.push(admit(2, 0).unwrap());
        permits.push(admit(2, 0).unwrap());
        // Who has had its own share takes none of the network's.
        assert_eq!(admit(2, 0).unwrap_err(), Excess::Source);
        permits.extend((1..7).map(|subnet| admit(2, subnet).unwrap()));
        permits.remove(0);
        admit(1, 9).unwrap();
    }

    #[test]
    fn flows_and_connections_take_no_places_of_each_other() {
        let admission = admission(2, 2);
        let address = [192, 0, 2, 1].into();
        let _flows = [(); 2].map(|()| admission.admit_flow(address).unwrap());
        assert_eq!(admission.admit_flow(address).unwrap_err(), Excess::Total);
        let _permits = [(); 2].map(|()| admission.admit(address).unwrap());
        assert_eq!(admission.connections(), 2);
        // Of few files most are left to connections.
        let admission = Admission::new(64);
        let flows = std::iter::from_fn(|| admission.admit_flow(address).ok());
        assert_eq!(flows.collect::<Vec<_>>().len(), 16);
        assert_eq!(admission.unproven(), 2);
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
