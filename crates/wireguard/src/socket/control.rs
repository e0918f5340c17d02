//! What the kernel says of a datagram beside its bytes, and socket options that have no safe wrapper.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;

use crate::endpoint::Source;

/// The alignment of control messages, and the length of their head: a `size_t` and two `int`.
const WORD: usize = size_of::<usize>();
const HEAD: usize = WORD + 8;

/// What came with a datagram, or with several in one buffer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Information {
    pub(super) source: Option<Source>,
    /// The length of each datagram in the buffer but the last.
    pub(super) segment: Option<usize>,
}

impl Information {
    /// Reads control messages; of those that are cut off or unknown nothing is taken.
    pub(super) fn decode(mut messages: &[u8]) -> Self {
        let mut information = Self::default();
        while let Some((head, rest)) = messages.split_at_checked(HEAD) {
            let Some((length, kind)) = head.split_first_chunk::<WORD>() else {
                break;
            };
            let length = usize::from_ne_bytes(*length);
            let Some(data) = length
                .checked_sub(HEAD)
                .and_then(|length| rest.get(..length))
            else {
                break;
            };
            if let Some((level, kind)) = number(kind, 0).zip(number(kind, 4)) {
                information.take(level, kind, data);
            }
            messages = messages
                .get(length.next_multiple_of(WORD)..)
                .unwrap_or_default();
        }
        information
    }

    fn take(&mut self, level: i32, kind: i32, data: &[u8]) {
        match (level, kind) {
            // `struct in_pktinfo`: the interface, our address to answer from, the address that it was sent to.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let address = data.get(4..).and_then(|data| data.first_chunk::<4>());
                self.source = address
                    .zip(number(data, 0))
                    .map(|(address, interface)| Source {
                        address: IpAddr::V4(Ipv4Addr::from(*address)),
                        interface: interface.cast_unsigned(),
                    });
            }
            // `struct in6_pktinfo`: the address, the interface.
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let address = data.first_chunk::<16>();
                self.source = address
                    .zip(number(data, 16))
                    .map(|(address, interface)| Source {
                        address: IpAddr::V6(Ipv6Addr::from(*address)),
                        interface: interface.cast_unsigned(),
                    });
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                self.segment = number(data, 0)
                    .and_then(|segment| usize::try_from(segment).ok())
                    .filter(|segment| *segment > 0);
            }
            _ => {}
        }
    }
}

/// Reads a `struct sockaddr_in` or `sockaddr_in6`.
pub(super) fn address(name: &[u8]) -> Option<SocketAddr> {
    let (family, name) = name.split_first_chunk::<2>()?;
    let (port, name) = name.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    match libc::c_int::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => {
            let address = Ipv4Addr::from(*name.first_chunk::<4>()?);
            Some(SocketAddrV4::new(address, port).into())
        }
        libc::AF_INET6 => {
            let (_flow, name) = name.split_first_chunk::<4>()?;
            let (address, name) = name.split_first_chunk::<16>()?;
            let scope = number(name, 0)?.cast_unsigned();
            Some(SocketAddrV6::new(Ipv6Addr::from(*address), port, 0, scope).into())
        }
        _ => None,
    }
}

/// Sets an option whose value is an `int`.
pub(super) fn set_number(
    socket: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    #[expect(unsafe_code, reason = "these options have no safe wrapper")]
    // SAFETY: the kernel reads one int, which lives until the call has returned.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

fn number(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
