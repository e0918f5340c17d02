//! Which peer an address belongs to: the longest prefix wins.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

/// Prefixes of both families, each with its owner.
pub(crate) struct AllowedIps<T> {
    ipv4: PrefixMap<Ipv4Net, T>,
    ipv6: PrefixMap<Ipv6Net, T>,
}

impl<T> AllowedIps<T> {
    pub(crate) fn new() -> Self {
        Self {
            ipv4: PrefixMap::new(),
            ipv6: PrefixMap::new(),
        }
    }

    /// Gives a prefix to an owner; whose it was before comes back.
    pub(crate) fn insert(&mut self, prefix: IpNet, owner: T) -> Option<T> {
        match prefix {
            IpNet::V4(prefix) => self.ipv4.insert(prefix.trunc(), owner),
            IpNet::V6(prefix) => self.ipv6.insert(prefix.trunc(), owner),
        }
    }

    pub(crate) fn remove(&mut self, prefix: IpNet) {
        match prefix {
            IpNet::V4(prefix) => drop(self.ipv4.remove(&prefix.trunc())),
            IpNet::V6(prefix) => drop(self.ipv6.remove(&prefix.trunc())),
        }
    }

    pub(crate) fn owner(&self, address: IpAddr) -> Option<&T> {
        match address {
            IpAddr::V4(address) => Some(self.ipv4.get_lpm(&address.into())?.1),
            IpAddr::V6(address) => Some(self.ipv6.get_lpm(&address.into())?.1),
        }
    }
}

/// The addresses of an IP packet, and its own idea of its length. None for what is no whole IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) len: usize,
}

impl Header {
    #[inline]
    pub(crate) fn read(packet: &[u8]) -> Option<Self> {
        let header = match packet.first()? >> 4 {
            4 => {
                let header: &[u8; 20] = packet.first_chunk()?;
                Self {
                    source: address::<4>(header, 12)?.into(),
                    destination: address::<4>(header, 16)?.into(),
                    len: usize::from(u16::from_be_bytes([header[2], header[3]])),
                }
            }
            6 => {
                let header: &[u8; 40] = packet.first_chunk()?;
                Self {
                    source: address::<16>(header, 8)?.into(),
                    destination: address::<16>(header, 24)?.into(),
                    len: usize::from(u16::from_be_bytes([header[4], header[5]])) + 40,
                }
            }
            _ => return None,
        };
        let least = if header.source.is_ipv4() { 20 } else { 40 };
        (header.len >= least && header.len <= packet.len()).then_some(header)
    }
}

fn address<const LEN: usize>(header: &[u8], at: usize) -> Option<[u8; LEN]> {
    header.get(at..at + LEN)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    /// Few bits, so that prefixes meet.
    fn prefixes() -> impl Strategy<Value = IpNet> {
        let ipv4 = (0_u32..64, 0_u8..=32).prop_map(|(bits, len)| {
            let address = Ipv4Addr::from(bits.reverse_bits() | bits);
            IpNet::new(address.into(), len).unwrap()
        });
        let ipv6 = (0_u128..64, 0_u8..=128).prop_map(|(bits, len)| {
            let address = Ipv6Addr::from(bits.reverse_bits() | bits);
            IpNet::new(address.into(), len).unwrap()
        });
        prop_oneof![ipv4, ipv6]
    }

    proptest! {
        #[test]
        fn the_longest_of_the_prefixes_that_are_there_wins(
            steps in proptest::collection::vec((prefixes(), any::<bool>(), 0_u8..4), 1..60),
            asked in proptest::collection::vec(prefixes(), 30),
        ) {
            let mut table = AllowedIps::new();
            let mut reference = BTreeMap::new();
            for (prefix, is_insertion, owner) in steps {
                if is_insertion {
                    prop_assert_eq!(table.insert(prefix, owner), reference.insert(prefix.trunc(), owner));
                } else {
                    table.remove(prefix);
                    reference.remove(&prefix.trunc());
                }
            }
            for address in asked.iter().map(IpNet::addr) {
                let expected = reference
                    .iter()
                    .filter(|(prefix, _)| prefix.contains(&address))
                    .max_by_key(|(prefix, _)| prefix.prefix_len())
                    .map(|(_, owner)| owner);
                prop_assert_eq!(table.owner(address), expected);
            }
        }

        #[test]
        fn any_bytes_may_be_no_packet(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(header) = Header::read(&bytes) {
                prop_assert!(header.len <= bytes.len());
            }
        }
    }

    #[test]
    fn a_header_is_cut_to_its_own_length() {
        let mut packet = [0; 48];
        packet[0] = 0x45;
        packet[3] = 28;
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let header = Header::read(&packet).unwrap();
        assert_eq!(header.len, 28);
        assert_eq!(header.source, IpAddr::from([10, 0, 0, 1]));
        assert_eq!(header.destination, IpAddr::from([10, 0, 0, 2]));
        packet[3] = 49;
        assert_eq!(Header::read(&packet), None);
        packet[3] = 19;
        assert_eq!(Header::read(&packet), None);
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&[0, 8]);
        assert_eq!(Header::read(&packet).unwrap().len, 48);
        packet[5] = 9;
        assert_eq!(Header::read(&packet), None);
    }
}
