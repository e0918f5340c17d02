//! Reading fields of a datagram one after the other.

/// What is left of a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Octets<'a>(&'a [u8]);

impl<'a> Octets<'a> {
    pub(crate) const fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    /// The next `N` octets, or nothing when fewer are left.
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    /// The next `count` octets, or nothing when fewer are left.
    pub(crate) fn take_slice(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn take_u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_be_bytes)
    }

    pub(crate) fn take_u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    pub(crate) fn take_u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub(crate) fn take_u24(&mut self) -> Option<u32> {
        let [high, middle, low] = self.take()?;
        Some(u32::from_be_bytes([0, high, middle, low]))
    }

    /// Octets after their count in one octet.
    pub(crate) fn take_vector8(&mut self) -> Option<Self> {
        let length = self.take_u8()?;
        self.take_slice(length.into()).map(Self)
    }

    /// Octets after their count in two octets.
    pub(crate) fn take_vector16(&mut self) -> Option<Self> {
        let length = self.take_u16()?;
        self.take_slice(length.into()).map(Self)
    }

    /// A number of 1, 2, 4 or 8 octets, as the first two bits say (RFC 9000 §16).
    pub(crate) fn take_variable(&mut self) -> Option<u64> {
        let first = *self.0.first()?;
        let octets = self.take_slice(1 << (first >> 6))?;
        let value = octets
            .iter()
            .fold(0, |value: u64, octet| value << 8 | u64::from(*octet));
        // The two bits that say the length are not part of it.
        let bits = 8 * octets.len() - 2;
        Some(value & ((1 << bits) - 1))
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub(crate) const fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Writes a field over what a datagram has at a place, as far as it is that long.
pub(crate) fn overwrite(datagram: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = datagram
        .get_mut(at..)
        .and_then(|it| it.get_mut(..field.len()))
    {
        place.copy_from_slice(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_variable_numbers() {
        // RFC 9000 appendix A.1.
        for (bytes, value) in [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..],
                151_288_809_941_952_652,
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ] {
            let mut octets = Octets::new(bytes);
            assert_eq!(octets.take_variable(), Some(value));
            assert!(octets.is_empty());
            assert_eq!(Octets::new(&bytes[..bytes.len() - 1]).take_variable(), None);
        }
    }
}
