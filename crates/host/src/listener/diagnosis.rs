//! The same sockets by the kernel's socket diagnosis, which walks through those that listen only: `/proc` has it walk through every
//! connection of the host.

use std::collections::BTreeSet;
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

/// TCP sockets of both families at once (`TCPDIAG_GETSOCK`), as what listens is walked through once then.
const TCP: u16 = 18;
/// Sockets of one family (`SOCK_DIAG_BY_FAMILY`).
const BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const KIND_ERROR: u16 = 2;
const KIND_DONE: u16 = 3;

/// States of net/tcp_states.h, as bits.
const LISTENING: u32 = 1 << 10;
const UNCONNECTED: u32 = 1 << 7;

/// The kernel's socket diagnosis for the network namespace of the thread that asks first.
#[derive(Debug, Default)]
pub(super) struct Diagnosis {
    netlink: Option<Netlink>,
    /// The last answer.
    datagram: Vec<u8>,
}

impl Diagnosis {
    /// Listening TCP sockets and unconnected UDP sockets, as far as they are of the `protocols`.
    pub(super) fn sockets(&mut self, protocols: &BTreeSet<Protocol>) -> io::Result<Vec<Socket>> {
        // What came of an error may have left answers behind.
        let netlink = match self.netlink.take() {
            Some(netlink) => netlink,
            None => open()?,
        };
        let mut sockets = Vec::new();
        if protocols.contains(&Protocol::Tcp) {
            sockets.extend(self.dump(&netlink, &listening_request(), Protocol::Tcp)?);
        }
        if protocols.contains(&Protocol::Udp) {
            for family in [AF_INET as u8, AF_INET6 as u8] {
                match self.dump(&netlink, &unconnected_request(family), Protocol::Udp) {
                    Ok(more) => sockets.extend(more),
                    // A kernel without IPv6.
                    Err(error)
                        if family == AF_INET6 as u8
                            && error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.netlink = Some(netlink);
        Ok(sockets)
    }

    fn dump(
        &mut self,
        netlink: &Netlink,
        request: &[u8],
        protocol: Protocol,
    ) -> io::Result<Vec<Socket>> {
        netlink.send(request, 0)?;
        let mut sockets = Vec::new();
        loop {
            self.datagram.clear();
            self.datagram.reserve(DATAGRAM);
            netlink.recv(&mut self.datagram, 0)?;
            for part in Parts(&self.datagram) {
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
}

fn open() -> io::Result<Netlink> {
    let mut netlink = Netlink::new(NETLINK_SOCK_DIAG)?;
    netlink.bind_auto()?;
    netlink.connect(&SocketAddr::new(0, 0))?;
    setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
    Ok(netlink)
}

/// `struct inet_diag_req`, whose family does not count.
fn listening_request() -> Vec<u8> {
    const LENGTH: usize = 60;
    const STATES: usize = 52;
    let mut body = vec![0; STATES];
    body.extend(LISTENING.to_ne_bytes());
    body.resize(LENGTH, 0);
    request(TCP, &body)
}

/// `struct inet_diag_req_v2`.
fn unconnected_request(family: u8) -> Vec<u8> {
    const LENGTH: usize = 56;
    let mut body = vec![family, Protocol::Udp.number(), 0, 0];
    body.extend(UNCONNECTED.to_ne_bytes());
    body.resize(LENGTH, 0);
    request(BY_FAMILY, &body)
}

fn request(kind: u16, body: &[u8]) -> Vec<u8> {
    const HEADER: usize = 16;
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    // One at a time is asked for, so that answers need no number.
    request.extend([0; 8]);
    request.extend(body);
    request
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
