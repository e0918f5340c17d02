//! Superpackets of all kinds, cut, beside the same packets made one by one.

use std::num::NonZeroU16;

use proptest::prelude::*;

use super::Segments;
use crate::packet::{Recipe, checksum, recipes};
use crate::vnet::{Checksum, Header, Kind, Segmentation};

pub(crate) fn cut(header: &Header, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(header, packet).unwrap();
    let mut cut = Vec::new();
    while segments.remaining() > 0 {
        let mut buffer = vec![0xaa; segments.next_length()];
        assert_eq!(segments.next_into(&mut buffer), Some(buffer.len()));
        cut.push(buffer);
    }
    cut
}

/// What the kernel would have sent itself.
fn expected(recipe: &Recipe, size: usize) -> Vec<Vec<u8>> {
    let mut chunks: Vec<&[u8]> = recipe.payload.chunks(size).collect();
    if chunks.is_empty() {
        chunks.push(&[]);
    }
    let last = chunks.len() - 1;
    let packets = chunks.iter().enumerate().map(|(index, payload)| {
        let mut flags = recipe.flags;
        if index > 0 {
            flags &= !0x80;
        }
        if index < last {
            flags &= !0x09;
        }
        Recipe {
            sequence: recipe.sequence.wrapping_add((index * size) as u32),
            id: recipe.id.wrapping_add(index as u16),
            flags,
            payload: payload.to_vec(),
            ..recipe.clone()
        }
        .packet()
    });
    packets.collect()
}

proptest! {
    #[test]
    fn packets_are_those_that_the_kernel_would_cut(
        recipe in recipes(0..20_000_usize),
        flags in any::<u8>(),
        size in 48..9000_u16,
    ) {
        // FIN and PSH go with the last, CWR with the first; SYN, RST and URG are never in a superpacket.
        let recipe = Recipe { flags: flags & 0xd9, ..recipe };
        let (header, packet) = recipe.superpacket(size);
        prop_assert_eq!(cut(&header, &packet), expected(&recipe, usize::from(size)));

        // The kernel may leave the sum out when it says that there is none to complete.
        let without = Header { checksum: None, ..header };
        prop_assert_eq!(cut(&without, &packet), expected(&recipe, usize::from(size)));
    }

    #[test]
    fn a_packet_that_is_not_finished_is_completed(recipe in recipes(0..1400_usize)) {
        let (header, packet) = recipe.superpacket(1);
        let header = Header { segmentation: None, ..header };
        let mut expected = recipe.packet();
        let at = recipe.transport_start() + if recipe.is_tcp { 16 } else { 6 };
        // As the kernel does it for all protocols alike.
        if expected[at..at + 2] == [0, 0] {
            expected[at..at + 2].copy_from_slice(&[0xff, 0xff]);
        }
        prop_assert_eq!(cut(&header, &packet), vec![expected]);
        prop_assert_eq!(cut(&Header::default(), &packet), vec![packet]);
    }

    #[test]
    fn packets_behind_extension_headers_are_cut_too(
        recipe in recipes(1..5000_usize).prop_filter("IPv6", |recipe| recipe.is_v6),
        size in 48..1400_u16,
    ) {
        let (mut header, plain) = recipe.superpacket(size);
        let protocol = plain[6];
        // Options for the destination: six bytes of padding.
        let mut packet = [&plain[..40], &[protocol, 0, 1, 4, 0, 0, 0, 0], &plain[40..]].concat();
        packet[6] = 60;
        header.checksum.as_mut().unwrap().start += 8;
        for packet in cut(&header, &packet) {
            prop_assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40, packet.len());
            let length = ((packet.len() - 48) as u32).to_be_bytes();
            let pseudo = [&packet[8..40], &[0, protocol], &length].concat();
            prop_assert_eq!(checksum(&[&pseudo, &packet[48..]]), 0);
        }
    }

    #[test]
    fn nothing_panics_whatever_the_header_says(
        packet in prop::collection::vec(any::<u8>(), 0..200),
        first in prop::sample::select(vec![0x45_u8, 0x46, 0x60, 0x00]),
        checksum in prop::option::of((0..300_u16, prop::sample::select(vec![6_u16, 16, 0, 0xffff]))),
        segmentation in prop::option::of((prop::sample::select(vec![Kind::Tcp4, Kind::Tcp6, Kind::Udp]), 1..100_u16)),
    ) {
        let mut packet = packet;
        if let Some(byte) = packet.first_mut() {
            *byte = first;
        }
        let header = Header {
            checksum: checksum.map(|(start, offset)| Checksum { start, offset }),
            segmentation: segmentation.map(|(kind, size)| Segmentation {
                kind,
                size: NonZeroU16::new(size).unwrap(),
                headers: 0,
            }),
        };
        if let Ok(mut segments) = Segments::new(&header, &packet) {
            let mut buffer = [0; 256];
            let mut count = segments.remaining();
            while segments.next_into(&mut buffer).is_some() {
                count -= 1;
                prop_assert_eq!(segments.remaining(), count);
            }
        }
    }

    #[test]
    fn headers_survive(bytes in any::<[u8; 10]>()) {
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
    }
}

#[test]
fn a_buffer_that_is_too_short_gets_nothing() {
    let recipe = Recipe {
        is_v6: false,
        is_tcp: true,
        port: 1,
        sequence: 1,
        id: 1,
        is_unfragmented: true,
        flags: 0x10,
        options: 0,
        payload: vec![1; 1000],
    };
    let (header, packet) = recipe.superpacket(600);
    let mut segments = Segments::new(&header, &packet).unwrap();
    assert_eq!(segments.next_into(&mut [0; 639]), None);
    assert_eq!(segments.remaining(), 2);
    assert_eq!(segments.next_into(&mut [0; 640]), Some(640));
    assert_eq!(segments.next_into(&mut [0; 640]), Some(440));
    assert_eq!(segments.next_into(&mut [0; 640]), None);
}

#[test]
fn a_datagram_whose_checksum_comes_to_zero_says_so() {
    let mut recipe = Recipe {
        is_v6: false,
        is_tcp: false,
        port: 1,
        sequence: 0,
        id: 1,
        is_unfragmented: true,
        flags: 0,
        options: 0,
        payload: vec![1; 600],
    };
    // What the first datagram's checksum comes to goes into it, so that it comes to nothing.
    let sum = recipe.packet()[26..28].to_vec();
    let word = !checksum(&[&sum, &[1, 1]]);
    recipe.payload[..2].copy_from_slice(&word.to_be_bytes());
    assert_eq!(recipe.packet()[26..28], [0xff, 0xff]);
    recipe.payload.extend([1; 400]);
    let (header, packet) = recipe.superpacket(600);
    assert_eq!(cut(&header, &packet), expected(&recipe, 600));
}
