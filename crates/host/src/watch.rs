//! Tells that links, addresses, routes, rules or forwarding settings changed, by whoever.

use std::collections::BTreeSet;

use futures_util::FutureExt;
use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{AsyncSocketExt, TokioSocket};
use nix::errno::Errno;
use tokio::sync::mpsc;

use crate::netlink::{Cause, NetlinkError, open_socket};

/// A kind of object changed. Proxy neighbours are not among them: the kernel tells nobody about those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A link came, went or changed.
    Link,
    /// An address came, went or changed.
    Address,
    /// A route came, went or changed.
    Route,
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

async fn forward(socket: TokioSocket, sender: mpsc::Sender<Event>) {
    let mut buffer = Vec::with_capacity(64 << 10);
    loop {
        let mut events = BTreeSet::new();
        let first = tokio::select! {
            received = receive(&socket, &mut buffer) => received,
            () = sender.closed() => return,
        };
        if !note(&first, &buffer, &mut events) {
            let _ = sender.send(Event::Lost).await;
            return;
        }
        while let Some(received) = receive(&socket, &mut buffer).now_or_never() {
            if !note(&received, &buffer, &mut events) {
                break;
            }
        }
        for event in events {
            if sender.send(event).await.is_err() {
                return;
            }
        }
    }
}

async fn receive(socket: &TokioSocket, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    buffer.clear();
    socket.recv(buffer).await?;
    adit_fault::point("netlink/event")
}

/// Adds what was received; false if the socket is of no more use.
fn note(received: &std::io::Result<()>, datagram: &[u8], events: &mut BTreeSet<Event>) -> bool {
    match received {
        Ok(()) => {
            events.extend(events_in(datagram));
            true
        }
        Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
            events.insert(Event::Lost);
            true
        }
        Err(error) => {
            tracing::error!(%error, "netlink events ended");
            false
        }
    }
}

fn events_in(mut datagram: &[u8]) -> BTreeSet<Event> {
    let mut events = BTreeSet::new();
    while let Ok(frame) = NetlinkBuffer::new_checked(datagram) {
        events.extend(match frame.message_type() {
            NEW_LINK | DELETE_LINK => Some(Event::Link),
            NEW_ADDRESS | DELETE_ADDRESS => Some(Event::Address),
            NEW_ROUTE | DELETE_ROUTE => Some(Event::Route),
            NEW_RULE | DELETE_RULE => Some(Event::Rule),
            NEW_SETTING | DELETE_SETTING => Some(Event::Setting),
            _ => None,
        });
        let length = frame.length() as usize;
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    events
}
