//! What finds objects without looking at all of them. Kept along with the objects by `absorb`, and the same whatever order
//! they came in: sets of pairs, so that even a state that no decision made is indexed whole.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

use super::{
    Delegation, DelegationId, Device, DeviceId, Family, Forward, ForwardId, Lease, LeaseId,
    Opening, Pinhole, PinholeId, SubnetId,
};
use crate::key::PublicKey;
use crate::protocol::{PortRange, Protocol};

/// The classes of ranges by length: up to 1, 2, 4, … 65536 ports.
const CLASSES: usize = 17;

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    names: OrdSet<(String, DeviceId)>,
    keys: OrdSet<(PublicKey, DeviceId)>,
    members: OrdSet<(SubnetId, DeviceId)>,
    addresses: OrdSet<(SubnetId, Ipv4Addr, DeviceId)>,
    /// The addresses of devices again, those that follow each other joined.
    runs: Runs<SubnetId>,
    expiries: OrdSet<(u64, DeviceId)>,
    delegations: OrdSet<(DeviceId, DelegationId)>,
    prefixes: OrdSet<(IpAddr, IpAddr, DelegationId)>,
    /// The delegated IPv6 prefixes again, those that follow each other joined.
    prefix_runs: Runs<()>,
    forwards: OrdSet<(DeviceId, ForwardId)>,
    /// Forwards without a name, by their public ports.
    ports: Ranges<(), ForwardId>,
    /// Forwards with a name, by port.
    hostnames: OrdSet<(u16, String, ForwardId)>,
    pinholes: OrdSet<(DeviceId, PinholeId)>,
    leases: OrdSet<(DeviceId, LeaseId)>,
    /// Those of others, by the device that asked for them.
    asked: OrdSet<(DeviceId, LeaseId)>,
    /// How many ports each device has open by leases.
    leased: OrdMap<DeviceId, u32>,
    /// How many ports are kept for each device.
    kept: OrdMap<DeviceId, u32>,
    /// The leases whose ports are only kept, by the end of that.
    keeping: OrdSet<(DeviceId, u64, LeaseId)>,
    /// By their public ports: of this host, or of the device's own address.
    externals: Ranges<Option<DeviceId>, LeaseId>,
    internals: Ranges<(DeviceId, Family, Option<Protocol>), LeaseId>,
    endings: OrdSet<(u64, LeaseId)>,
}

/// Ranges of ports by group, the class of their length and their first port: ranges that hold a port start near below it.
#[derive(Clone, Debug)]
struct Ranges<G: Ord, I: Ord> {
    all: OrdSet<(G, u32, u16, I)>,
    /// How many there are of each class: most are of the first.
    counts: [usize; CLASSES],
}

/// Joined spans of numbers by group: the first of each, and its last.
#[derive(Clone, Debug)]
struct Runs<G: Ord>(OrdMap<(G, u128), u128>);

impl Index {
    pub(super) fn add_device(&mut self, device: &Device) {
        let Device {
            id, subnet, ipv4, ..
        } = *device;
        self.names.insert((device.name.clone(), id));
        self.keys.insert((device.public_key, id));
        self.members.insert((subnet, id));
        if self.holder(subnet, ipv4).is_none() {
            self.runs.take(subnet, number(ipv4), number(ipv4));
        }
        self.addresses.insert((subnet, ipv4, id));
        if let Some(expires) = device.expires {
            self.expiries.insert((expires, id));
        }
    }

    pub(super) fn remove_device(&mut self, device: &Device) {
        let Device {
            id, subnet, ipv4, ..
        } = *device;
        self.names.remove(&(device.name.clone(), id));
        self.keys.remove(&(device.public_key, id));
        self.members.remove(&(subnet, id));
        self.addresses.remove(&(subnet, ipv4, id));
        if self.holder(subnet, ipv4).is_none() {
            self.runs.release(subnet, number(ipv4), number(ipv4));
        }
        if let Some(expires) = device.expires {
            self.expiries.remove(&(expires, id));
        }
    }

