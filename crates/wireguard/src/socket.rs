//! The UDP socket of one address family: many datagrams a call, as far as the kernel and the interface do that.

mod batch;
mod control;
mod sender;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Type};

pub(crate) use batch::Receiver;
pub(crate) use sender::{Sender, most_together};

/// So that the kernel keeps what comes while another batch is opened. It counts its own bookkeeping, too.
const BUFFER: usize = 4 << 20;
/// How long a datagram waits for room in the queue of an interface before it is given up, so that an interface that stands still does
/// not stop what leaves by others.
const PATIENCE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// Bound to all addresses of its family.
#[derive(Debug)]
pub(crate) struct Socket {
    inner: socket2::Socket,
    port: u16,
    /// Whether the kernel cuts what is sent.
    is_cutting: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} the UDP socket of {family} port {port}: {source}")]
pub struct SocketError {
    pub operation: &'static str,
    pub family: Family,
    pub port: u16,
    pub source: io::Error,
}

impl Socket {
    /// Port 0 stands for any that is free.
    pub(crate) fn bind(family: Family, port: u16) -> Result<Self, SocketError> {
        let failed = |operation| {
            move |source| SocketError {
                operation,
                family,
                port,
                source,
            }
        };
        let (domain, address) = match family {
            Family::V4 => (
                Domain::IPV4,
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
            ),
            Family::V6 => (
                Domain::IPV6,
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
            ),
        };
        let inner = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))
            .map_err(failed("make"))?;
        set_up(&inner, family).map_err(failed("set up"))?;
        inner
            .bind(&SockAddr::from(address))
            .map_err(failed("bind"))?;
        let port = inner
            .local_addr()
            .map_err(failed("bind"))?
            .as_socket()
            .map_or(port, |address| address.port());
        // Both came with Linux 5.0; without them each datagram is a call, or a message, of its own.
        let is_cutting = setsockopt(&inner, sockopt::UdpGsoSegment, &0).is_ok();
        let _ = setsockopt(&inner, sockopt::UdpGroSegment, &true);
        Ok(Self {
            inner,
            port,
            is_cutting,
        })
    }

    #[must_use]
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The mark that policy routing and the firewall see; 0 is none.
    pub(crate) fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.inner.set_mark(mark)
    }

    /// Takes what has come, and says how many buffers it fills: none when nothing has come.
    pub(crate) fn receive(&self, receiver: &mut Receiver) -> io::Result<usize> {
        receiver.receive(self.inner.as_fd())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl Family {
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(_) => Self::V6,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A door for the fuzz targets.
#[cfg(feature = "fuzzing")]
pub(crate) fn read_ancillary(bytes: &[u8]) {
    let _ = (control::Information::decode(bytes), control::address(bytes));
}

fn set_up(socket: &socket2::Socket, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => {
            setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
            // The tunnel's packets may need more than a link on the way carries: then they are fragmented.
            control::set_number(
                socket,
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                libc::IP_PMTUDISC_DONT,
            )?;
        }
        Family::V6 => {
            socket.set_only_v6(true)?;
            setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            control::set_number(
                socket,
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IPV6_PMTUDISC_DONT,
            )?;
        }
    }
    socket.set_write_timeout(Some(PATIENCE))?;
    // Without the right to exceed the host's limit it is what the limit allows.
    if setsockopt(socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        socket.set_recv_buffer_size(BUFFER)?;
    }
    if setsockopt(socket, sockopt::SndBufForce, &BUFFER).is_err() {
        socket.set_send_buffer_size(BUFFER)?;
    }
    Ok(())
}
