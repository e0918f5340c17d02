//! Which packets belong to one connection, and which of them continue each other: what the kernel's receive offload asks, too.

use crate::header::{Layout, TCP, Transport, UDP, Version, number16, number32};

pub(super) const PSH: u8 = 0x08;
const ICMP_V6: u8 = 58;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const DONT_FRAGMENT: u8 = 0x40;

/// What tells flows apart; packets with other values here never go together.
pub(super) fn key<'a>(
    layout: &Layout,
    packet: &'a [u8],
) -> (Option<&'a [u8]>, Option<&'a [u8]>, u8) {
    let start = layout.transport_start;
    (
        layout.version.addresses(packet),
        packet.get(start..start + 4),
        layout.transport.protocol(),
    )
}

/// Both addresses of a packet that is not plain, but may be of TCP or UDP nevertheless.
pub(super) fn concealing(packet: &[u8]) -> Option<Option<&[u8]>> {
    let version = Version::of(packet)?;
    let may_conceal = match version {
        Version::V4 => [TCP, UDP].contains(packet.get(9)?),
        // Behind extension headers may be anything.
        Version::V6 => *packet.get(6)? != ICMP_V6,
    };
    may_conceal.then(|| version.addresses(packet))
}

/// Whether a packet may be a part of a superpacket at all.
pub(super) fn may_be_joined(layout: &Layout, packet: &[u8]) -> bool {
    let start = layout.transport_start;
    let has_payload = packet.len() > layout.payload_start;
    let is_plain = match layout.transport {
        Transport::Tcp => packet
            .get(start + 13)
            .is_some_and(|flags| flags & !(PSH | ECE) == ACK),
        // Without a checksum nothing says that it is intact, and cut again it would have one.
        Transport::Udp => number16(packet, start + 6) != Some(0),
    };
    has_payload && is_plain
}

pub(super) fn is_pushed(layout: &Layout, packet: &[u8]) -> bool {
    match layout.transport {
        Transport::Tcp => packet
            .get(layout.transport_start + 13)
            .is_some_and(|flags| flags & PSH != 0),
        Transport::Udp => false,
    }
}

/// Whether a packet is the next one after `count` packets with `payload` bytes, of which `first` is the first: then it has what
/// cutting the superpacket would give it.
pub(super) fn continues(
    layout: &Layout,
    first: &[u8],
    packet: &[u8],
    count: usize,
    payload: usize,
) -> bool {
    let same = |from: usize, to: usize| {
        first.get(from..to).is_some() && first.get(from..to) == packet.get(from..to)
    };
    let network = match layout.version {
        Version::V4 => {
            same(0, 2) && same(6, 10) && same(12, 20) && continues_id(first, packet, count)
        }
        Version::V6 => same(0, 4) && same(6, 40),
    };
    let start = layout.transport_start;
    let transport = match layout.transport {
        Transport::Tcp => {
            let expected = number32(first, start + 4)
                .zip(u32::try_from(payload).ok())
                .map(|(sequence, payload)| sequence.wrapping_add(payload));
            let flags = |packet: &[u8]| packet.get(start + 13).map(|flags| flags & !PSH);
            same(start, start + 4)
                && expected.is_some()
                && number32(packet, start + 4) == expected
                && same(start + 8, start + 13)
                && flags(first) == flags(packet)
                && same(start + 14, start + 16)
                && same(start + 18, layout.payload_start)
        }
        Transport::Udp => same(start, start + 4),
    };
    network && transport
}

/// Of packets that are never fragmented the identification means nothing: RFC 6864 section 4.1.
fn continues_id(first: &[u8], packet: &[u8], count: usize) -> bool {
    let atomic = first.get(6).is_some_and(|flags| flags & DONT_FRAGMENT != 0);
    let expected = number16(first, 4)
        .zip(u16::try_from(count).ok())
        .map(|(id, count)| id.wrapping_add(count));
    atomic || (expected.is_some() && number16(packet, 4) == expected)
}
