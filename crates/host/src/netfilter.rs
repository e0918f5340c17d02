//! Netfilter's netlink: requests, answers and attributes, as far as nf_tables and conntrack need them.

#![warn(clippy::indexing_slicing)]

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

pub(crate) const SUBSYSTEM_CONNTRACK: u8 = 1;
pub(crate) const SUBSYSTEM_NFTABLES: u8 = 10;

/// Larger than any datagram that the kernel composes for a dump or an event.
pub(crate) const DATAGRAM: usize = 64 * 1024;

/// What begins and ends a transaction; they are no subsystem's.
const BEGIN: u8 = 0x10;
const END: u8 = 0x11;

const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const CREATE: u16 = 0x400;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
const KIND_ERROR: u16 = 2;
const KIND_DONE: u16 = 3;
const HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;
const ATTRIBUTE_MASK: u16 = 0x3fff;

const DUMP_ATTEMPTS: usize = 8;

/// How many requests go out in one datagram; their acknowledgements must fit in the receive buffer.
const BATCH: usize = 64;

/// One netfilter message, within its datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) subsystem: u8,
    pub(crate) kind: u8,
    pub(crate) family: u8,
    pub(crate) attributes: &'a [u8],
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) subsystem: u8,
    pub(crate) kind: u8,
    pub(crate) family: u8,
    pub(crate) attributes: Vec<u8>,
}

/// A socket for requests. The kernel answers them within the system call, so that reading the answer hardly blocks.
#[derive(Debug)]
pub(crate) struct Requests {
    socket: Socket,
    sequence: u32,
    /// The last answer.
    datagram: Vec<u8>,
}

