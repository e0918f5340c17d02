//! Datagrams of a socket, as many of one sender and size at once as the kernel has together (UDP_GRO, UDP_SEGMENT in udp(7)).

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};

/// More are not sent at once (UDP_MAX_SEGMENTS).
const MOST: usize = 64;
const LARGEST: usize = 65_000;
const FLAGS: MsgFlags = MsgFlags::MSG_NOSIGNAL.union(MsgFlags::MSG_DONTWAIT);

/// What was received: its length, and that of each datagram in it but the last, which may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes of all of it.
    pub length: usize,
    /// Bytes of each datagram.
    pub each: usize,
    /// Who sent it.
    pub from: Option<SocketAddr>,
    /// Which address of this host it was sent to, where [`tell_destination`] was called.
    pub at: Option<IpAddr>,
}

/// Room for what the kernel says of what was received.
pub fn room() -> Vec<u8> {
    nix::cmsg_space!(i32, libc::in6_pktinfo)
}

/// Lets what has come together be received together. Where the kernel cannot, it comes one by one.
pub fn take_together(socket: impl AsFd) {
    let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
}

/// Lets be known which address something was sent to, on a socket of one family.
pub fn tell_destination(socket: impl AsFd, ipv6: bool) -> nix::Result<()> {
    if ipv6 {
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)
    } else {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)
    }
}

/// Receives what there is, with the [`room`] that it needs.
///
/// # Errors
///
/// Those of recvmsg(2).
pub fn receive(socket: impl AsFd, buffer: &mut [u8], control: &mut [u8]) -> nix::Result<Received> {
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_fd().as_raw_fd(),
        &mut parts,
        Some(control),
        MsgFlags::empty(),
    )?;
    let length = message.bytes;
    let mut received = Received {
        length,
        each: length.max(1),
        from: message.address.as_ref().and_then(address),
        at: None,
    };
    for said in message.cmsgs()? {
        match said {
            ControlMessageOwned::UdpGroSegments(size) => {
                let size = usize::try_from(size).ok().filter(|size| *size > 0);
                received.each = size.unwrap_or(received.each);
            }
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                received.at = Some(IpAddr::V4(info.ipi_addr.s_addr.to_ne_bytes().into()));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                received.at = Some(IpAddr::V6(info.ipi6_addr.s6_addr.into()));
            }
            _ => {}
        }
    }
    Ok(received)
}

/// Sends datagrams of `each` bytes, to where the socket is connected unless `to` says where, and from `at` where it is one of
/// many addresses. What there is no room for is lost like any datagram.
pub fn send(
    socket: impl AsFd,
    bytes: &[u8],
    each: usize,
    at: Option<IpAddr>,
    to: Option<SocketAddr>,
) {
    let to = to.map(SockaddrStorage::from);
    let source = at.map(Source::new);
    let socket = socket.as_fd().as_raw_fd();
    let send = |bytes: &[u8], size: Option<&u16>| {
        let size = size.map(ControlMessage::UdpGsoSegments);
        let source = source.as_ref().map(Source::message);
        let parts = [IoSlice::new(bytes)];
        let to = to.as_ref();
        match (size, source) {
            (Some(size), Some(source)) => sendmsg(socket, &parts, &[size, source], FLAGS, to),
            (Some(message), None) | (None, Some(message)) => {
                sendmsg(socket, &parts, &[message], FLAGS, to)
            }
            (None, None) => sendmsg(socket, &parts, &[], FLAGS, to),
        }
    };
    let together = each * (LARGEST / each).clamp(1, MOST);
    for part in bytes.chunks(together) {
        let size = u16::try_from(each).unwrap_or(u16::MAX);
        if part.len() > each {
            match send(part, Some(&size)) {
                Ok(_) | Err(Errno::EAGAIN) => continue,
                // A path or a device that takes them one by one only, or the error of a datagram before.
                Err(_) => {}
            }
        }
        for datagram in part.chunks(each) {
            let _ = send(datagram, None);
        }
    }
}

/// Which of our addresses something is sent from.
enum Source {
    Ipv4(libc::in_pktinfo),
    Ipv6(libc::in6_pktinfo),
}

impl Source {
    fn new(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::Ipv4(libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from_ne_bytes(address.octets()),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            }),
            IpAddr::V6(address) => Self::Ipv6(libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: address.octets(),
                },
                ipi6_ifindex: 0,
            }),
        }
    }

    fn message(&self) -> ControlMessage<'_> {
        match self {
            Self::Ipv4(info) => ControlMessage::Ipv4PacketInfo(info),
            Self::Ipv6(info) => ControlMessage::Ipv6PacketInfo(info),
        }
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(address) = storage.as_sockaddr_in() {
        return Some(SocketAddr::V4((*address).into()));
    }
    let address = storage.as_sockaddr_in6()?;
    Some(SocketAddr::V6((*address).into()))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn datagrams_arrive_as_they_were_sent_together_or_not() {
        for grouped in [false, true] {
            let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            let limit = std::time::Duration::from_secs(5);
            receiver.set_read_timeout(Some(limit)).unwrap();
            if grouped {
                take_together(&receiver);
            }
            let to = receiver.local_addr().unwrap();
            let bytes: Vec<u8> = (0..70 * 700 + 7).map(|byte| (byte % 251) as u8).collect();
            send(&sender, &bytes, 700, None, Some(to));
            let mut buffer = vec![0; 1 << 16];
            let mut control = room();
            let mut arrived = Vec::new();
            let mut calls = 0;
            while arrived.len() < bytes.len() {
                let received = receive(&receiver, &mut buffer, &mut control).unwrap();
                assert_eq!(received.from, Some(sender.local_addr().unwrap()));
                assert!(received.each == 700 || received.length == 7, "{received:?}");
                arrived.extend_from_slice(&buffer[..received.length]);
                calls += 1;
            }
            assert!(arrived == bytes);
            assert_eq!(calls == 71, !grouped, "{calls}");
        }
    }

    #[test]
    fn an_answer_comes_from_the_address_that_was_asked() {
        for (any, ours) in [("0.0.0.0:0", "127.0.0.2"), ("[::]:0", "::1")] {
            let server = UdpSocket::bind(any).unwrap();
            let ours: IpAddr = ours.parse().unwrap();
            tell_destination(&server, ours.is_ipv6()).unwrap();
            let at = SocketAddr::new(ours, server.local_addr().unwrap().port());
            let client = UdpSocket::bind(any).unwrap();
            client.send_to(b"question", at).unwrap();
            let mut buffer = [0; 100];
            let received = receive(&server, &mut buffer, &mut room()).unwrap();
            assert_eq!((received.length, received.at), (8, Some(ours)));
            send(&server, b"answer", 6, received.at, received.from);
            assert_eq!(client.recv_from(&mut buffer).unwrap(), (6, at));
        }
    }
}
