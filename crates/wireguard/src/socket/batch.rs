//! Buffers for many datagrams, filled by one system call.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;

use super::control::{self, Information};
use crate::endpoint::Endpoint;

/// So many that a busy socket is emptied by few calls, so few that the processor's cache holds what they bring.
const BUFFERS: usize = 32;
/// The kernel joins datagrams up to the longest IP packet.
const BUFFER: usize = 1 << 16;

/// Where datagrams are received, again and again.
#[derive(Debug)]
pub(crate) struct Receiver {
    bytes: Box<[u8]>,
    names: Box<[Name; BUFFERS]>,
    controls: Box<[Control; BUFFERS]>,
    filled: [Filled; BUFFERS],
    count: usize,
}

/// As long as a `struct sockaddr_in6`, with its alignment.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
struct Name([u8; 32]);

/// Room for control messages, with their alignment.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 128]);

/// One or several datagrams in one buffer.
#[derive(Debug, Clone, Copy, Default)]
struct Filled {
    length: usize,
    segment: usize,
    endpoint: Option<Endpoint>,
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            bytes: vec![0; BUFFERS * BUFFER].into(),
            names: Box::new([Name([0; 32]); BUFFERS]),
            controls: Box::new([Control([0; 128]); BUFFERS]),
            filled: [Filled::default(); BUFFERS],
            count: 0,
        }
    }
}

impl Receiver {
    /// The datagrams of the last call, in their order, each with where it came from.
    pub(crate) fn datagrams(&mut self) -> impl Iterator<Item = (&mut [u8], Endpoint)> {
        self.bytes
            .chunks_exact_mut(BUFFER)
            .zip(self.filled.iter().take(self.count))
            .filter_map(|(buffer, filled)| {
                let bytes = buffer.get_mut(..filled.length)?;
                Some((bytes, filled.segment.max(1), filled.endpoint?))
            })
            .flat_map(|(bytes, segment, endpoint)| {
                bytes
                    .chunks_mut(segment)
                    .map(move |datagram| (datagram, endpoint))
            })
    }

    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.count = 0;
        self.count = loop {
            match self.fill(socket) {
                Ok(count) => break count,
                Err(Errno::EAGAIN) => return Ok(0),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        Ok(self.count)
    }

    #[expect(
        unsafe_code,
        reason = "recvmmsg has no safe wrapper that can be called again"
    )]
    fn fill(&mut self, socket: BorrowedFd<'_>) -> Result<usize, Errno> {
        // SAFETY: iovec and mmsghdr are plain numbers and pointers, of which zero and null are values.
        let mut parts: [libc::iovec; BUFFERS] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; BUFFERS] = unsafe { std::mem::zeroed() };
        for (message, (part, (bytes, (name, control)))) in messages.iter_mut().zip(
            parts.iter_mut().zip(
                self.bytes
                    .chunks_exact_mut(BUFFER)
                    .zip(self.names.iter_mut().zip(self.controls.iter_mut())),
            ),
        ) {
            part.iov_base = bytes.as_mut_ptr().cast();
            part.iov_len = bytes.len();
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_name = name.0.as_mut_ptr().cast();
            message.msg_hdr.msg_namelen = size_of::<Name>() as libc::socklen_t;
            message.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = size_of::<Control>() as _;
        }
        // SAFETY: each message points to a part, a name and control messages of its own, with their lengths. They live, and nobody else uses
        // them, until the call has returned.
        let result = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BUFFERS as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(Errno::result(result)?).unwrap_or_default();
        for (filled, (message, (name, control))) in self
            .filled
            .iter_mut()
            .zip(
                messages
                    .iter()
                    .zip(self.names.iter().zip(self.controls.iter())),
            )
            .take(count)
        {
            *filled = Filled::of(message, name, control);
        }
        Ok(count)
    }
}

impl Filled {
    fn of(message: &libc::mmsghdr, name: &Name, control: &Control) -> Self {
        let head = &message.msg_hdr;
        let length = usize::try_from(message.msg_len).unwrap_or_default();
        let is_whole = head.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) == 0;
        let name = usize::try_from(head.msg_namelen)
            .ok()
            .and_then(|length| name.0.get(..length));
        #[expect(
            clippy::useless_conversion,
            reason = "the type differs between C libraries"
        )]
        let control = usize::try_from(head.msg_controllen)
            .ok()
            .and_then(|length| control.0.get(..length));
        let information = Information::decode(control.unwrap_or_default());
        // Of a buffer whose lengths are not known nothing can be taken.
        let address = name.filter(|_| is_whole).and_then(control::address);
        Self {
            length,
            segment: information.segment.unwrap_or(length),
            endpoint: address.map(|address| Endpoint {
                address,
                source: information.source,
            }),
        }
    }
}
