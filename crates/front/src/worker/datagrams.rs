//! Datagrams of a socket, as many of one sender and size at once as the kernel has together (UDP_GRO, UDP_SEGMENT in udp(7)).

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, sendto,
    setsockopt, sockopt,
};

/// More are not sent at once (UDP_MAX_SEGMENTS).
const MOST: usize = 64;
const LARGEST: usize = 65_000;
const FLAGS: MsgFlags = MsgFlags::MSG_NOSIGNAL;

/// What was received: its length, and that of each datagram in it but the last, which may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) length: usize,
    pub(super) each: usize,
    pub(super) from: Option<SocketAddr>,
}

/// Lets what has come together be received together. Where the kernel cannot, it comes one by one.
pub(super) fn take_together(socket: impl AsFd) {
    let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
}

/// `control` is room for what the kernel says of it.
pub(super) fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
    control: &mut [u8],
) -> nix::Result<Received> {
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_fd().as_raw_fd(),
        &mut parts,
        Some(control),
        MsgFlags::empty(),
    )?;
    let length = message.bytes;
    let each = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
        _ => None,
    });
    Ok(Received {
        length,
        each: each.filter(|size| *size > 0).unwrap_or(length).max(1),
        from: message.address.as_ref().and_then(address),
    })
}

/// Sends datagrams of `each` bytes, to where the socket is connected unless `to` says where. What there is no room for is
/// lost like any datagram.
pub(super) fn send(socket: impl AsFd, bytes: &[u8], each: usize, to: Option<SocketAddr>) {
    let to = to.map(SockaddrStorage::from);
    let socket = socket.as_fd().as_raw_fd();
    let together = each * (LARGEST / each).clamp(1, MOST);
    for part in bytes.chunks(together) {
        let size = u16::try_from(each).unwrap_or(u16::MAX);
        if part.len() > each {
            let parts = [IoSlice::new(part)];
            let messages = [ControlMessage::UdpGsoSegments(&size)];
            match sendmsg(socket, &parts, &messages, FLAGS, to.as_ref()) {
                Ok(_) | Err(Errno::EAGAIN) => continue,
                // A path or a device that takes them one by one only, or the error of a datagram before.
                Err(_) => {}
            }
        }
        for datagram in part.chunks(each) {
            let _ = match &to {
                Some(to) => sendto(socket, datagram, to, FLAGS),
                None => nix::sys::socket::send(socket, datagram, FLAGS),
            };
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
            send(&sender, &bytes, 700, Some(to));
            let mut buffer = vec![0; 1 << 16];
            let mut control = nix::cmsg_space!(i32);
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
}
