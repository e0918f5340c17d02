//! Packets for one destination that become datagrams of one length, and so leave by one system call.

use crate::message::HEADER_LEN;
use crate::segment::Segments;
use crate::socket::most_together;
use crate::transport::{Slot, sealed_len};

/// Packets one after another, each with the room that sealing it takes.
#[derive(Default)]
pub(super) struct Bundle {
    pub(super) buffer: Vec<u8>,
    pub(super) slots: Vec<Slot>,
    /// An IPv4 address is followed by zeros.
    destination: [u8; 16],
    is_v6: bool,
    mtu: usize,
    /// Where the next one begins.
    end: usize,
    /// What each takes, but for the last.
    length: usize,
    /// Whether the last one is as long as the others.
    is_even: bool,
}

impl Bundle {
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether packets like this may be added.
    pub(super) fn is_for(&self, packet: &[u8], mtu: usize) -> bool {
        !self.is_empty()
            && mtu == self.mtu
            && destination(packet) == Some((self.is_v6, self.destination))
    }

    /// Empties it, for packets like this.
    pub(super) fn begin(&mut self, packet: &[u8], mtu: usize) {
        self.clear();
        self.mtu = mtu;
        // What has no destination is not sent anyway.
        (self.is_v6, self.destination) = destination(packet).unwrap_or_default();
    }

    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.end = 0;
    }

    pub(super) fn mtu(&self) -> usize {
        self.mtu
    }

    /// Whether a packet of so many bytes leaves with the others.
    pub(super) fn takes(&self, len: usize) -> bool {
        self.is_empty()
            || (self.is_even
                && sealed_len(len, self.mtu) <= self.length
                && self.slots.len() < most_together(self.length))
    }

    /// Adds the next packet; false if there is none.
    pub(super) fn add(&mut self, segments: &mut Segments<'_>) -> bool {
        let length = sealed_len(segments.next_length(), self.mtu);
        if self.is_empty() {
            self.length = length;
        }
        let end = self.end + length;
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        let Some(len) = self
            .buffer
            .get_mut(self.end + HEADER_LEN..)
            .and_then(|room| segments.next_into(room))
        else {
            return false;
        };
        self.slots.push(Slot {
            start: self.end,
            len,
        });
        self.is_even = length == self.length;
        self.end = end;
        true
    }

    /// What there is to send once it is sealed, and the length of each datagram but the last.
    pub(super) fn datagrams(&self) -> (&[u8], usize) {
        let datagrams = self.buffer.get(..self.end).unwrap_or_default();
        (datagrams, self.length)
    }
}

fn destination(packet: &[u8]) -> Option<(bool, [u8; 16])> {
    match packet.first()? >> 4 {
        4 => {
            let mut address = [0; 16];
            let (to, _) = address.split_first_chunk_mut::<4>()?;
            *to = *packet.get(16..)?.first_chunk()?;
            Some((false, address))
        }
        6 => Some((true, *packet.get(24..)?.first_chunk()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{Recipe, recipes};
    use crate::vnet::Header;

    const MTU: usize = 1420;

    fn add(bundle: &mut Bundle, packet: &[u8]) {
        let mut segments = Segments::new(&Header::default(), packet).unwrap();
        assert!(bundle.add(&mut segments));
        assert!(!bundle.add(&mut segments));
    }

    proptest! {
        /// Cut by the length that is told, the buffer gives the slots, and these hold the packets.
        #[test]
        fn datagrams_are_cut_where_the_slots_are(recipes in prop::collection::vec(recipes(0..1300_usize), 1..100), same in any::<bool>()) {
            let mut bundle = Bundle::default();
            let mut held: Vec<Vec<u8>> = Vec::new();
            let size = recipes[0].payload.len();
            for recipe in recipes {
                let payload = if same { vec![1; size] } else { recipe.payload.clone() };
                let packet = Recipe { payload, options: 0, ..recipe }.packet();
                if !bundle.is_for(&packet, MTU) || !bundle.takes(packet.len()) {
                    bundle.begin(&packet, MTU);
                    held.clear();
                }
                add(&mut bundle, &packet);
                held.push(packet);
                let (datagrams, length) = bundle.datagrams();
                let datagrams: Vec<&[u8]> = datagrams.chunks(length).collect();
                prop_assert_eq!(datagrams.len(), held.len());
                prop_assert!(held.len() <= most_together(length));
                prop_assert_eq!(bundle.slots.len(), held.len());
                for ((datagram, packet), slot) in datagrams.iter().zip(&held).zip(&bundle.slots) {
                    prop_assert_eq!(datagram.len(), sealed_len(packet.len(), MTU));
                    prop_assert_eq!(&datagram[HEADER_LEN..][..slot.len], &packet[..]);
                    prop_assert_eq!(packet[0], held[0][0]);
                }
            }
        }
    }

    #[test]
    fn a_bundle_is_for_one_destination() {
        let mut bundle = Bundle::default();
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        bundle.begin(&packet, MTU);
        add(&mut bundle, &packet);
        assert!(bundle.is_for(&packet, MTU));
        assert!(!bundle.is_for(&packet, 1280));
        packet[39] = 1;
        assert!(!bundle.is_for(&packet, MTU));
        // The same bytes as an IPv4 address.
        packet[0] = 0x45;
        packet[39] = 0;
        assert!(!bundle.is_for(&packet, MTU));
        assert!(!bundle.is_for(&[], MTU));
    }
}
