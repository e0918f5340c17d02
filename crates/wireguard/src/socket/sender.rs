//! Sends many datagrams of one length by one system call, where the kernel and the way out do that.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};

use super::Socket;
use crate::endpoint::{Endpoint, Source};

/// The kernel cuts so many at most (`UDP_MAX_SEGMENTS` of kernels before 6.9).
const MOST_SEGMENTS: usize = 64;
/// The longest payload of UDP over IPv4.
const LONGEST: usize = 65_507;
/// Addresses that are remembered; when there are more, all are tried anew.
const MOST_REFUSALS: usize = 1024;
/// After so long a way out may have another MTU or another interface.
const MEMORY: Duration = Duration::from_secs(30);

/// What a thread remembers of those that it sends to.
#[derive(Debug, Default)]
pub(crate) struct Sender {
    pub(super) refusals: HashMap<IpAddr, Refusal>,
}

/// Datagrams of this length or longer ones are not cut by the kernel on this way: they would have to be fragmented, or the interface
/// computes no checksums.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal {
    length: usize,
    since: Instant,
}

/// How many datagrams of a length leave by one system call, where they are cut by the kernel.
#[must_use]
pub(crate) fn most_together(length: usize) -> usize {
    MOST_SEGMENTS.min(LONGEST / length.max(1)).max(1)
}

impl Sender {
    /// Sends datagrams that lie one after another in a buffer, each of `length` bytes, the last one maybe shorter. When our address that
    /// the other side knows is not there any more, the endpoint forgets it. After an error the rest is not sent.
    pub(crate) fn send(
        &mut self,
        socket: &Socket,
        endpoint: &mut Endpoint,
        mut buffer: &[u8],
        length: usize,
    ) -> io::Result<()> {
        let length = length.max(1);
        let mut is_cutting = self.is_cutting(socket, endpoint.address, length);
        // Cutting was refused, but maybe for another reason: it was, if a datagram alone goes through.
        let mut is_trial = false;
        while !buffer.is_empty() {
            let most = match is_cutting && !is_trial {
                true => most_together(length),
                false => 1,
            };
            let (now, later) = buffer
                .split_at_checked(length.saturating_mul(most))
                .unwrap_or((buffer, &[]));
            let cut = (now.len() > length).then_some(length);
            match transmit(socket, endpoint, now, cut) {
                Ok(()) => {
                    buffer = later;
                    if is_trial {
                        self.remember(endpoint.address, length);
                        is_cutting = false;
                        is_trial = false;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(error) if cut.is_some() && may_be_of_cutting(error) => is_trial = true,
                Err(error) if endpoint.source.is_some() && may_be_of_source(error) => {
                    endpoint.source = None;
                    is_trial = false;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn is_cutting(&mut self, socket: &Socket, address: SocketAddr, length: usize) -> bool {
        if !socket.is_cutting || self.refusals.is_empty() {
            return socket.is_cutting;
        }
        let Some(refusal) = self.refusals.get(&address.ip()) else {
            return true;
        };
        if refusal.since.elapsed() > MEMORY {
            self.refusals.remove(&address.ip());
            return true;
        }
        length < refusal.length
    }

    fn remember(&mut self, address: SocketAddr, length: usize) {
        if self.refusals.len() >= MOST_REFUSALS {
            self.refusals.clear();
        }
        let refusal = self.refusals.entry(address.ip()).or_insert(Refusal {
            length,
            since: Instant::now(),
        });
        refusal.length = refusal.length.min(length);
    }
}

fn transmit(
    socket: &Socket,
    endpoint: &Endpoint,
    bytes: &[u8],
    cut: Option<usize>,
) -> Result<(), Errno> {
    let cut = match cut.map(u16::try_from) {
        None => None,
        Some(Ok(cut)) => Some(cut),
        Some(Err(_)) => return Err(Errno::EMSGSIZE),
    };
    let address = SockaddrStorage::from(endpoint.address);
    let information = endpoint.source.map(Information::of);
    let messages = [
        information.as_ref().map(Information::message),
        cut.as_ref().map(ControlMessage::UdpGsoSegments),
    ];
    let both;
    let one;
    let messages: &[ControlMessage<'_>] = match messages {
        [Some(information), Some(cut)] => {
            both = [information, cut];
            &both
        }
        [Some(message), None] | [None, Some(message)] => {
            one = [message];
            &one
        }
        [None, None] => &[],
    };
    let socket = socket.as_fd().as_raw_fd();
    let parts = [IoSlice::new(bytes)];
    sendmsg(socket, &parts, messages, MsgFlags::empty(), Some(&address)).map(drop)
}

/// Which of our addresses a datagram has to leave from.
enum Information {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

impl Information {
    /// The interface is left to the routing table, which may lead elsewhere by now; but an address of a link means nothing without it.
    fn of(source: Source) -> Self {
        match source.address {
            IpAddr::V4(address) => Self::V4(libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from_ne_bytes(address.octets()),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            }),
            IpAddr::V6(address) => Self::V6(libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: address.octets(),
                },
                ipi6_ifindex: match address.is_unicast_link_local() {
                    true => source.interface,
                    false => 0,
                },
            }),
        }
    }

    fn message(&self) -> ControlMessage<'_> {
        match self {
            Self::V4(information) => ControlMessage::Ipv4PacketInfo(information),
            Self::V6(information) => ControlMessage::Ipv6PacketInfo(information),
        }
    }
}

/// Which of these it is depends on the version of the kernel.
fn may_be_of_cutting(error: Errno) -> bool {
    matches!(
        error,
        Errno::EINVAL | Errno::EMSGSIZE | Errno::EIO | Errno::EOPNOTSUPP
    )
}

fn may_be_of_source(error: Errno) -> bool {
    matches!(
        error,
        Errno::EINVAL
            | Errno::EADDRNOTAVAIL
            | Errno::ENODEV
            | Errno::ENETUNREACH
            | Errno::EHOSTUNREACH
    )
}
