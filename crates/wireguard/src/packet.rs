//! Packets for tests, written and read without what is tested.

use proptest::prelude::*;

use crate::vnet::{self, Checksum, Kind, Segmentation};

/// What a packet of TCP or UDP, or a superpacket, is made of.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    pub(crate) is_v6: bool,
    pub(crate) is_tcp: bool,
    /// Tells flows apart.
    pub(crate) port: u16,
    pub(crate) sequence: u32,
    pub(crate) id: u16,
    pub(crate) is_unfragmented: bool,
    pub(crate) flags: u8,
    /// Words of TCP options.
    pub(crate) options: usize,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const ACK: u8 = 0x10;
pub(crate) const PSH: u8 = 0x08;

impl Recipe {
    pub(crate) fn transport_start(&self) -> usize {
        if self.is_v6 { 40 } else { 20 }
    }

    pub(crate) fn headers(&self) -> usize {
        self.transport_start()
            + if self.is_tcp {
                20 + 4 * self.options
            } else {
                8
            }
    }

    pub(crate) fn protocol(&self) -> u8 {
        if self.is_tcp { 6 } else { 17 }
    }

    fn addresses(&self) -> Vec<u8> {
        match self.is_v6 {
            true => [&[0xfd; 15][..], &[1], &[0xfd; 15], &[2]].concat(),
            false => vec![10, 0, 0, 1, 10, 0, 0, 2],
        }
    }

    /// The packet with all checksums.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let mut packet = self.without_checksum();
        let start = self.transport_start();
        let at = start + if self.is_tcp { 16 } else { 6 };
        let mut sum = checksum(&[&self.pseudo_header(packet.len() - start), &packet[start..]]);
        if !self.is_tcp && sum == 0 {
            sum = 0xffff;
        }
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// The packet as the kernel hands it over to be cut, with the sum of its pseudo-header.
    pub(crate) fn superpacket(&self, size: u16) -> (vnet::Header, Vec<u8>) {
        let mut packet = self.without_checksum();
        let start = self.transport_start();
        let offset = if self.is_tcp { 16 } else { 6 };
        let sum = !checksum(&[&self.pseudo_header(packet.len() - start)]);
        packet[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
        let header = vnet::Header {
            checksum: Some(Checksum {
                start: start as u16,
                offset: offset as u16,
            }),
            segmentation: Some(Segmentation {
                kind: match (self.is_tcp, self.is_v6) {
                    (true, false) => Kind::Tcp4,
                    (true, true) => Kind::Tcp6,
                    (false, _) => Kind::Udp,
                },
                size: size.try_into().unwrap(),
                headers: self.headers() as u16,
            }),
        };
        (header, packet)
    }

    fn pseudo_header(&self, length: usize) -> Vec<u8> {
        let length = (length as u32).to_be_bytes();
        [&self.addresses()[..], &[0, self.protocol()], &length].concat()
    }

    fn without_checksum(&self) -> Vec<u8> {
        let total = self.headers() + self.payload.len();
        let after = total - self.transport_start();
        let mut packet = Vec::with_capacity(total);
        if self.is_v6 {
            packet.extend([0x60, 0x12, 0x34, 0x56]);
            packet.extend((after as u16).to_be_bytes());
            packet.extend([self.protocol(), 64]);
            packet.extend(self.addresses());
        } else {
            packet.extend([0x45, 0x02]);
            packet.extend((total as u16).to_be_bytes());
            packet.extend(self.id.to_be_bytes());
            packet.extend([if self.is_unfragmented { 0x40 } else { 0 }, 0]);
            packet.extend([64, self.protocol(), 0, 0]);
            packet.extend(self.addresses());
            let sum = checksum(&[&packet]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packet.extend(self.port.to_be_bytes());
        packet.extend(443_u16.to_be_bytes());
        if self.is_tcp {
            packet.extend(self.sequence.to_be_bytes());
            packet.extend(77_u32.to_be_bytes());
            packet.extend([((5 + self.options) << 4) as u8, self.flags]);
            packet.extend([0x20, 0, 0, 0, 0, 0]);
            packet.extend(std::iter::repeat_n(1, 4 * self.options));
        } else {
            packet.extend((after as u16).to_be_bytes());
            packet.extend([0, 0]);
        }
        packet.extend(&self.payload);
        packet
    }
}

/// The checksum of all parts, word by word (RFC 1071 section 1). Each part but the last is of even length.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for word in parts.concat().chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    !(sum as u16)
}

/// Puts the right checksums into a packet that was changed, as far as it still is of TCP or UDP.
pub(crate) fn reseal(packet: &mut [u8]) {
    let (protocol, start, addresses) = match packet {
        [0x45, _, ..] if packet.len() >= 20 => {
            packet[10..12].fill(0);
            let sum = checksum(&[&packet[..20]]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            (packet[9], 20, packet[12..20].to_vec())
        }
        [0x60..0x70, ..] if packet.len() >= 40 => (packet[6], 40, packet[8..40].to_vec()),
        _ => return,
    };
    let at = match protocol {
        6 => start + 16,
        17 => start + 6,
        _ => return,
    };
    if packet.len() < at + 2 {
        return;
    }
    packet[at..at + 2].fill(0);
    let length = ((packet.len() - start) as u32).to_be_bytes();
    let pseudo = [&addresses[..], &[0, protocol], &length].concat();
    let mut sum = checksum(&[&pseudo, &packet[start..]]);
    if protocol == 17 && sum == 0 {
        sum = 0xffff;
    }
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Packets of one connection and one direction, of any length.
pub(crate) fn recipes(payload: impl Strategy<Value = usize>) -> impl Strategy<Value = Recipe> {
    let kind = (any::<bool>(), any::<bool>(), any::<bool>());
    let numbers = (any::<u16>(), any::<u32>(), any::<u16>(), 0..=10_usize);
    (kind, numbers, payload, any::<u8>()).prop_map(
        |((is_v6, is_tcp, is_unfragmented), (port, sequence, id, options), payload, seed)| Recipe {
            is_v6,
            is_tcp,
            port,
            sequence,
            id,
            is_unfragmented,
            flags: ACK,
            options,
            payload: (0..payload)
                .map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ seed)
                .collect(),
        },
    )
}