    pub(super) fn add_delegation(&mut self, delegation: &Delegation) {
        let Delegation { id, device, prefix } = *delegation;
        self.delegations.insert((device, id));
        self.prefixes
            .insert((prefix.network(), prefix.broadcast(), id));
        if let IpNet::V6(net) = prefix {
            self.prefix_runs
                .take((), net.network().into(), net.broadcast().into());
        }
    }

    pub(super) fn remove_delegation(&mut self, delegation: &Delegation) {
        let Delegation { id, device, prefix } = *delegation;
        self.delegations.remove(&(device, id));
        self.prefixes
            .remove(&(prefix.network(), prefix.broadcast(), id));
        if let IpNet::V6(net) = prefix {
            self.prefix_runs
                .release((), net.network().into(), net.broadcast().into());
        }
    }

    pub(super) fn add_forward(&mut self, forward: &Forward) {
        self.forwards.insert((forward.device, forward.id));
        if let Some(hostname) = &forward.hostname {
            self.hostnames
                .insert((forward.port, hostname.clone(), forward.id));
        } else if let Some(ports) = forward.ports() {
            self.ports.insert((), ports, forward.id);
        }
    }

    pub(super) fn remove_forward(&mut self, forward: &Forward) {
        self.forwards.remove(&(forward.device, forward.id));
        if let Some(hostname) = &forward.hostname {
            self.hostnames
                .remove(&(forward.port, hostname.clone(), forward.id));
        } else if let Some(ports) = forward.ports() {
            self.ports.remove((), ports, forward.id);
        }
    }

    pub(super) fn add_pinhole(&mut self, pinhole: &Pinhole) {
        self.pinholes.insert((pinhole.device, pinhole.id));
    }

    pub(super) fn remove_pinhole(&mut self, pinhole: &Pinhole) {
        self.pinholes.remove(&(pinhole.device, pinhole.id));
    }

    pub(super) fn add_lease(&mut self, lease: &Lease) {
        self.leases.insert((lease.device, lease.id));
        self.asked
            .extend(lease.asking.map(|asking| (asking, lease.id)));
        self.endings.insert((lease.end(), lease.id));
        if let Some(ports) = lease.external_ports() {
            self.externals.insert(place_of(lease), ports, lease.id);
        }
        if let Some(ports) = lease.internal_ports() {
            self.internals.insert(side_of(lease), ports, lease.id);
        }
        match lease.kept {
            None => add_ports(&mut self.leased, lease),
            Some(until) => {
                add_ports(&mut self.kept, lease);
                self.keeping.insert((lease.device, until, lease.id));
            }
        }
    }

    pub(super) fn remove_lease(&mut self, lease: &Lease) {
        self.leases.remove(&(lease.device, lease.id));
        if let Some(asking) = lease.asking {
            self.asked.remove(&(asking, lease.id));
        }
        self.endings.remove(&(lease.end(), lease.id));
        if let Some(ports) = lease.external_ports() {
            self.externals.remove(place_of(lease), ports, lease.id);
        }
        if let Some(ports) = lease.internal_ports() {
            self.internals.remove(side_of(lease), ports, lease.id);
        }
        match lease.kept {
            None => remove_ports(&mut self.leased, lease),
            Some(until) => {
                remove_ports(&mut self.kept, lease);
                self.keeping.remove(&(lease.device, until, lease.id));
            }
        }
    }

    pub(super) fn leases_of(&self, device: DeviceId) -> impl DoubleEndedIterator<Item = LeaseId> {
        let pairs = self
            .leases
            .range((device, LeaseId(0))..=(device, LeaseId(u64::MAX)));
        pairs.map(|(_, id)| *id)
    }

    pub(super) fn leases_asked_by(&self, device: DeviceId) -> impl Iterator<Item = LeaseId> {
        let pairs = self
            .asked
            .range((device, LeaseId(0))..=(device, LeaseId(u64::MAX)));
        pairs.map(|(_, id)| *id)
    }

    pub(super) fn leased_ports(&self, device: DeviceId) -> u32 {
        self.leased.get(&device).copied().unwrap_or_default()
    }

