//! Doors for the fuzz targets: what reads bytes that come from outside, as functions of those bytes.

use std::net::SocketAddr;

use crate::coalesce::{Coalescer, Group, Offers};
use crate::device::sides::{Sent, Side, at, connected};
use crate::segment::Segments;
use crate::{socket, uapi, vnet};

/// What the interface hands over: a header for offloads, and a packet.
pub fn superpacket(bytes: &[u8]) {
    let Some((header, packet)) = bytes.split_first_chunk::<{ vnet::LENGTH }>() else {
        return;
    };
    if let Ok(header) = vnet::Header::decode(header) {
        cut(&header, packet);
    }
}

/// Packets from peers, each with its length before it; joined, and cut again, they have to be the same.
pub fn batch(bytes: &[u8]) {
    let packets = split(bytes);
    let mut coalescer = Coalescer::default();
    let offers = Offers {
        tcp: true,
        udp: true,
    };
    coalescer.coalesce(&packets, offers);
    let mut count = 0;
    for group in coalescer.groups() {
        let members: Vec<&[u8]> = coalescer
            .members(group)
            .filter_map(|at| packets.get(at).copied())
            .collect();
        assert_eq!(members.len(), group.len());
        count += members.len();
        compare(group, &members);
    }
    assert_eq!(count, packets.len());
}

/// Datagrams, each with its length before it, for a device that has a session with another one. The first byte says of each whether it
/// is a stranger's, a packet that the other device seals, or the one before with one byte changed.
pub fn datagrams(bytes: &[u8]) {
    let (alice, bob) = connected(at(0));
    let stranger = SocketAddr::from(([198, 51, 100, 1], 1));
    let mut sent: Vec<Sent> = Vec::new();
    for item in split(bytes) {
        let Some((kind, content)) = item.split_first() else {
            continue;
        };
        let next = match kind % 4 {
            0 => Some(Sent {
                from: stranger,
                to: bob.address,
                bytes: content.to_vec(),
            }),
            1 => alice.seal_for(at(1), &bob, content),
            2 => sent.last().cloned(),
            _ => sent.last().cloned().and_then(|sent| changed(sent, content)),
        };
        sent.extend(next);
    }
    let (packets, answers) = bob.receive(at(1), &sent);
    for packet in &packets {
        // Alice may send from 10.0.0.1 alone.
        assert_eq!(packet.first().map(|first| first >> 4), Some(4));
        assert_eq!(packet.get(12..16), Some(&[10, 0, 0, 1][..]));
    }
    // Nobody is told to speak to a stranger who has no keys, but for cookies and answers to handshakes, of which there are none.
    assert!(answers.iter().all(|answer| answer.to == alice.address));
    bob.tick(at(2));
}

/// A `set` request; what is answered to `get` afterwards has to lead to the same when it is set.
pub fn configuration(text: &str) {
    let first = Side::new(1);
    uapi::apply_text(&first.device, text);
    let answer = uapi::answer_text(&first.device);
    let second = Side::new(2);
    uapi::apply_text(&second.device, &answer);
    assert_eq!(*uapi::answer_text(&second.device), *answer);
}

/// What the kernel says beside a datagram.
pub fn ancillary(bytes: &[u8]) {
    socket::read_ancillary(bytes);
}

/// Pieces, each with its length before it.
fn split(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let (piece, rest) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

fn changed(mut sent: Sent, content: &[u8]) -> Option<Sent> {
    let [high, low, other, ..] = content else {
        return None;
    };
    let at = usize::from(u16::from_be_bytes([*high, *low]));
    *sent.bytes.get_mut(at)? ^= other;
    Some(sent)
}

fn compare(group: &Group, members: &[&[u8]]) {
    let Some(superheader) = members.first().and_then(|first| group.superheader(first)) else {
        assert_eq!(members.len(), 1);
        return;
    };
    let headers = superheader.bytes();
    let mut superpacket = headers.to_vec();
    for member in members {
        superpacket.extend(member.get(headers.len()..).unwrap_or_default());
    }
    let again = cut(&superheader.vnet, &superpacket);
    assert_eq!(again.len(), members.len());
    for (again, member) in again.iter().zip(members) {
        assert_eq!(comparable(again), comparable(member));
    }
}

fn cut(header: &vnet::Header, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut cut = Vec::new();
    if let Ok(mut segments) = Segments::new(header, packet) {
        loop {
            let mut buffer = vec![0; segments.next_length()];
            match segments.next_into(&mut buffer) {
                Some(length) => assert_eq!(length, buffer.len()),
                None => break,
            }
            cut.push(buffer);
        }
    }
    cut
}

/// Without the identification of what is never fragmented, which means nothing (RFC 6864 section 4.1), and without checksums, which are
/// right and have two ways to say zero.
fn comparable(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let is_v4 = packet.first().is_some_and(|first| first >> 4 == 4);
    let start = if is_v4 { 20 } else { 40 };
    let protocol = packet.get(if is_v4 { 9 } else { 6 });
    let at = start + if protocol == Some(&6) { 16 } else { 6 };
    let is_whole = is_v4 && packet.get(6).is_some_and(|flags| flags & 0x40 != 0);
    let blanks = [
        Some(at..at + 2),
        is_v4.then_some(10..12),
        is_whole.then_some(4..6),
    ];
    for blank in blanks.into_iter().flatten() {
        if let Some(bytes) = packet.get_mut(blank) {
            bytes.fill(0);
        }
    }
    packet
}
