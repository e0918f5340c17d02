//! The sockets of a front: those that wait for clients, and those towards devices.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, listen, socket_with,
};
use socket2::SockRef;

use crate::table::{Mode, Service, Target};

const BACKLOG: i32 = 4096;
/// A peer that is gone without a word is known after these: idle, then probes in between.
const IDLE: Duration = Duration::from_secs(60);
const BETWEEN: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;
/// What may come while others are served.
const DATAGRAM_BUFFER: usize = 4 << 20;

/// A socket that waits at an address, which need not be there yet.
pub(crate) fn open(address: SocketAddr, service: Service) -> io::Result<OwnedFd> {
    let kind = if service.is_tcp() {
        SocketType::STREAM
    } else {
        SocketType::DGRAM
    };
    let socket = new(address, kind)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
        sockopt::set_ipv6_freebind(&socket, true)?;
    } else {
        sockopt::set_ip_freebind(&socket, true)?;
    }
    if service.is_tcp() {
        sockopt::set_socket_reuseaddr(&socket, true)?;
        // Those that are accepted inherit both.
        keep_alive(&socket)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
    } else {
        widen(&socket);
    }
    bind(&socket, &address)?;
    if service.is_tcp() {
        listen(&socket, BACKLOG)?;
        // Inherited, too, but only from what listens already. What a client says first is acknowledged with what it is
        // answered, unless that takes longer than the kernel delays an acknowledgement.
        sockopt::set_tcp_quickack(&socket, false)?;
    }
    Ok(socket)
}

/// A connection to a device that may not be there yet, from whatever address the target's mode says. Port 0 of the client stands
/// for any other than its own.
pub(crate) fn dial(target: &Target, service: Service, client: SocketAddr) -> io::Result<OwnedFd> {
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let is_transparent = target.mode == Mode::Transparent
        && client.is_ipv4() == target.address.is_ipv4()
        && !target.is_near(client.ip());
    if !is_transparent {
        return Ok(dial_from(target, service, None)?);
    }
    match dial_from(target, service, Some(client)) {
        // It has another connection to this device from that port, or had one a moment ago: by another listener, say.
        Err(Errno::ADDRINUSE | Errno::ADDRNOTAVAIL) => {
            let other_port = SocketAddr::new(client.ip(), 0);
            Ok(dial_from(target, service, Some(other_port))?)
        }
        dialled => Ok(dialled?),
    }
}

/// Whether a socket has this address.
pub(crate) fn is_bound_to(socket: &OwnedFd, address: SocketAddr) -> bool {
    let bound = getsockname(socket).and_then(SocketAddr::try_from);
    bound == Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// Whether this process may take addresses that this host has not, as [`Mode::Transparent`] needs.
pub(crate) fn may_be_another() -> io::Result<()> {
    let any = SocketAddr::from(([0; 4], 0));
    SockRef::from(&new(any, SocketType::STREAM)?).set_ip_transparent_v4(true)
}

fn dial_from(
    target: &Target,
    service: Service,
    source: Option<SocketAddr>,
) -> rustix::io::Result<OwnedFd> {
    let kind = if service.is_tcp() {
        SocketType::STREAM
    } else {
        SocketType::DGRAM
    };
    let address = target.address;
    let socket = new(address, kind)?;
    if service.is_tcp() {
        sockopt::set_tcp_nodelay(&socket, true)?;
        // The last word of the handshake goes with the first bytes: a packet less through the tunnel.
        sockopt::set_tcp_quickack(&socket, false)?;
    } else {
        widen(&socket);
    }
    if let Some(source) = source {
        bind_as(&socket, source)?;
    }
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// Takes an address that this host need not have.
fn bind_as(socket: &OwnedFd, source: SocketAddr) -> rustix::io::Result<()> {
    let options = SockRef::from(socket);
    let set = if source.is_ipv4() {
        options.set_ip_transparent_v4(true)
    } else {
        options.set_ip_transparent_v6(true)
    };
    set.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
    // The same client may talk to two devices from one port. Where it is to be another, it is nobody's.
    sockopt::set_socket_reuseaddr(socket, source.port() != 0)?;
    bind(socket, &source)
}

fn new(address: SocketAddr, kind: SocketType) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(family, kind, flags, None)
}

/// A peer of a TCP connection that is gone will be noticed.
pub(crate) fn keep_alive(socket: impl AsFd) -> rustix::io::Result<()> {
    let socket = socket.as_fd();
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, IDLE)?;
    sockopt::set_tcp_keepintvl(socket, BETWEEN)?;
    sockopt::set_tcp_keepcnt(socket, PROBES)
}

/// As far as the kernel allows.
fn widen(socket: impl AsFd) {
    let socket = socket.as_fd();
    let _ = sockopt::set_socket_recv_buffer_size(socket, DATAGRAM_BUFFER);
    let _ = sockopt::set_socket_send_buffer_size(socket, DATAGRAM_BUFFER);
}
