//! Tells that links, addresses, routes, rules or forwarding settings changed, by whoever.

use std::collections::BTreeSet;

use futures_util::FutureExt;
use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{AsyncSocketExt, TokioSocket};
use nix::errno::Errno;
use tokio::sync::mpsc;

use crate::netlink::{Cause, NetlinkError, open_socket};
use crate::route;

/// A kind of object changed. Proxy neighbours are not among them: the kernel tells nobody about those.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A link came, went or changed.
    Link,
    /// An address came, went or changed.
    Address,
    /// A route of others came, went or changed.
    Route,
    /// Routes that carry our protocol number came, went or changed, in this order; mostly by ourselves.
    OwnRoutes(Vec<route::Seen>),
    /// Too many of them to be told one by one.
    OwnRoutesLost,
    /// A rule came or went.
    Rule,
    /// Forwarding or another setting of an interface changed.
    Setting,
    /// Events were lost: anything may have changed.
    Lost,
}

/// Watches the network namespace of the calling thread until the receiver is dropped.
///
/// Subscribed when this returns: observe after it, and nothing is missed. A burst is told once a kind; events are
/// never dropped, what does not fit in the socket while the receiver is slow becomes [`Event::Lost`].
pub fn watch() -> Result<mpsc::Receiver<Event>, NetlinkError> {
    let socket = open_socket(&GROUPS)
        .map_err(Cause::Socket)
        .map_err(NetlinkError::because("watch", "route netlink"))?;
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(forward(socket, sender));
    Ok(receiver)
}

// `RTNLGRP_*` and `RTM_*` of linux/rtnetlink.h.
const GROUPS: [u32; 9] = [
    1,  // LINK
    5,  // IPV4_IFADDR
    7,  // IPV4_ROUTE
    8,  // IPV4_RULE
    9,  // IPV6_IFADDR
    11, // IPV6_ROUTE
    19, // IPV6_RULE
    24, // IPV4_NETCONF
    25, // IPV6_NETCONF
];
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const NEW_SETTING: u16 = 80;
const DELETE_SETTING: u16 = 81;

/// More routes of ours in one go than this are told as any route: it is cheaper to look at all of them.
const TOLD_ONE_BY_ONE: usize = 1000;

/// What was received and not told yet.
#[derive(Default)]
pub(crate) struct Pending {
    kinds: BTreeSet<Event>,
    own: Vec<route::Seen>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.kinds.is_empty() && self.own.is_empty()
    }

    fn pop(&mut self) -> Option<Event> {
        if self.own.len() > TOLD_ONE_BY_ONE {
            self.own.clear();
            return Some(Event::OwnRoutesLost);
        }
        if !self.own.is_empty() {
            return Some(Event::OwnRoutes(std::mem::take(&mut self.own)));
        }
        self.kinds.pop_first()
    }
}

async fn forward(socket: TokioSocket, sender: mpsc::Sender<Event>) {
    let mut buffer = Vec::with_capacity(64 << 10);
    let mut pending = Pending::default();
    loop {
        // What comes while the receiver is busy is taken in, or it would not fit in the socket.
        tokio::select! {
            received = receive(&socket, &mut buffer) => {
                if !note(&received, &buffer, &mut pending) {
                    let _ = sender.send(Event::Lost).await;
                    return;
                }
                while let Some(received) = receive(&socket, &mut buffer).now_or_never() {
                    if !note(&received, &buffer, &mut pending) {
                        break;
                    }
                }
            }
            permit = sender.reserve(), if !pending.is_empty() => {
                let Ok(permit) = permit else { return };
                if let Some(event) = pending.pop() {
                    permit.send(event);
                }
            }
            () = sender.closed() => return,
        };
    }
}

async fn receive(socket: &TokioSocket, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    buffer.clear();
    socket.recv(buffer).await?;
    adit_fault::point("netlink/event")
}

/// Adds what was received; false if the socket is of no more use.
fn note(received: &std::io::Result<()>, datagram: &[u8], pending: &mut Pending) -> bool {
    match received {
        Ok(()) => {
            read(datagram, pending);
            true
        }
        Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
            pending.kinds.insert(Event::Lost);
            true
        }
        Err(error) => {
            tracing::error!(%error, "netlink events ended");
            false
        }
    }
}

pub(crate) fn read(mut datagram: &[u8], pending: &mut Pending) {
    while let Ok(frame) = NetlinkBuffer::new_checked(datagram) {
        let length = (frame.length() as usize).next_multiple_of(4);
        let message = datagram.get(..frame.length() as usize).unwrap_or_default();
        let kind = match frame.message_type() {
            NEW_LINK | DELETE_LINK => Some(Event::Link),
            NEW_ADDRESS | DELETE_ADDRESS => Some(Event::Address),
            NEW_ROUTE | DELETE_ROUTE => match route::seen(message) {
                Some(route) => {
                    // One more says that they are too many.
                    if pending.own.len() <= TOLD_ONE_BY_ONE {
                        pending.own.push(route);
                    }
                    None
                }
                None => Some(Event::Route),
            },
            NEW_RULE | DELETE_RULE => Some(Event::Rule),
            NEW_SETTING | DELETE_SETTING => Some(Event::Setting),
            _ => None,
        };
        pending.kinds.extend(kind);
        datagram = datagram.get(length..).unwrap_or_default();
    }
}
