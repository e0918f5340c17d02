//! Address arithmetic: the hosts of a subnet, their IPv6 addresses, the lowest free one, the lowest free prefix.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// The first host address of an IPv4 network.
pub fn first_host(network: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(network.network()).saturating_add(1))
}

/// Whether an address is one for a host: inside, and neither the network nor the broadcast address.
pub fn is_host(network: Ipv4Net, address: Ipv4Addr) -> bool {
    network.contains(&address) && address != network.network() && address != network.broadcast()
}

/// The IPv6 address of a host: the prefix, and the low `min(128 − length, 32)` bits of its IPv4 address.
pub fn host_ipv6(prefix: Ipv6Net, ipv4: Ipv4Addr) -> Ipv6Addr {
    let bits = (128 - u32::from(prefix.prefix_len())).min(32);
    let mask = (1_u128 << bits) - 1;
    Ipv6Addr::from(u128::from(prefix.network()) | (u128::from(u32::from(ipv4)) & mask))
}

/// Whether an address is one that the Internet does not reach: private (RFC 1918), or shared by the customers of a
/// provider (RFC 6598).
pub fn is_private(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    address.is_private() || (first == 100 && second & 0xc0 == 64)
}

/// Whether an address is a unique local one, fc00::/7 (RFC 4193 section 3.1).
pub fn is_unique_local(address: Ipv6Addr) -> bool {
    address.octets()[0] & 0xfe == 0xfc
}

/// A random unique local /64 (RFC 4193 section 3.2.2): fd, 40 random bits, a random subnet id.
pub fn random_unique_local(random: [u8; 7]) -> Ipv6Net {
    let mut octets = [0_u8; 16];
    octets[0] = 0xfd;
    octets[1..8].copy_from_slice(&random);
    let address = Ipv6Addr::from(octets);
    Ipv6Net::new_assert(address, 64)
}

/// What is taken of one IPv6 prefix: hosts and delegated prefixes, with their owners in words.
///
/// Entries do not overlap; each is its first address → (last address, owner).
#[derive(Clone, Debug, Default)]
pub struct Occupied {
    spans: BTreeMap<u128, (u128, String)>,
}

impl Occupied {
    /// Takes a single address. What was taken before stays.
    pub fn take_host(&mut self, address: Ipv6Addr, owner: impl Into<String>) {
        let number = u128::from(address);
        if self.overlap(number, number).is_none() {
            self.spans.insert(number, (number, owner.into()));
        }
    }

    /// Takes a prefix in which nothing is taken.
    pub fn take_prefix(&mut self, prefix: Ipv6Net, owner: impl Into<String>) {
        let first = u128::from(prefix.network());
        self.spans
            .insert(first, (u128::from(prefix.broadcast()), owner.into()));
    }

    /// The first that overlaps a span: its first address, its last and its owner.
    pub(crate) fn overlap(&self, first: u128, last: u128) -> Option<(u128, u128, &str)> {
        let around = self.spans.range(..=first).next_back();
        around
            .filter(|(_, (end, _))| *end >= first)
            .or_else(|| self.spans.range(first..=last).next())
            .map(|(start, (end, owner))| (*start, *end, owner.as_str()))
    }

    /// The owner of an address.
    pub fn owner(&self, address: Ipv6Addr) -> Option<&str> {
        let number = u128::from(address);
        self.overlap(number, number).map(|(_, _, owner)| owner)
    }

    /// The first thing taken inside a prefix, or around it, and its owner.
    pub fn inside(&self, prefix: Ipv6Net) -> Option<(Ipv6Addr, &str)> {
        self.overlap(u128::from(prefix.network()), u128::from(prefix.broadcast()))
            .map(|(first, _, owner)| (Ipv6Addr::from(first), owner))
    }

    /// The lowest free prefix of a length in a prefix.
    pub fn lowest_free(&self, within: Ipv6Net, length: u8) -> Option<Ipv6Net> {
        let end = u128::from(within.broadcast());
        let mut spans = self.spans.range(..=end).peekable();
        // From above every span is seen once.
        lowest_free_prefix(within, length, |first, last| {
            while spans.next_if(|(_, (stop, _))| *stop < first).is_some() {}
            let (_, (stop, _)) = spans.next_if(|(start, _)| **start <= last)?;
            Some(*stop)
        })
    }
}