    pub(super) fn kept_ports(&self, device: DeviceId) -> u32 {
        self.kept.get(&device).copied().unwrap_or_default()
    }

    /// The leases of a device whose ports are only kept, by the end of that.
    pub(super) fn leases_kept(&self, device: DeviceId) -> impl Iterator<Item = LeaseId> {
        let triples = self
            .keeping
            .range((device, 0, LeaseId(0))..=(device, u64::MAX, LeaseId(u64::MAX)));
        triples.map(|(.., id)| *id)
    }

    /// The leases whose public ports may meet a range, and few others.
    pub(super) fn leases_on(
        &self,
        place: Option<DeviceId>,
        ports: PortRange,
    ) -> impl Iterator<Item = LeaseId> {
        self.externals
            .near(place, ports, LeaseId(0), LeaseId(u64::MAX))
    }

    /// The leases whose ports on the device may meet a range, and few others.
    pub(super) fn leases_at(
        &self,
        side: (DeviceId, Family, Option<Protocol>),
        ports: PortRange,
    ) -> impl Iterator<Item = LeaseId> {
        self.internals
            .near(side, ports, LeaseId(0), LeaseId(u64::MAX))
    }

    /// The leases of a device in one family and protocol.
    pub(super) fn leases_by(
        &self,
        side: (DeviceId, Family, Option<Protocol>),
    ) -> impl Iterator<Item = LeaseId> {
        let all = PortRange::new(1, u16::MAX);
        all.into_iter()
            .flat_map(move |all| self.leases_at(side, all))
    }

    /// The leases that end from one time to another.
    pub(super) fn leases_ending(&self, from: u64, until: u64) -> impl Iterator<Item = LeaseId> {
        let pairs = (from <= until).then(|| {
            self.endings
                .range((from, LeaseId(0))..=(until, LeaseId(u64::MAX)))
        });
        pairs.into_iter().flatten().map(|(_, id)| *id)
    }

    pub(super) fn device_named(&self, name: &str) -> Option<DeviceId> {
        let mut from = self.names.range((name.to_owned(), DeviceId(0))..);
        from.next().filter(|(it, _)| it == name).map(|(_, id)| *id)
    }

    pub(super) fn devices_named(&self, name: &str) -> impl Iterator<Item = DeviceId> {
        let last = (name.to_owned(), DeviceId(u64::MAX));
        let pairs = self.names.range((name.to_owned(), DeviceId(0))..=last);
        pairs.map(|(_, id)| *id)
    }

    pub(super) fn devices_with_key(&self, key: PublicKey) -> impl Iterator<Item = DeviceId> {
        let pairs = self
            .keys
            .range((key, DeviceId(0))..=(key, DeviceId(u64::MAX)));
        pairs.map(|(_, id)| *id)
    }

    pub(super) fn devices_of(&self, subnet: SubnetId) -> impl DoubleEndedIterator<Item = DeviceId> {
        let pairs = self
            .members
            .range((subnet, DeviceId(0))..=(subnet, DeviceId(u64::MAX)));
        pairs.map(|(_, id)| *id)
    }

    /// The devices whose addresses lie in a span, in the order of their addresses.
    pub(super) fn devices_in(
        &self,
        subnet: SubnetId,
        addresses: RangeInclusive<Ipv4Addr>,
    ) -> impl Iterator<Item = (Ipv4Addr, DeviceId)> {
        let (first, last) = addresses.into_inner();
        let triples = (first <= last).then(|| {
            self.addresses
                .range((subnet, first, DeviceId(0))..=(subnet, last, DeviceId(u64::MAX)))
        });
        triples
            .into_iter()
            .flatten()
            .map(|(_, address, id)| (*address, *id))
    }

    /// The last of the taken addresses that follow one another from this one on.
    pub(super) fn end_of_devices(&self, subnet: SubnetId, ipv4: Ipv4Addr) -> Option<Ipv4Addr> {
        let end = self.runs.end(subnet, number(ipv4))?;
        u32::try_from(end).ok().map(Ipv4Addr::from)
    }

