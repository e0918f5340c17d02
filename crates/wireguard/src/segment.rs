//! Cuts what the kernel hands over in one piece into the packets that a wire carries.

#[cfg(test)]
pub(crate) mod tests;

use crate::checksum::Sum;
use crate::header::{Layout, Transport, Version, number16, number32, put};
use crate::vnet::{self, Checksum, Segmentation};

const FIN_AND_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// What the header before a packet says is not true of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a packet from the tunnel disagrees with its header for offloads")]
pub(crate) struct Disagreement;

/// The packets of one superpacket, one after another.
#[derive(Debug)]
pub(crate) struct Segments<'a> {
    packet: &'a [u8],
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    /// One packet, whose checksum may have to be completed.
    Whole(Option<Checksum>),
    Cut(Cut),
    Done,
}

#[derive(Debug)]
struct Cut {
    layout: Layout,
    /// Payload in each packet but the last.
    size: usize,
    /// Payload that is handed out already, and in how many packets.
    taken: usize,
    count: u16,
    /// The sum that the kernel left in the place of the checksum, without the length in it.
    seed: Sum,
}

impl<'a> Segments<'a> {
    pub(crate) fn new(header: &vnet::Header, packet: &'a [u8]) -> Result<Self, Disagreement> {
        let shape = match header.segmentation {
            None => Shape::Whole(header.checksum),
            Some(segmentation) => {
                Shape::Cut(cut(header, &segmentation, packet).ok_or(Disagreement)?)
            }
        };
        Ok(Self { packet, shape })
    }

    /// How many packets are left.
    #[must_use]
    pub(crate) fn remaining(&self) -> usize {
        match &self.shape {
            Shape::Whole(_) => 1,
            Shape::Cut(cut) => {
                let left = self.packet.len() - cut.layout.payload_start - cut.taken;
                // A superpacket without payload is one packet.
                left.div_ceil(cut.size).max(usize::from(cut.count == 0))
            }
            Shape::Done => 0,
        }
    }

    /// The length of the next packet; of all but the last it is the same.
    #[must_use]
    pub(crate) fn next_length(&self) -> usize {
        match &self.shape {
            Shape::Whole(_) => self.packet.len(),
            Shape::Cut(cut) => {
                let left = self.packet.len() - cut.layout.payload_start - cut.taken;
                cut.layout.payload_start + left.min(cut.size)
            }
            Shape::Done => 0,
        }
    }

    /// Writes the next packet to the beginning of a buffer, and says how long it is. There is none when all have been
    /// written, or when the buffer has less than `next_length` bytes.
    pub(crate) fn next_into(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if self.remaining() == 0 {
            return None;
        }
        let length = self.next_length();
        let buffer = buffer.get_mut(..length)?;
        match &mut self.shape {
            Shape::Whole(checksum) => {
                buffer.copy_from_slice(self.packet);
                if let Some(checksum) = checksum {
                    complete(buffer, *checksum).ok()?;
                }
                self.shape = Shape::Done;
            }
            Shape::Cut(cut) => {
                cut.write_next(self.packet, buffer)?;
                if cut.layout.payload_start + cut.taken == self.packet.len() {
                    self.shape = Shape::Done;
                }
            }
            Shape::Done => return None,
        }
        Some(length)
    }
}

/// Completes the checksum of a packet in its place.
pub(crate) fn complete(packet: &mut [u8], checksum: Checksum) -> Result<(), Disagreement> {
    let start = usize::from(checksum.start);
    let summed = packet.get(start..).ok_or(Disagreement)?;
    let value = without_zero(Sum::default().with(summed).finish());
    let at = start + usize::from(checksum.offset);
    put(packet, at, &value).then_some(()).ok_or(Disagreement)
}

fn cut(header: &vnet::Header, segmentation: &Segmentation, packet: &[u8]) -> Option<Cut> {
    let transport = segmentation.kind.transport();
    let layout = match header.checksum {
        Some(checksum) => {
            if usize::from(checksum.offset) != transport.checksum_offset() {
                return None;
            }
            Layout::at(packet, transport, usize::from(checksum.start))?
        }
        None => Layout::of_plain(packet).filter(|layout| layout.transport == transport)?,
    };
    if !segmentation.kind.is_of(layout.version) {
        return None;
    }
    // Lengths of headers that the packets have later would not fit their fields.
    if packet.len() > usize::from(u16::MAX) {
        return None;
    }
    let length = u32::try_from(packet.len() - layout.transport_start).ok()?;
    let at = layout.transport_start + transport.checksum_offset();
    let seed = match header.checksum {
        // Goes on from the kernel's own sum, so that it is right behind a routing header, too: RFC 8200 section 8.1.
        Some(_) => Sum::of_field(*packet.get(at..)?.first_chunk()?).without_number(length),
        None => layout.pseudo_header(packet, 0),
    };
    Some(Cut {
        layout,
        size: usize::from(segmentation.size.get()),
        taken: 0,
        count: 0,
        seed,
    })
}

impl Cut {
    /// Writes the next packet into a buffer of just its length.
    fn write_next(&mut self, packet: &[u8], buffer: &mut [u8]) -> Option<()> {
        let start = self.layout.transport_start;
        let headers = self.layout.payload_start;
        let size = buffer.len().checked_sub(headers)?;
        let from = headers + self.taken;
        let (to_headers, to_payload) = buffer.split_at_mut_checked(headers)?;
        to_headers.copy_from_slice(packet.get(..headers)?);
        to_payload.copy_from_slice(packet.get(from..from + size)?);
        let is_first = self.count == 0;
        let is_last = from + size == packet.len();
        match self.layout.version {
            Version::V4 => {
                let id = number16(packet, 4)?.wrapping_add(self.count);
                put(buffer, 2, &length16(buffer.len())?);
                put(buffer, 4, &id.to_be_bytes());
                put(buffer, 10, &[0, 0]);
                let sum = Sum::default().with(buffer.get(..start)?).finish();
                put(buffer, 10, &sum);
            }
            Version::V6 => {
                put(buffer, 4, &length16(buffer.len() - 40)?);
            }
        }
        let length = buffer.len() - start;
        match self.layout.transport {
            Transport::Tcp => {
                let sequence =
                    number32(packet, start + 4)?.wrapping_add(u32::try_from(self.taken).ok()?);
                put(buffer, start + 4, &sequence.to_be_bytes());
                let flags = buffer.get_mut(start + 13)?;
                if !is_first {
                    *flags &= !CWR;
                }
                if !is_last {
                    *flags &= !FIN_AND_PSH;
                }
            }
            Transport::Udp => {
                put(buffer, start + 4, &length16(length)?);
            }
        }
        let at = start + self.layout.transport.checksum_offset();
        put(buffer, at, &[0, 0]);
        let sum = self
            .seed
            .with_number(u32::try_from(length).ok()?)
            .with(buffer.get(start..)?)
            .finish();
        let sum = match self.layout.transport {
            Transport::Tcp => sum,
            Transport::Udp => without_zero(sum),
        };
        put(buffer, at, &sum);
        self.taken += size;
        self.count = self.count.wrapping_add(1);
        Some(())
    }
}

/// In UDP, zero says that there is no checksum (RFC 768); elsewhere both are the same number.
fn without_zero(checksum: [u8; 2]) -> [u8; 2] {
    if checksum == [0, 0] {
        [0xff, 0xff]
    } else {
        checksum
    }
}

fn length16(length: usize) -> Option<[u8; 2]> {
    Some(u16::try_from(length).ok()?.to_be_bytes())
}
