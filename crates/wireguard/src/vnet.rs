//! The header that the kernel puts before packets of a TUN device, and wants before those that it gets: what is left to do with
//! each. (`struct virtio_net_hdr`, in the byte order of the machine.)

use std::num::NonZeroU16;

use crate::header::{Transport, Version};

/// The length of the header.
pub(crate) const LENGTH: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;
const UDP: u8 = 5;
/// The first segment bears CWR; what is cut here looks at the flag itself.
const ECN: u8 = 0x80;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub checksum: Option<Checksum>,
    pub segmentation: Option<Segmentation>,
}

/// A checksum that is not complete: it goes from `start` to the end, and its field is `offset` bytes after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checksum {
    pub start: u16,
    pub offset: u16,
}

/// A superpacket, to be cut into packets with so much payload each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segmentation {
    pub kind: Kind,
    pub size: NonZeroU16,
    /// The length of all headers. Of packets that come it may be anything.
    pub headers: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp4,
    Tcp6,
    Udp,
}

/// A header that asks for something that was not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a packet from the tunnel asks for segmentation of kind {kind} and size {size}, which was not offered"
)]
pub(crate) struct Unknown {
    kind: u8,
    size: u16,
}

impl Header {
    pub(crate) fn decode(bytes: &[u8; LENGTH]) -> Result<Self, Unknown> {
        let [
            flags,
            kind,
            h0,
            h1,
            s0,
            s1,
            start0,
            start1,
            offset0,
            offset1,
        ] = *bytes;
        let size = u16::from_ne_bytes([s0, s1]);
        let known = match kind & !ECN {
            0 => None,
            TCP_V4 => Some(Kind::Tcp4),
            TCP_V6 => Some(Kind::Tcp6),
            UDP => Some(Kind::Udp),
            _ => return Err(Unknown { kind, size }),
        };
        let segmentation = match known {
            None => None,
            Some(known) => Some(Segmentation {
                kind: known,
                size: NonZeroU16::new(size).ok_or(Unknown { kind, size })?,
                headers: u16::from_ne_bytes([h0, h1]),
            }),
        };
        let checksum = (flags & NEEDS_CHECKSUM != 0).then_some(Checksum {
            start: u16::from_ne_bytes([start0, start1]),
            offset: u16::from_ne_bytes([offset0, offset1]),
        });
        Ok(Self {
            checksum,
            segmentation,
        })
    }

    #[must_use]
    pub(crate) fn encode(&self) -> [u8; LENGTH] {
        let flags = if self.checksum.is_some() {
            NEEDS_CHECKSUM
        } else {
            0
        };
        let (kind, headers, size) = match self.segmentation {
            None => (0, 0, 0),
            Some(segmentation) => (
                match segmentation.kind {
                    Kind::Tcp4 => TCP_V4,
                    Kind::Tcp6 => TCP_V6,
                    Kind::Udp => UDP,
                },
                segmentation.headers,
                segmentation.size.get(),
            ),
        };
        let (start, offset) = self
            .checksum
            .map_or((0, 0), |checksum| (checksum.start, checksum.offset));
        let [h0, h1] = headers.to_ne_bytes();
        let [s0, s1] = size.to_ne_bytes();
        let [start0, start1] = start.to_ne_bytes();
        let [offset0, offset1] = offset.to_ne_bytes();
        [
            flags, kind, h0, h1, s0, s1, start0, start1, offset0, offset1,
        ]
    }
}

impl Kind {
    pub(crate) fn of(version: Version, transport: Transport) -> Self {
        match (version, transport) {
            (Version::V4, Transport::Tcp) => Self::Tcp4,
            (Version::V6, Transport::Tcp) => Self::Tcp6,
            (Version::V4 | Version::V6, Transport::Udp) => Self::Udp,
        }
    }

    pub(crate) fn transport(self) -> Transport {
        match self {
            Self::Tcp4 | Self::Tcp6 => Transport::Tcp,
            Self::Udp => Transport::Udp,
        }
    }

    pub(crate) fn is_of(self, version: Version) -> bool {
        match (self, version) {
            (Self::Tcp4, Version::V4) | (Self::Tcp6, Version::V6) | (Self::Udp, _) => true,
            (Self::Tcp4, Version::V6) | (Self::Tcp6, Version::V4) => false,
        }
    }
}
