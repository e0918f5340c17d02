//! From the tunnel to the network.

use std::sync::Arc;

use super::handshakes::Cause;
use super::{Device, Tables};
use crate::allowed_ips::Header;
use crate::clock::Now;
use crate::endpoint::Endpoint;
use crate::lock::{Lock as _, SharedLock as _};
use crate::message::HEADER_LEN;
use crate::outgoing::Outgoing;
use crate::peer::Peer;
use crate::transport::{Session, Slot};

const UDP: u8 = 17;

impl Device {
    /// Seals packets in place; all of them are for the destination of the first. The datagrams go to the endpoint that comes back.
    /// None: they have no way, or wait for a session, whose handshake is in `outgoing`.
    pub(crate) fn seal(
        &self,
        now: Now,
        mtu: usize,
        buffer: &mut [u8],
        slots: &[Slot],
        outgoing: &mut Outgoing,
    ) -> Option<Endpoint> {
        let first = packet_of(buffer, slots.first()?)?;
        let header = Header::read(first)?;
        let tables = self.tables.look();
        let peer = tables.owners.owner(header.destination)?;
        let endpoint = peer.endpoint()?;
        let is_loop = header.destination == endpoint.address.ip()
            && slots
                .iter()
                .filter_map(|slot| packet_of(buffer, slot))
                .any(|packet| is_loop(packet, &endpoint, tables.listen_port));
        if is_loop {
            return None;
        }
        let reserved = peer
            .current(now)
            .and_then(|session| Some((session.reserve(slots.len())?, session)));
        let Some((counter, session)) = reserved else {
            for slot in slots {
                if let Some(packet) = packet_of(buffer, slot) {
                    peer.queue.hold().push(packet, &self.waiting);
                }
            }
            // One may have come in between.
            self.flush(peer, now, outgoing);
            self.begin(&tables, peer, now, Cause::Need, outgoing);
            return None;
        };
        let mut bytes = 0;
        for (counter, slot) in (counter..).zip(slots) {
            if !session.seal(buffer, *slot, mtu, counter) {
                return None;
            }
            bytes += slot.sealed_len(mtu);
        }
        peer.count_sent(bytes);
        peer.timers.sent(now.monotonic);
        peer.timers.data_sent(now.monotonic);
        if session.wants_rekey(now.monotonic) {
            self.begin(&tables, peer, now, Cause::Need, outgoing);
        }
        Some(endpoint)
    }

    /// Sends what waits, if there is a session; true if something waited.
    pub(super) fn flush(&self, peer: &Arc<Peer>, now: Now, outgoing: &mut Outgoing) -> bool {
        let Some(session) = peer.current(now) else {
            return false;
        };
        let packets = peer.queue.hold().take(&self.waiting);
        let has_packets = !packets.is_empty();
        for packet in &packets {
            self.send(peer, &session, now, packet, outgoing);
        }
        if has_packets {
            peer.timers.data_sent(now.monotonic);
        }
        has_packets
    }

    /// Says that we are there. Without a session a handshake says it.
    pub(super) fn keepalive(
        &self,
        tables: &Tables,
        peer: &Arc<Peer>,
        now: Now,
        outgoing: &mut Outgoing,
    ) {
        let renews = match peer.current(now) {
            Some(session) => {
                self.send(peer, &session, now, &[], outgoing);
                session.wants_rekey(now.monotonic)
            }
            None => true,
        };
        if renews {
            self.begin(tables, peer, now, Cause::Need, outgoing);
        }
    }

    /// Sends nothing, sealed: it shows that we have the keys.
    pub(super) fn prove(&self, peer: &Peer, now: Now, outgoing: &mut Outgoing) {
        if let Some(session) = peer.current(now) {
            self.send(peer, &session, now, &[], outgoing);
        }
    }

    fn send(
        &self,
        peer: &Peer,
        session: &Session,
        now: Now,
        packet: &[u8],
        outgoing: &mut Outgoing,
    ) {
        let (Some(endpoint), Some(counter)) = (peer.endpoint(), session.reserve(1)) else {
            return;
        };
        let mtu = self.mtu();
        let slot = Slot {
            start: 0,
            len: packet.len(),
        };
        let mut datagram = vec![0; slot.sealed_len(mtu)];
        datagram[HEADER_LEN..][..packet.len()].copy_from_slice(packet);
        if session.seal(&mut datagram, slot, mtu, counter) {
            peer.count_sent(datagram.len());
            peer.timers.sent(now.monotonic);
            outgoing.push(endpoint, datagram);
        }
    }
}

#[inline]
fn packet_of<'a>(buffer: &'a [u8], slot: &Slot) -> Option<&'a [u8]> {
    buffer.get(slot.start + HEADER_LEN..)?.get(..slot.len)
}

/// Whether this packet to the address of the peer's endpoint is a datagram of ours: the endpoint is routed into the tunnel, and the
/// packet would come back here again and again.
fn is_loop(packet: &[u8], endpoint: &Endpoint, listen_port: u16) -> bool {
    let (protocol, start) = match packet.first() {
        Some(first) if first >> 4 == 4 => (packet.get(9), usize::from(first & 15) * 4),
        _ => (packet.get(6), 40),
    };
    let port = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    protocol == Some(&UDP)
        && port(start) == Some(listen_port)
        && port(start + 2) == Some(endpoint.address.port())
}
