//! The same sockets by the kernel's socket diagnosis, which walks through those that listen only: `/proc` has it walk through every
//! connection of the host.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_model::protocol::Protocol;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket as Netlink, SocketAddr};
use nix::errno::Errno;
use nix::libc::{AF_INET, AF_INET6};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{Socket, is_open};
use crate::netfilter::{DATAGRAM, Parts};

const BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const KIND_ERROR: u16 = 2;
const KIND_DONE: u16 = 3;

/// States of net/tcp_states.h, as bits.
const LISTENING: u32 = 1 << 10;
const UNCONNECTED: u32 = 1 << 7;

/// Listening TCP sockets and unconnected UDP sockets of this network namespace.
pub(super) fn sockets() -> io::Result<Vec<Socket>> {
    let mut netlink = Netlink::new(NETLINK_SOCK_DIAG)?;
    netlink.bind_auto()?;
    netlink.connect(&SocketAddr::new(0, 0))?;
    setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
    let mut sockets = Vec::new();
    for family in [AF_INET as u8, AF_INET6 as u8] {
        for (protocol, states) in [(Protocol::Tcp, LISTENING), (Protocol::Udp, UNCONNECTED)] {
            match dump(&netlink, family, protocol, states) {
                Ok(more) => sockets.extend(more),
                // A kernel without IPv6.
                Err(error)
                    if family == AF_INET6 as u8
                        && error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(sockets)
}

fn dump(netlink: &Netlink, family: u8, protocol: Protocol, states: u32) -> io::Result<Vec<Socket>> {
    const HEADER: usize = 16;
    const REQUEST: usize = 56;
    let mut request = Vec::with_capacity(HEADER + REQUEST);
    request.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    // One at a time is asked for, so that answers need no number.
    request.extend([0; 8]);
    request.extend([family, protocol.number(), 0, 0]);
    request.extend(states.to_ne_bytes());
    request.resize(HEADER + REQUEST, 0);
    netlink.send(&request, 0)?;
    let mut sockets = Vec::new();
    loop {
        let mut datagram = Vec::with_capacity(DATAGRAM);
        netlink.recv(&mut datagram, 0)?;
        for part in Parts(&datagram) {
            match part.kind {
                KIND_DONE => return Ok(sockets),
                KIND_ERROR => {
                    part.outcome()?;
                }
                _ => sockets.extend(socket_of(part.payload, protocol)),
            }
        }
    }
}

/// A socket of `struct inet_diag_msg`.
pub(crate) fn socket_of(message: &[u8], protocol: Protocol) -> Option<Socket> {
    const PORT: usize = 4;
    const ADDRESS: usize = 8;
    const INODE: usize = 68;
    let port: [u8; 2] = message.get(PORT..PORT + 2)?.try_into().ok()?;
    let address: [u8; 16] = message.get(ADDRESS..ADDRESS + 16)?.try_into().ok()?;
    let address = match i32::from(*message.first()?) {
        AF_INET => {
            let [a, b, c, d, ..] = address;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(address)).to_canonical(),
        _ => return None,
    };
    let inode: [u8; 4] = message.get(INODE..INODE + 4)?.try_into().ok()?;
    let socket = Socket {
        protocol,
        address,
        port: u16::from_be_bytes(port),
        inode: u32::from_ne_bytes(inode).into(),
    };
    is_open(&socket).then_some(socket)
}