impl Requests {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
        Ok(Self {
            socket,
            sequence: 0,
            datagram: Vec::with_capacity(DATAGRAM),
        })
    }

    /// Asks for one object and lets `read` read it.
    pub(crate) fn get<T>(
        &mut self,
        request: &Request,
        read: impl FnOnce(Message<'_>) -> Option<T>,
    ) -> io::Result<T> {
        adit_fault::point("netfilter/get")?;
        let sequence = self.send(&[request], REQUEST)?;
        loop {
            self.receive()?;
            let Some(part) = Parts(&self.datagram).find(|part| part.sequence == sequence) else {
                continue;
            };
            if part.kind == KIND_ERROR {
                part.outcome()?;
            }
            return part
                .message()
                .and_then(read)
                .ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
    }

    /// Shows every object to `select`, and returns what it kept. A dump during which the kernel's table changed shape
    /// is repeated.
    pub(crate) fn dump<T>(
        &mut self,
        request: &Request,
        select: impl Fn(Message<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        self.dump_until(usize::MAX, request, select)
    }

    /// [`Self::dump`] of which there is no more than `most`; none if there is. The rest is not asked of the kernel then, and
    /// the socket is of no more use.
    pub(crate) fn dump_up_to<T>(
        mut self,
        most: usize,
        request: &Request,
        select: impl Fn(Message<'_>) -> Option<T>,
    ) -> io::Result<Option<Vec<T>>> {
        let selected = self.dump_until(most, request, select)?;
        Ok((selected.len() <= most).then_some(selected))
    }

    /// Sends all requests, and reports how each ended.
    pub(crate) fn acknowledge(&mut self, requests: &[Request]) -> io::Result<Vec<io::Result<()>>> {
        let mut outcomes = Vec::with_capacity(requests.len());
        for batch in requests.chunks(BATCH) {
            adit_fault::point("netfilter/change")?;
            let batch: Vec<&Request> = batch.iter().collect();
            let mut expected = self.send(&batch, REQUEST | ACKNOWLEDGE)?;
            let end = outcomes.len() + batch.len();
            while outcomes.len() < end {
                self.receive()?;
                for part in Parts(&self.datagram) {
                    if part.sequence == expected && part.kind == KIND_ERROR {
                        outcomes.push(part.outcome());
                        expected = expected.wrapping_add(1);
                    }
                }
            }
        }
        Ok(outcomes)
    }

    /// Has nftables make all changes or none, if its rules are of this generation still: else the error is `ERESTART`.
    pub(crate) fn transact(&mut self, generation: u32, changes: &[Request]) -> io::Result<()> {
        const GENERATION: u16 = 1;
        let frame = |kind| Request {
            subsystem: 0,
            kind,
            family: 0,
            attributes: Vec::new(),
        };
        let mut begin = frame(BEGIN);
        push_attribute(&mut begin.attributes, GENERATION, &generation.to_be_bytes());
        let end = frame(END);
        let mut datagram = Vec::new();
        let first = self.push(&mut datagram, &begin, REQUEST, SUBSYSTEM_NFTABLES);
        let mut last = first;
        for (place, change) in changes.iter().enumerate() {
            let acknowledge = if place + 1 == changes.len() {
                ACKNOWLEDGE
            } else {
                0
            };
            last = self.push(&mut datagram, change, REQUEST | CREATE | acknowledge, 0);
        }
        self.push(&mut datagram, &end, REQUEST, SUBSYSTEM_NFTABLES);
        self.socket.send(&datagram, 0)?;
        // Of a change that fails an error is told, of the last one how it ended, and of the first message what prevents all.
        loop {
            self.receive()?;
            for part in Parts(&self.datagram).filter(|part| part.kind == KIND_ERROR) {
                let place = part.sequence.wrapping_sub(first);
                if place <= last.wrapping_sub(first) {
                    part.outcome()?;
                    if part.sequence == last {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn dump_until<T>(
        &mut self,
        most: usize,
        request: &Request,
        select: impl Fn(Message<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.dump_once(most, request, &select) {
                Ok(Some(selected)) => return Ok(selected),
                Ok(None) => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    fn dump_once<T>(
        &mut self,
        most: usize,
        request: &Request,
        select: impl Fn(Message<'_>) -> Option<T>,
    ) -> io::Result<Option<Vec<T>>> {
        adit_fault::point(match request.subsystem {
            SUBSYSTEM_NFTABLES => "nft/read",
            _ => "netfilter/dump",
        })?;
        let sequence = self.send(&[request], REQUEST | DUMP)?;
        let mut selected = Vec::new();
        let mut whole = true;
        loop {
            self.receive()?;
            let mut parts = Parts(&self.datagram);
            for part in parts.by_ref().filter(|part| part.sequence == sequence) {
                whole &= part.flags & DUMP_INTERRUPTED == 0;
                match part.kind {
                    KIND_DONE => return Ok(whole.then_some(selected)),
                    KIND_ERROR => part.outcome()?,
                    _ => selected.extend(part.message().and_then(&select)),
                }
            }
            // A datagram that was cut off.
            whole &= parts.0.is_empty();
            if whole && selected.len() > most {
                return Ok(Some(selected));
            }
        }
    }

    /// Sends requests with consecutive sequence numbers, and returns the first.
    fn send(&mut self, requests: &[&Request], flags: u16) -> io::Result<u32> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        for request in requests {
            self.push(&mut datagram, request, flags, 0);
        }
        self.socket.send(&datagram, 0)?;
        Ok(first)
    }

    /// Appends a request about a resource, and returns its sequence number.
    fn push(&mut self, datagram: &mut Vec<u8>, request: &Request, flags: u16, resource: u8) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let length = HEADER + NETFILTER_HEADER + request.attributes.len();
        datagram.extend((length as u32).to_ne_bytes());
        datagram
            .extend((u16::from(request.subsystem) << 8 | u16::from(request.kind)).to_ne_bytes());
        datagram.extend(flags.to_ne_bytes());
        datagram.extend(self.sequence.to_ne_bytes());
        datagram.extend(0u32.to_ne_bytes());
        datagram.extend([request.family, 0, 0, resource]);
        datagram.extend(&request.attributes);
        datagram.resize(datagram.len().next_multiple_of(4), 0);
        self.sequence
    }

    fn receive(&mut self) -> io::Result<()> {
        self.datagram.clear();
        self.socket.recv(&mut self.datagram, 0)?;
        Ok(())
    }
}

/// The netfilter messages of a datagram of events.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    Parts(datagram).filter_map(|part| part.message())
}

/// The value of the first attribute of this kind.
pub(crate) fn attribute(list: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(list).find_map(|(it, value)| (it == kind).then_some(value))
}

/// Every attribute with its kind, up to what cannot be read.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let value = rest.get(4..length)?;
        let kind = u16_at(rest, 2)? & ATTRIBUTE_MASK;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Appends an attribute. The kind carries the flag for nesting, if the attribute does.
pub(crate) fn push_attribute(attributes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    attributes.extend(((value.len() + 4) as u16).to_ne_bytes());
    attributes.extend(kind.to_ne_bytes());
    attributes.extend(value);
    attributes.resize(attributes.len().next_multiple_of(4), 0);
}

pub(crate) fn u16_be(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

pub(crate) fn u32_be(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// The netlink messages of a datagram; a truncated one ends it.
pub(crate) struct Parts<'a>(pub(crate) &'a [u8]);

/// One of them.
pub(crate) struct Part<'a> {
    pub(crate) kind: u16,
    flags: u16,
    sequence: u32,
    pub(crate) payload: &'a [u8],
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let length = u32_at(self.0, 0)? as usize;
        let part = Part {
            kind: u16_at(self.0, 4)?,
            flags: u16_at(self.0, 6)?,
            sequence: u32_at(self.0, 8)?,
            payload: self.0.get(HEADER..length)?,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(part)
    }
}

impl<'a> Part<'a> {
    fn message(&self) -> Option<Message<'a>> {
        let [kind, subsystem] = self.kind.to_le_bytes();
        Some(Message {
            subsystem,
            kind,
            family: *self.payload.first()?,
            attributes: self.payload.get(NETFILTER_HEADER..)?,
        })
    }

    /// What an error message says; zero is success.
    pub(crate) fn outcome(&self) -> io::Result<()> {
        match u32_at(self.payload, 0).map(|code| code as i32) {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(
        bytes.get(offset..offset + 2)?.try_into().ok()?,
    ))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(
        bytes.get(offset..offset + 4)?.try_into().ok()?,
    ))
}