    /// The devices that expire after one time and not after another.
    pub(super) fn expiring(&self, after: u64, until: u64) -> impl Iterator<Item = DeviceId> {
        let pairs = (after < until).then(|| {
            self.expiries
                .range((after + 1, DeviceId(0))..=(until, DeviceId(u64::MAX)))
        });
        pairs.into_iter().flatten().map(|(_, id)| *id)
    }

    /// The first expiry after a time.
    pub(super) fn next_expiry(&self, after: u64) -> Option<u64> {
        let after = after.checked_add(1)?;
        let device = self.expiries.range((after, DeviceId(0))..).next();
        let lease = self.endings.range((after, LeaseId(0))..).next();
        let times = device.map(|(time, _)| *time).into_iter();
        times.chain(lease.map(|(time, _)| *time)).min()
    }

    pub(super) fn delegations_of(
        &self,
        device: DeviceId,
    ) -> impl DoubleEndedIterator<Item = DelegationId> {
        let pairs = self
            .delegations
            .range((device, DelegationId(0))..=(device, DelegationId(u64::MAX)));
        pairs.map(|(_, id)| *id)
    }

    /// The delegations that meet a span of addresses, in the order of their prefixes; those that begin before the span are
    /// found because delegations do not overlap.
    pub(super) fn delegations_in(
        &self,
        first: IpAddr,
        last: IpAddr,
    ) -> impl Iterator<Item = DelegationId> {
        let before = self
            .prefixes
            .range(..(first, first, DelegationId(0)))
            .next_back()
            .filter(move |(_, end, _)| *end >= first);
        let inside = self
            .prefixes
            .range((first, first, DelegationId(0))..)
            .take_while(move |(start, ..)| *start <= last);
        before.into_iter().chain(inside).map(|(_, _, id)| *id)
    }

    /// The last address of the delegated prefixes that follow one another from this address on.
    pub(super) fn end_of_delegations(&self, address: u128) -> Option<u128> {
        self.prefix_runs.end((), address)
    }

    pub(super) fn forwards_of(
        &self,
        device: DeviceId,
    ) -> impl DoubleEndedIterator<Item = ForwardId> {
        let pairs = self
            .forwards
            .range((device, ForwardId(0))..=(device, ForwardId(u64::MAX)));
        pairs.map(|(_, id)| *id)
    }

    /// The forwards with a name on a port of a range, by port and name.
    pub(super) fn named_on(&self, ports: PortRange) -> impl Iterator<Item = ForwardId> {
        let first = (ports.first(), String::new(), ForwardId(0));
        let triples = self.hostnames.range(first..);
        triples
            .take_while(move |(port, ..)| *port <= ports.last())
            .map(|(_, _, id)| *id)
    }

    /// The forwards with this name on a port.
    pub(super) fn named(&self, port: u16, hostname: &str) -> impl Iterator<Item = ForwardId> {
        let of = |id| (port, hostname.to_owned(), ForwardId(id));
        let triples = self.hostnames.range(of(0)..=of(u64::MAX));
        triples.map(|(_, _, id)| *id)
    }

    /// The forwards without a name whose public ports may meet a range, and few others.
    pub(super) fn forwards_near(&self, ports: PortRange) -> impl Iterator<Item = ForwardId> {
        self.ports
            .near((), ports, ForwardId(0), ForwardId(u64::MAX))
    }

    pub(super) fn pinholes_of(
        &self,
        device: DeviceId,
    ) -> impl DoubleEndedIterator<Item = PinholeId> {
        let pairs = self
            .pinholes
            .range((device, PinholeId(0))..=(device, PinholeId(u64::MAX)));
        pairs.map(|(_, id)| *id)
    }

    fn holder(&self, subnet: SubnetId, ipv4: Ipv4Addr) -> Option<DeviceId> {
        let mut devices = self.devices_in(subnet, ipv4..=ipv4);
        devices.next().map(|(_, id)| id)
    }
}

fn number(address: Ipv4Addr) -> u128 {
    u32::from(address).into()
}

fn add_ports(ports: &mut OrdMap<DeviceId, u32>, lease: &Lease) {
    *ports.entry(lease.device).or_default() += u32::from(lease.weight());
}

