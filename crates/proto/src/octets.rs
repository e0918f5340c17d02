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
