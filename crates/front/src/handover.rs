//! What one front hands to the next: descriptors, and what they are.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::table::{Service, Table};

/// Descriptors in one message; the kernel takes 253 (unix(7)).
const TOGETHER: usize = 200;

/// The descriptors in the order in which they come: the control socket, the listeners, the flows, and what the fronts are told
/// over that carry their last connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inventory {
    pub(crate) table: Table,
    pub(crate) listeners: Vec<ListenerItem>,
    pub(crate) flows: Vec<FlowItem>,
    #[serde(default)]
    pub(crate) predecessors: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListenerItem {
    pub(crate) address: SocketAddr,
    pub(crate) service: Service,
}

/// A QUIC flow: the socket towards the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FlowItem {
    /// Which of the listeners, by its place.
    pub(crate) listener: usize,
    pub(crate) client: SocketAddr,
    /// Nothing for the fallback.
    pub(crate) name: Option<String>,
    /// Whether the client is known to be where it says.
    #[serde(default)]
    pub(crate) is_proven: bool,
}

impl Inventory {
    /// How many descriptors come with it.
    pub(crate) const fn count(&self) -> usize {
        1 + self.listeners.len() + self.flows.len() + self.predecessors
    }
}

/// Sends descriptors, each message with one byte.
pub(crate) fn send(channel: impl AsFd, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let channel = channel.as_fd();
    for together in descriptors.chunks(TOGETHER) {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(TOGETHER))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(together)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(
            channel,
            &[IoSlice::new(&[0])],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
    }
    Ok(())
}

/// Receives so many descriptors.
pub(crate) fn receive(channel: impl AsFd, count: usize) -> io::Result<Vec<OwnedFd>> {
    let channel = channel.as_fd();
    let mut descriptors = Vec::with_capacity(count);
    while descriptors.len() < count {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(TOGETHER))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let received = recvmsg(
            channel,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = descriptors.len();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        // Without room for them the kernel leaves them out.
        if descriptors.len() == before {
            return Err(io::Error::other("descriptors are missing"));
        }
    }
    Ok(descriptors)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn many_descriptors_arrive_in_their_order() {
        let (sender, receiver) = UnixStream::pair().unwrap();
        let pairs: Vec<_> = (0..450).map(|_| UnixStream::pair().unwrap()).collect();
        let descriptors: Vec<_> = pairs.iter().map(|(end, _)| end.as_fd()).collect();
        send(&sender, &descriptors).unwrap();
        let received = receive(&receiver, descriptors.len()).unwrap();
        for (number, (received, (_, other))) in received.into_iter().zip(&pairs).enumerate() {
            let text = number.to_string();
            UnixStream::from(received)
                .write_all(text.as_bytes())
                .unwrap();
            let mut read = vec![0; text.len()];
            (&mut &*other).read_exact(&mut read).unwrap();
            assert_eq!(read, text.as_bytes());
        }
    }

    #[test]
    fn the_end_of_the_channel_is_an_error() {
        let (sender, receiver) = UnixStream::pair().unwrap();
        drop(sender);
        assert!(receive(&receiver, 1).is_err());
    }
}