fn remove_ports(ports: &mut OrdMap<DeviceId, u32>, lease: &Lease) {
    let counted = ports.get(&lease.device).copied().unwrap_or_default();
    match counted.saturating_sub(lease.weight().into()) {
        0 => ports.remove(&lease.device),
        left => ports.insert(lease.device, left),
    };
}

const fn place_of(lease: &Lease) -> Option<DeviceId> {
    match lease.opening {
        Opening::Forward | Opening::Outbound => None,
        Opening::Pinhole => Some(lease.device),
    }
}

const fn side_of(lease: &Lease) -> (DeviceId, Family, Option<Protocol>) {
    (lease.device, lease.family, lease.protocol)
}

impl<G: Ord + Copy, I: Ord + Copy> Ranges<G, I> {
    fn insert(&mut self, group: G, ports: PortRange, id: I) {
        let class = class(ports);
        let before = self.all.insert((group, class, ports.first(), id));
        if before.is_none() {
            self.count(class, 1);
        }
    }

    fn remove(&mut self, group: G, ports: PortRange, id: I) {
        let class = class(ports);
        let before = self.all.remove(&(group, class, ports.first(), id));
        if before.is_some() {
            self.count(class, -1);
        }
    }

    fn count(&mut self, class: u32, change: isize) {
        if let Some(count) = self.counts.get_mut(class as usize) {
            *count = count.saturating_add_signed(change);
        }
    }

    /// Those that may meet a range, and few others; the least and the greatest id that can be.
    fn near(&self, group: G, ports: PortRange, least: I, greatest: I) -> impl Iterator<Item = I> {
        let classes = (0_u32..).zip(&self.counts);
        let present = classes.filter(|(_, count)| **count > 0);
        present.flat_map(move |(class, _)| {
            let longest = u16::try_from((1_u32 << class) - 1).unwrap_or(u16::MAX);
            let first = ports.first().saturating_sub(longest);
            let found = (self.all)
                .range((group, class, first, least)..=(group, class, ports.last(), greatest));
            found.map(|(.., id)| *id)
        })
    }
}

impl<G: Ord, I: Ord> Default for Ranges<G, I> {
    fn default() -> Self {
        Self {
            all: OrdSet::new(),
            counts: [0; CLASSES],
        }
    }
}

fn class(ports: PortRange) -> u32 {
    let count = u32::from(ports.last()) - u32::from(ports.first()) + 1;
    count.next_power_of_two().trailing_zeros()
}

impl<G: Ord> Default for Runs<G> {
    fn default() -> Self {
        Self(OrdMap::new())
    }
}

impl<G: Ord + Copy> Runs<G> {
    /// Takes what is free.
    fn take(&mut self, group: G, first: u128, last: u128) {
        let (mut first, mut last) = (first, last);
        if let Some((start, end)) = self.before(group, first)
            && end.checked_add(1) >= Some(first)
        {
            self.0.remove(&(group, start));
            (first, last) = (start, last.max(end));
        }
        if let Some(next) = last.checked_add(1)
            && let Some(end) = self.0.remove(&(group, next))
        {
            last = end;
        }
        self.0.insert((group, first), last);
    }

    /// Releases what is taken.
    fn release(&mut self, group: G, first: u128, last: u128) {
        let Some((start, end)) = self.before(group, first).filter(|(_, end)| *end >= last) else {
            return;
        };
        self.0.remove(&(group, start));
        if start < first {
            self.0.insert((group, start), first - 1);
        }
        if last < end {
            self.0.insert((group, last + 1), end);
        }
    }

    /// The last number of the run that a number lies in.
    fn end(&self, group: G, number: u128) -> Option<u128> {
        let (_, end) = self.before(group, number)?;
        (end >= number).then_some(end)
    }

    /// The last run that begins at a number or before it.
    fn before(&self, group: G, number: u128) -> Option<(u128, u128)> {
        let mut runs = self.0.range((group, 0)..=(group, number));
        runs.next_back().map(|((_, start), end)| (*start, *end))
    }
}
