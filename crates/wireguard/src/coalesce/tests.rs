//! Batches of packets, joined and cut again.

use proptest::prelude::*;

use super::{Coalescer, Offers};
use crate::packet::{ACK, PSH, Recipe, recipes, reseal};
use crate::segment::tests::cut;
use crate::vnet::Kind;

const ALL: Offers = Offers {
    tcp: true,
    udp: true,
};

/// What the kernel is given, cut as it would: for each packet its bytes.
fn joined_and_cut(coalescer: &mut Coalescer, batch: &[Vec<u8>]) -> (Vec<Vec<u8>>, Vec<usize>) {
    coalescer.coalesce(batch, ALL);
    let mut packets = Vec::new();
    let mut lengths = Vec::new();
    for group in coalescer.groups() {
        let members: Vec<&Vec<u8>> = coalescer.members(group).map(|at| &batch[at]).collect();
        assert_eq!(members.len(), group.len());
        lengths.push(group.len());
        let Some(superheader) = group.superheader(members[0]) else {
            assert_eq!(members.len(), 1);
            packets.push(members[0].clone());
            continue;
        };
        let headers = superheader.bytes();
        let mut superpacket = headers.to_vec();
        for member in members {
            superpacket.extend(&member[headers.len()..]);
        }
        packets.extend(cut(&superheader.vnet, &superpacket));
    }
    (packets, lengths)
}

/// Packets of one connection that follow each other, of `size` bytes each but the last.
fn train(recipe: &Recipe, size: usize) -> Vec<Vec<u8>> {
    let (header, packet) = recipe.superpacket(size as u16);
    cut(&header, &packet)
}

/// The two ports and the addresses.
fn flow(packet: &[u8]) -> Vec<u8> {
    match packet.first().map_or(0, |byte| byte >> 4) {
        4 if packet.len() >= 24 => [&packet[9..10], &packet[12..24]].concat(),
        6 if packet.len() >= 44 => [&packet[6..7], &packet[8..44]].concat(),
        _ => Vec::new(),
    }
}

/// Of packets that are never fragmented it means nothing, so that it may become another: RFC 6864 section 4.1.
fn without_identification(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet.len() >= 20 && packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

#[derive(Debug, Clone)]
enum Damage {
    None,
    Flip(usize),
    Truncate(usize),
    Lengthen,
    Drop,
    Swap,
    Repeat,
    Push,
    Change(usize, u8),
    Fragment,
}

fn damages() -> impl Strategy<Value = Damage> {
    prop_oneof![
        12 => Just(Damage::None),
        1 => (0..1000_usize).prop_map(Damage::Flip),
        1 => (0..200_usize).prop_map(Damage::Truncate),
        1 => Just(Damage::Lengthen),
        1 => Just(Damage::Drop),
        1 => Just(Damage::Swap),
        1 => Just(Damage::Repeat),
        1 => Just(Damage::Push),
        3 => (0..80_usize, 1..=255_u8).prop_map(|(at, bits)| Damage::Change(at, bits)),
        1 => Just(Damage::Fragment),
    ]
}

fn damaged(trains: Vec<Vec<Vec<u8>>>, order: &[usize], damages: &[Damage]) -> Vec<Vec<u8>> {
    let mut trains: Vec<_> = trains.into_iter().map(Vec::into_iter).collect();
    let mut batch: Vec<Vec<u8>> = Vec::new();
    for (pick, damage) in order.iter().zip(damages) {
        let count = trains.len();
        let Some(mut packet) = trains[pick % count].next() else {
            continue;
        };
        match damage {
            Damage::None => {}
            Damage::Flip(at) => {
                let at = at % packet.len();
                packet[at] ^= 0x10;
            }
            Damage::Truncate(length) => packet.truncate(*length),
            Damage::Lengthen => packet.push(0),
            Damage::Drop => continue,
            Damage::Swap => {
                let at = batch.len().saturating_sub(1);
                batch.insert(at, packet);
                continue;
            }
            Damage::Repeat => batch.push(packet.clone()),
            Damage::Push if flow(&packet).first() == Some(&6) => {
                let flags = if packet[0] == 0x45 { 33 } else { 53 };
                packet[flags] |= PSH;
                reseal(&mut packet);
            }
            Damage::Push => {}
            // Intact, but not what came before.
            Damage::Change(at, bits) => {
                let at = at % packet.len();
                packet[at] ^= bits;
                reseal(&mut packet);
            }
            Damage::Fragment if packet[0] == 0x45 => packet[6] |= 0x20,
            Damage::Fragment => {}
        }
        batch.push(packet);
    }
    batch
}

proptest! {
    #[test]
    fn what_was_cut_is_joined_again(recipe in recipes(1..60_000_usize), size in 400..9000_usize, is_pushed in any::<bool>()) {
        let flags = if is_pushed && recipe.is_tcp { ACK | PSH } else { ACK };
        let recipe = Recipe { flags, ..recipe };
        let batch = train(&recipe, size);
        let (packets, lengths) = joined_and_cut(&mut Coalescer::default(), &batch);
        prop_assert_eq!(&packets, &batch);
        let most = if recipe.is_tcp { 256 } else { 64 };
        prop_assert_eq!(lengths.len(), batch.len().div_ceil(most));
    }

    /// Nothing is lost, changed or overtaken within its flow, whatever comes.
    #[test]
    fn batches_keep_their_packets_and_their_order(
        recipes in prop::collection::vec((recipes(1..20_000_usize), 100..1400_usize), 1..6),
        order in prop::collection::vec(any::<usize>(), 200),
        damages in prop::collection::vec(damages(), 200),
    ) {
        let trains = recipes.iter().map(|(recipe, size)| train(recipe, *size)).collect();
        let batch = damaged(trains, &order, &damages);
        let mut coalescer = Coalescer::default();
        // The second time in slots that the first has used.
        for _ in 0..2 {
            let (packets, _) = joined_and_cut(&mut coalescer, &batch);
            prop_assert_eq!(packets.len(), batch.len());
            let mut flows: Vec<Vec<u8>> = batch.iter().map(|packet| flow(packet)).collect();
            flows.sort();
            flows.dedup();
            for wanted in flows {
                let of_flow = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
 let packets = packets.iter().filter(|packet| flow(packet) == wanted);
 packets.map(|packet| without_identification(packet)).collect()
 };
                prop_assert_eq!(of_flow(&batch), of_flow(&packets));
            }
        }
    }

    #[test]
    fn nothing_panics_on_any_bytes(batch in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..20)) {
        let (packets, _) = joined_and_cut(&mut Coalescer::default(), &batch);
        prop_assert_eq!(packets.len(), batch.len());
    }
}

