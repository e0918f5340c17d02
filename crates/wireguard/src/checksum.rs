//! The Internet checksum (RFC 1071), of parts that are added up before they are folded.

#[cfg(test)]
mod tests;

/// A sum that is not complemented yet. Words are added in the byte order of the machine, which RFC 1071 section 2 (B)
/// allows, and turned when the sum is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum(u64);

impl Sum {
    /// What a field of a packet holds, to go on from.
    #[must_use]
    pub(crate) fn of_field(field: [u8; 2]) -> Self {
        Self(u64::from(u16::from_ne_bytes(field)))
    }

    /// The pseudo-header of TCP and UDP: RFC 9293 section 3.1, RFC 8200 section 8.1. Both addresses stand one after
    /// another in the packet.
    #[must_use]
    pub(crate) fn of_pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> Self {
        Self::default()
            .with(addresses)
            .with_number(u32::from(protocol))
            .with_number(u32::try_from(length).unwrap_or(u32::MAX))
    }

    /// Adds bytes that begin at an even place; an odd number of them must be the last.
    #[must_use]
    pub(crate) fn with(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<32>();
        // Several sums, so that additions need not wait for each other.
        let mut lanes = [0_u64; 8];
        for block in blocks {
            let (words, _) = block.as_chunks::<4>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        let (words, last) = rest.as_chunks::<4>();
        let mut sum: u64 = words
            .iter()
            .map(|word| u64::from(u32::from_ne_bytes(*word)))
            .sum();
        let mut end = [0; 4];
        for (to, from) in end.iter_mut().zip(last) {
            *to = *from;
        }
        sum += u64::from(u32::from_ne_bytes(end));
        sum += lanes.iter().sum::<u64>();
        Self(self.0 + fold(sum))
    }

    #[must_use]
    pub(crate) fn with_number(self, number: u32) -> Self {
        Self(self.0 + u64::from(u32::from_ne_bytes(number.to_be_bytes())))
    }

    /// Takes out a number that had been added.
    #[must_use]
    pub(crate) fn without_number(self, number: u32) -> Self {
        self.with_number(!number)
    }

    /// The sum as a packet has it where hardware or the kernel goes on from it.
    #[must_use]
    pub(crate) fn partial(self) -> [u8; 2] {
        folded(self.0).to_ne_bytes()
    }

    /// The complement, as a finished packet has it.
    #[must_use]
    pub(crate) fn finish(self) -> [u8; 2] {
        (!folded(self.0)).to_ne_bytes()
    }

    /// Whether a packet whose checksum was added too is as it was sent.
    #[must_use]
    pub(crate) fn is_intact(self) -> bool {
        folded(self.0) == u16::MAX
    }
}

/// So that sums of whole packets can be added without an overflow.
fn fold(sum: u64) -> u64 {
    (sum & 0xffff_ffff) + (sum >> 32)
}

fn folded(sum: u64) -> u16 {
    let mut sum = fold(fold(sum));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // It is not above 0xffff any more.
    (sum & 0xffff) as u16
}
