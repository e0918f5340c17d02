//! The headers of a packet inside the tunnel, as far as segments and superpackets need them.

use crate::checksum::Sum;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

pub(crate) const UDP_LENGTH: usize = 8;
/// The least length of a TCP header.
pub(crate) const TCP_LENGTH: usize = 20;

/// Where things are in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) version: Version,
    pub(crate) transport: Transport,
    /// Where the transport header begins.
    pub(crate) transport_start: usize,
    /// Where the payload begins.
    pub(crate) payload_start: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Version {
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Some(Self::V4),
            6 => Some(Self::V6),
            _ => None,
        }
    }

    /// Both addresses, which stand one after another.
    pub(crate) fn addresses(self, packet: &[u8]) -> Option<&[u8]> {
        match self {
            Self::V4 => packet.get(12..20),
            Self::V6 => packet.get(8..40),
        }
    }
}

impl Transport {
    pub(crate) fn protocol(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }

    /// Where the checksum is in the transport header.
    pub(crate) fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

impl Layout {
    /// Reads a packet whose transport header is known to begin at a place.
    pub(crate) fn at(packet: &[u8], transport: Transport, transport_start: usize) -> Option<Self> {
        let version = Version::of(packet)?;
        let least = match version {
            Version::V4 => 20,
            Version::V6 => 40,
        };
        if transport_start < least {
            return None;
        }
        let length = match transport {
            Transport::Tcp => {
                let words = packet.get(transport_start + 12)? >> 4;
                let length = usize::from(words) * 4;
                if length < TCP_LENGTH {
                    return None;
                }
                length
            }
            Transport::Udp => UDP_LENGTH,
        };
        let payload_start = transport_start + length;
        (packet.len() >= payload_start).then_some(Self {
            version,
            transport,
            transport_start,
            payload_start,
        })
    }

    /// Reads a whole packet of TCP or UDP that has neither IP options or extension headers nor is a fragment, and whose
    /// lengths agree.
    pub(crate) fn of_plain(packet: &[u8]) -> Option<Self> {
        let (protocol, start) = match Version::of(packet)? {
            Version::V4 => {
                let header = packet.first_chunk::<20>()?;
                let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
                let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
                if header[0] != 0x45 || is_fragment || length != packet.len() {
                    return None;
                }
                (header[9], 20)
            }
            Version::V6 => {
                let header = packet.first_chunk::<40>()?;
                let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
                if length + 40 != packet.len() {
                    return None;
                }
                (header[6], 40)
            }
        };
        let transport = match protocol {
            TCP => Transport::Tcp,
            UDP => Transport::Udp,
            _ => return None,
        };
        let layout = Self::at(packet, transport, start)?;
        match transport {
            Transport::Tcp => {}
            Transport::Udp => {
                let length = packet.get(start + 4..)?.first_chunk::<2>()?;
                if usize::from(u16::from_be_bytes(*length)) != packet.len() - start {
                    return None;
                }
            }
        }
        Some(layout)
    }

    /// The pseudo-header of a packet with these addresses and so many bytes after the IP header.
    pub(crate) fn pseudo_header(&self, packet: &[u8], length: usize) -> Sum {
        let addresses = self.version.addresses(packet).unwrap_or_default();
        Sum::of_pseudo_header(addresses, self.transport.protocol(), length)
    }

    /// Whether the checksums of IP and of the transport are right. A UDP packet without one is not: nothing says so.
    pub(crate) fn is_intact(&self, packet: &[u8]) -> bool {
        let Some((network, transport)) = packet.split_at_checked(self.transport_start) else {
            return false;
        };
        let is_network_intact = match self.version {
            Version::V4 => Sum::default().with(network).is_intact(),
            Version::V6 => true,
        };
        let at = self.transport.checksum_offset();
        let has_checksum = match self.transport {
            Transport::Tcp => true,
            Transport::Udp => transport.get(at..at + 2) != Some(&[0, 0]),
        };
        is_network_intact
            && has_checksum
            && self
                .pseudo_header(packet, transport.len())
                .with(transport)
                .is_intact()
    }
}

/// Writes bytes into a packet; false when they do not fit.
pub(crate) fn put(packet: &mut [u8], at: usize, bytes: &[u8]) -> bool {
    match packet.get_mut(at..at + bytes.len()) {
        Some(place) => {
            place.copy_from_slice(bytes);
            true
        }
        None => false,
    }
}

pub(crate) fn number16(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?))
}

pub(crate) fn number32(packet: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*packet.get(at..)?.first_chunk()?))
}