fn recipe(is_v6: bool, is_tcp: bool, port: u16) -> Recipe {
    Recipe {
        is_v6,
        is_tcp,
        port,
        sequence: u32::MAX - 5000,
        id: u16::MAX - 3,
        is_unfragmented: false,
        flags: ACK,
        options: 3,
        payload: (0..10_000_u32).map(|at| at as u8).collect(),
    }
}

#[test]
fn connections_that_are_mixed_are_told_apart() {
    let trains: Vec<_> = (1..=50)
        .map(|port| train(&recipe(port % 2 == 0, port % 3 == 0, port), 1000))
        .collect();
    let mut batch = Vec::new();
    for index in 0..10 {
        batch.extend(trains.iter().map(|train| train[index].clone()));
    }
    let (packets, lengths) = joined_and_cut(&mut Coalescer::default(), &batch);
    assert_eq!(packets.len(), 500);
    // But for the few that meet in a slot.
    assert!(
        lengths.iter().filter(|length| **length == 10).count() > 30,
        "{lengths:?}"
    );
}

#[test]
fn damaged_packets_are_not_vouched_for() {
    for (is_v6, is_tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let good = train(&recipe(is_v6, is_tcp, 7), 1000);
        for index in 0..good.len() {
            let mut batch = good.clone();
            *batch[index].last_mut().unwrap() ^= 1;
            let (packets, lengths) = joined_and_cut(&mut Coalescer::default(), &batch);
            // As it came, so that the host can refuse it.
            assert_eq!(packets, batch);
            assert!(lengths.len() >= 2);
        }
    }
}

#[test]
fn superpackets_stay_below_the_longest_packet() {
    for is_tcp in [false, true] {
        let mut batch = Vec::new();
        for index in 0..20_u32 {
            batch.push(
                Recipe {
                    sequence: index * 8000,
                    payload: vec![7; 8000],
                    is_unfragmented: true,
                    ..recipe(true, is_tcp, 7)
                }
                .packet(),
            );
        }
        let (packets, lengths) = joined_and_cut(&mut Coalescer::default(), &batch);
        assert_eq!(packets, batch.iter().map(Clone::clone).collect::<Vec<_>>());
        assert_eq!(lengths, [8, 8, 4]);
    }
}

#[test]
fn nothing_passes_a_fragment() {
    let packets = train(&recipe(false, false, 7), 1000);
    let mut fragment = packets[3].clone();
    fragment[6] |= 0x20;
    let batch = [&packets[..3], &[fragment], &packets[3..]].concat();
    let (after, lengths) = joined_and_cut(&mut Coalescer::default(), &batch);
    assert_eq!(after, batch);
    assert_eq!(lengths, [3, 1, 7]);
}

#[test]
fn what_the_device_does_not_take_stays_apart() {
    let batch = [
        train(&recipe(false, true, 1), 1000),
        train(&recipe(true, false, 1), 1000),
    ]
    .concat();
    let mut coalescer = Coalescer::default();
    for (tcp, udp) in [(false, false), (true, false), (false, true)] {
        coalescer.coalesce(&batch, Offers { tcp, udp });
        let kinds: Vec<Kind> = coalescer
            .groups()
            .iter()
            .filter_map(|group| {
                let first = coalescer.members(group).next()?;
                Some(group.superheader(&batch[first])?.vnet.segmentation?.kind)
            })
            .collect();
        assert_eq!(kinds.contains(&Kind::Tcp4), tcp);
        assert_eq!(kinds.contains(&Kind::Udp), udp);
    }
}
