//! Joins packets of a batch into superpackets, which cost the kernel as much as one packet each.
//!
//! What comes out is what the kernel's own receive offload would make: cut again, it is the same packets. Packets of a
//! connection stay in their order; those of different ones may pass each other.

mod flow;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU16;

use crate::checksum::Sum;
use crate::header::{Layout, Transport, Version, put};
use crate::vnet::{self, Checksum, Kind, Segmentation};

/// The longest IP packet with its headers, of both families.
const LONGEST: usize = 65_535;
/// The kernel takes at most so many datagrams as one (`UDP_MAX_SEGMENTS` of kernels before 6.9).
const MOST_DATAGRAMS: usize = 64;
/// So that one write has no more parts than the kernel takes.
pub(crate) const MOST_SEGMENTS: usize = 256;
const FLOWS: usize = 512;
const FENCES: usize = 64;
const NONE: u32 = u32::MAX;

/// What may be joined: as the device takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offers {
    pub tcp: bool,
    pub udp: bool,
}

/// Room for the groups of one batch, used again for the next.
#[derive(Debug)]
pub(crate) struct Coalescer {
    /// The last group of each flow, by a hash of the flow. Flows that meet in a slot push each other out, so that nobody
    /// can make it slow: then they are joined less. The hash has a key, so that nobody can do that to others.
    slots: Box<[Slot]>,
    /// For pairs of addresses the first group after a packet of which is not known what it belongs to, such as a fragment: what comes later
    /// must not pass it.
    fences: Box<[Slot]>,
    /// Whether this batch has any.
    is_fenced: bool,
    hasher: RandomState,
    /// The batch; slots of earlier ones are empty.
    batch: u64,
    groups: Vec<Group>,
    /// For each packet the next of its group.
    next: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    batch: u64,
    group: u32,
}

/// Packets that make one superpacket, or one that stays as it is.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    first: u32,
    last: u32,
    count: usize,
    /// Payload of all.
    payload: usize,
    /// Payload of each but the last.
    size: usize,
    layout: Option<Layout>,
    is_open: bool,
    /// Whether the checksum of the first packet has been looked at, and is right.
    is_verified: bool,
    /// Whether the last packet has PSH.
    is_pushed: bool,
}

/// The headers of a superpacket, and what the device has to be told of it.
#[derive(Debug)]
pub(crate) struct Superheader {
    pub vnet: vnet::Header,
    bytes: [u8; 100],
    length: usize,
}

impl Superheader {
    #[must_use]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Default for Coalescer {
    fn default() -> Self {
        let empty = Slot {
            batch: 0,
            group: NONE,
        };
        Self {
            slots: vec![empty; FLOWS].into(),
            fences: vec![empty; FENCES].into(),
            is_fenced: false,
            hasher: RandomState::new(),
            batch: 0,
            groups: Vec::new(),
            next: Vec::new(),
        }
    }
}

impl Coalescer {
    /// Finds what of a batch goes together. The packets stay as they are.
    pub(crate) fn coalesce(&mut self, packets: &[impl AsRef<[u8]>], offers: Offers) {
        self.batch += 1;
        self.is_fenced = false;
        self.groups.clear();
        self.next.clear();
        self.next.resize(packets.len(), NONE);
        for (index, packet) in (0..NONE).zip(packets) {
            self.take(packets, index, packet.as_ref(), offers);
        }
    }

    /// The groups of the last batch, in the order in which they are to be written.
    #[must_use]
    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Which packets of the batch are in a group, in their order.
    pub(crate) fn members(&self, group: &Group) -> impl Iterator<Item = usize> {
        let mut at = group.first;
        std::iter::from_fn(move || {
            let index = usize::try_from(at).ok()?;
            // Beyond the last packet there is none.
            at = *self.next.get(index)?;
            Some(index)
        })
    }

    fn take(&mut self, packets: &[impl AsRef<[u8]>], index: u32, packet: &[u8], offers: Offers) {
        let Some(layout) = Layout::of_plain(packet) else {
            self.groups.push(Group::alone(index));
            self.fence(packet);
            return;
        };
        let offered = match layout.transport {
            Transport::Tcp => offers.tcp,
            Transport::Udp => offers.udp,
        };
        if !offered {
            self.groups.push(Group::alone(index));
            return;
        }
        let fence = self.fence_before(&layout, packet);
        let hash = self.hasher.hash_one(flow::key(&layout, packet));
        let Some(slot) = slot_of(&mut self.slots, hash) else {
            self.groups.push(Group::alone(index));
            return;
        };
        if !flow::may_be_joined(&layout, packet) {
            // What comes later must not pass it.
            slot.batch = 0;
            self.groups.push(Group::alone(index));
            return;
        }
        let mut is_verified = false;
        if slot.batch == self.batch
            && slot.group >= fence
            && let Some(group) = usize::try_from(slot.group)
                .ok()
                .and_then(|at| self.groups.get_mut(at))
            && let Some(first) = packet_at(packets, group.first)
            && group.takes(first, &layout, packet)
        {
            is_verified = layout.is_intact(packet);
            if is_verified && group.verify(first) {
                if let Some(next) = usize::try_from(group.last)
                    .ok()
                    .and_then(|at| self.next.get_mut(at))
                {
                    *next = index;
                }
                group.add(index, &layout, packet);
                return;
            }
        }
        slot.batch = self.batch;
        slot.group = u32::try_from(self.groups.len()).unwrap_or(NONE);
        self.groups
            .push(Group::new(index, layout, packet, is_verified));
    }
}

