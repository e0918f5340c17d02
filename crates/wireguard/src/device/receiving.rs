//! From the network to the tunnel.

use std::net::IpAddr;
use std::sync::Arc;

use super::handshakes::Cause;
use super::indices::Entry;
use super::{Device, Tables};
use crate::allowed_ips::Header;
use crate::clock::Now;
use crate::endpoint::Endpoint;
use crate::lock::SharedLock as _;
use crate::message::{CookieReply, Initiation, Message, Response};
use crate::outgoing::Outgoing;
use crate::peer::Peer;
use crate::transport::Session;

/// What a batch of datagrams came to.
#[derive(Default)]
pub(crate) struct Opened<'a> {
    /// Packets for the tunnel, in the order in which they came.
    pub(crate) packets: Vec<&'a mut [u8]>,
    /// For [`Device::handle_handshake`]: they take long, and packets need not wait for them.
    pub(crate) handshakes: Vec<(HandshakeMessage, Endpoint)>,
    pub(crate) outgoing: Outgoing,
}

/// A copy of a message that belongs to a handshake.
#[derive(Debug)]
pub(crate) enum HandshakeMessage {
    Initiation(Box<Initiation>),
    Response(Box<Response>),
    CookieReply(Box<CookieReply>),
}

/// Datagrams of one session that came one after the other.
struct Run {
    index: u32,
    entry: Entry,
    session: Arc<Session>,
    /// The source address that was allowed last: mostly the next one is the same.
    allowed: Option<IpAddr>,
    endpoint: Option<Endpoint>,
    bytes: usize,
    has_data: bool,
}

impl Device {
    /// Opens datagrams in place.
    pub(crate) fn open<'a>(
        &self,
        now: Now,
        datagrams: impl IntoIterator<Item = (&'a mut [u8], Endpoint)>,
        opened: &mut Opened<'a>,
    ) {
        let tables = self.tables.look();
        let mut run: Option<Run> = None;
        for (datagram, endpoint) in datagrams {
            let (receiver, counter) = match Message::read(datagram) {
                None => continue,
                Some(Message::Transport { receiver, counter }) => (receiver, counter),
                Some(Message::Initiation(message)) => {
                    let message = HandshakeMessage::Initiation(Box::new(*message));
                    opened.handshakes.push((message, endpoint));
                    continue;
                }
                Some(Message::Response(message)) => {
                    let message = HandshakeMessage::Response(Box::new(*message));
                    opened.handshakes.push((message, endpoint));
                    continue;
                }
                Some(Message::CookieReply(message)) => {
                    let message = HandshakeMessage::CookieReply(Box::new(*message));
                    opened.handshakes.push((message, endpoint));
                    continue;
                }
            };
            if run.as_ref().is_none_or(|run| run.index != receiver) {
                if let Some(run) = run.take() {
                    self.finish(&tables, run, now, &mut opened.outgoing);
                }
                run = self.run(now, receiver);
            }
            if let Some(run) = &mut run
                && let Some(packet) = run.take(&tables, datagram, counter, endpoint)
            {
                opened.packets.push(packet);
            }
        }
        if let Some(run) = run {
            self.finish(&tables, run, now, &mut opened.outgoing);
        }
    }

    fn run(&self, now: Now, index: u32) -> Option<Run> {
        let entry = self.indices.look().get(index)?.clone();
        let session = Arc::clone(entry.session.as_ref()?);
        (!session.is_expired(now.monotonic)).then_some(Run {
            index,
            entry,
            session,
            allowed: None,
            endpoint: None,
            bytes: 0,
            has_data: false,
        })
    }

    /// What follows from a run, once for all of it.
    fn finish(&self, tables: &Tables, run: Run, now: Now, outgoing: &mut Outgoing) {
        let Some(endpoint) = run.endpoint else {
            return;
        };
        let peer: &Arc<Peer> = &run.entry.peer;
        peer.roam(endpoint);
        peer.count_received(run.bytes);
        peer.timers.received(now.monotonic);
        if run.session.confirm() {
            self.confirm(peer, &run.session, now, outgoing);
        }
        if run.has_data {
            peer.timers.data_received(now.monotonic);
        }
        if run.session.wants_last_rekey(now.monotonic) {
            self.begin(tables, peer, now, Cause::Need, outgoing);
        }
    }
}

impl Run {
    #[inline]
    fn take<'a>(
        &mut self,
        tables: &Tables,
        datagram: &'a mut [u8],
        counter: u64,
        endpoint: Endpoint,
    ) -> Option<&'a mut [u8]> {
        let bytes = datagram.len();
        let packet = self.session.open(datagram, counter)?;
        if !self.session.accept(counter) {
            return None;
        }
        self.endpoint = Some(endpoint);
        self.bytes += bytes;
        if packet.is_empty() {
            return None;
        }
        self.has_data = true;
        let header = Header::read(packet)?;
        if self.allowed != Some(header.source) {
            let owner = tables.owners.owner(header.source)?;
            if !Arc::ptr_eq(owner, &self.entry.peer) {
                return None;
            }
            self.allowed = Some(header.source);
        }
        packet.get_mut(..header.len)
    }
}