/// The lowest free prefix of a length in a prefix. `taken` tells of spans that follow each other whether anything in them is
/// taken, and how far nothing is free from there.
pub(crate) fn lowest_free_prefix(
    within: Ipv6Net,
    length: u8,
    mut taken: impl FnMut(u128, u128) -> Option<u128>,
) -> Option<Ipv6Net> {
    if length < within.prefix_len() || length > 128 {
        return None;
    }
    let size_minus_one = u128::MAX.checked_shr(length.into()).unwrap_or(0);
    let end = u128::from(within.broadcast());
    // What is taken is passed over as a whole: a gap is found by walking what is taken, not the blocks.
    let mut first = u128::from(within.network());
    loop {
        let last = first.checked_add(size_minus_one)?;
        if last > end {
            return None;
        }
        match taken(first, last) {
            Some(stop) => first = align_up(stop.checked_add(1)?, size_minus_one)?,
            None => return Ipv6Net::new(Ipv6Addr::from(first), length).ok(),
        }
    }
}

fn align_up(number: u128, size_minus_one: u128) -> Option<u128> {
    Some(number.checked_add(size_minus_one)? & !size_minus_one)
}

/// The lowest host address of a network that the caller calls free.
///
/// The low bits of the addresses repeat with the period of the prefix's host bits, so where there is a
/// prefix nothing new comes after one period: a full prefix in a large network is told at once.
pub fn lowest_free_ipv4(
    network: Ipv4Net,
    prefix: Option<Ipv6Net>,
    mut is_free: impl FnMut(Ipv4Addr) -> bool,
) -> Option<Ipv4Addr> {
    let bits = prefix.map_or(32, |prefix| (128 - u32::from(prefix.prefix_len())).min(32));
    let period = usize::try_from(1_u64 << bits).unwrap_or(usize::MAX);
    network
        .hosts()
        .take(period.saturating_add(2))
        .find(|address| is_host(network, *address) && is_free(*address))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_embed_their_ipv4_address() {
        let prefix: Ipv6Net = "2001:db8:1::/64".parse().unwrap();
        let host = host_ipv6(prefix, Ipv4Addr::new(10, 59, 0, 2));
        assert_eq!(host, "2001:db8:1::a3b:2".parse::<Ipv6Addr>().unwrap());
        let narrow: Ipv6Net = "2001:db8:1::70/124".parse().unwrap();
        assert_eq!(
            host_ipv6(narrow, Ipv4Addr::new(10, 59, 0, 18)),
            "2001:db8:1::72".parse::<Ipv6Addr>().unwrap()
        );
    }

    #[test]
    fn ten_thousand_prefixes_are_found_without_walking_blocks() {
        let within: Ipv6Net = "2001:db8::/32".parse().unwrap();
        let mut occupied = Occupied::default();
        for _ in 0..10_000 {
            let free = occupied.lowest_free(within, 64).unwrap();
            occupied.take_prefix(free, "x");
        }
        assert_eq!(
            occupied.lowest_free(within, 64).unwrap().to_string(),
            "2001:db8:0:2710::/64"
        );
    }

    proptest! {
        #[test]
        fn a_host_stays_in_its_prefix(network: u128, length in 32_u8..=127, ipv4: u32) {
            let prefix = Ipv6Net::new(Ipv6Addr::from(network), length).unwrap().trunc();
            prop_assert!(prefix.contains(&host_ipv6(prefix, Ipv4Addr::from(ipv4))));
        }

        #[test]
        fn the_lowest_free_prefix_is_free_aligned_and_lowest(
            taken in proptest::collection::vec((0_u8..=255, 4_u8..=8), 0..12), length in 0_u8..=8
        ) {
            // A model of 256 addresses: 2001:db8::/120.
            let within: Ipv6Net = "2001:db8::/120".parse().unwrap();
            let base = u128::from(within.network());
            let mut occupied = Occupied::default();
            let mut used = BTreeSet::new();
            for (offset, bits) in taken {
                let net = Ipv6Net::new(Ipv6Addr::from(base + u128::from(offset)), 120 + bits).unwrap().trunc();
                if occupied.inside(net).is_some() {
                    continue;
                }
                occupied.take_prefix(net, "x");
                used.extend(u128::from(net.network())..=u128::from(net.broadcast()));
            }
            let size = 1_u128 << (8 - length);
            let expected = (0..256 / size)
                .map(|index| base + index * size)
                .find(|first| (*first..*first + size).all(|address| !used.contains(&address)));
            let found = occupied.lowest_free(within, 120 + length);
            prop_assert_eq!(found.map(|net| u128::from(net.network())), expected);
        }
    }
}