impl Coalescer {
    fn fence(&mut self, packet: &[u8]) {
        let Some(addresses) = flow::concealing(packet) else {
            return;
        };
        let hash = self.hasher.hash_one(addresses);
        if let Some(fence) = slot_of(&mut self.fences, hash) {
            fence.batch = self.batch;
            fence.group = u32::try_from(self.groups.len()).unwrap_or(NONE);
            self.is_fenced = true;
        }
    }

    /// The first group that a packet may join.
    fn fence_before(&mut self, layout: &Layout, packet: &[u8]) -> u32 {
        if !self.is_fenced {
            return 0;
        }
        let hash = self.hasher.hash_one(layout.version.addresses(packet));
        match slot_of(&mut self.fences, hash) {
            Some(fence) if fence.batch == self.batch => fence.group,
            Some(_) | None => 0,
        }
    }
}

impl Group {
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn transport(&self) -> Option<Transport> {
        self.layout.map(|layout| layout.transport)
    }

    /// The headers of the superpacket that this group is, and where the payload begins in each of its packets; none when it is
    /// one packet. `first` is the first packet of the group.
    #[must_use]
    pub(crate) fn superheader(&self, first: &[u8]) -> Option<Superheader> {
        let layout = self.layout.filter(|_| self.count > 1)?;
        let length = layout.payload_start;
        let total = length + self.payload;
        let mut bytes = [0; 100];
        bytes
            .get_mut(..length)?
            .copy_from_slice(first.get(..length)?);
        let start = layout.transport_start;
        let after_network = total - start;
        match layout.version {
            Version::V4 => {
                put(&mut bytes, 2, &u16::try_from(total).ok()?.to_be_bytes());
                put(&mut bytes, 10, &[0, 0]);
                let sum = Sum::default().with(bytes.get(..start)?).finish();
                put(&mut bytes, 10, &sum);
            }
            Version::V6 => {
                let length = u16::try_from(after_network).ok()?;
                put(&mut bytes, 4, &length.to_be_bytes());
            }
        }
        match layout.transport {
            Transport::Tcp => {
                if self.is_pushed {
                    *bytes.get_mut(start + 13)? |= flow::PSH;
                }
            }
            Transport::Udp => {
                let length = u16::try_from(after_network).ok()?;
                put(&mut bytes, start + 4, &length.to_be_bytes());
            }
        }
        let at = layout.transport.checksum_offset();
        let sum = layout.pseudo_header(first, after_network).partial();
        put(&mut bytes, start + at, &sum);
        let vnet = vnet::Header {
            checksum: Some(Checksum {
                start: u16::try_from(start).ok()?,
                offset: u16::try_from(at).ok()?,
            }),
            segmentation: Some(Segmentation {
                kind: Kind::of(layout.version, layout.transport),
                size: NonZeroU16::new(u16::try_from(self.size).ok()?)?,
                headers: u16::try_from(length).ok()?,
            }),
        };
        Some(Superheader {
            vnet,
            bytes,
            length,
        })
    }

    fn alone(index: u32) -> Self {
        Self {
            first: index,
            last: index,
            count: 1,
            payload: 0,
            size: 0,
            layout: None,
            is_open: false,
            is_verified: false,
            is_pushed: false,
        }
    }

    fn new(index: u32, layout: Layout, packet: &[u8], is_verified: bool) -> Self {
        let size = packet.len() - layout.payload_start;
        let is_pushed = flow::is_pushed(&layout, packet);
        Self {
            payload: size,
            size,
            layout: Some(layout),
            is_open: !is_pushed,
            is_verified,
            is_pushed,
            ..Self::alone(index)
        }
    }

    /// Whether a packet goes on just where this group ends.
    fn takes(&self, first: &[u8], layout: &Layout, packet: &[u8]) -> bool {
        let size = packet.len() - layout.payload_start;
        let most = match layout.transport {
            Transport::Tcp => MOST_SEGMENTS,
            Transport::Udp => MOST_DATAGRAMS,
        };
        self.is_open
            && self.layout.as_ref() == Some(layout)
            && size <= self.size
            && self.count < most
            && layout.payload_start + self.payload + size <= LONGEST
            && flow::continues(layout, first, packet, self.count, self.payload)
    }

    fn verify(&mut self, first: &[u8]) -> bool {
        if !self.is_verified {
            self.is_verified = self.layout.is_some_and(|layout| layout.is_intact(first));
        }
        self.is_verified
    }

    fn add(&mut self, index: u32, layout: &Layout, packet: &[u8]) {
        let size = packet.len() - layout.payload_start;
        self.last = index;
        self.count += 1;
        self.payload += size;
        self.is_pushed = flow::is_pushed(layout, packet);
        self.is_open = !self.is_pushed && size == self.size;
    }
}

fn slot_of(slots: &mut [Slot], hash: u64) -> Option<&mut Slot> {
    let count = u64::try_from(slots.len()).ok()?;
    slots.get_mut(usize::try_from(hash.checked_rem(count)?).ok()?)
}

fn packet_at(packets: &[impl AsRef<[u8]>], index: u32) -> Option<&[u8]> {
    let packet = packets.get(usize::try_from(index).ok()?)?;
    Some(packet.as_ref())
}
