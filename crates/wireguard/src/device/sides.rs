//! Devices that speak with each other, with virtual time: what tests and fuzz targets stand on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::{AllowedIp, Device, Opened, PeerChange};
use crate::clock::Now;
use crate::endpoint::Endpoint;
use crate::handshake::{Identity, Key};
use crate::lock::SharedLock as _;
use crate::message::HEADER_LEN;
use crate::outgoing::Outgoing;
use crate::peer::Peer;
use crate::transport::Slot;

pub(crate) const MTU: usize = 1420;

/// A device and where it is.
pub(crate) struct Side {
    pub(crate) device: Device,
    pub(crate) public_key: Key,
    pub(crate) address: SocketAddr,
}

/// A datagram on its way.
#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

impl Side {
    pub(crate) fn new(number: u8) -> Self {
        let device = Device::new(MTU);
        let private_key = [number; 32];
        device.set_private_key(&private_key);
        Self {
            device,
            public_key: Identity::new(private_key).public_key,
            address: SocketAddr::from(([192, 0, 2, number], 51820)),
        }
    }

    pub(crate) fn knows(&self, other: &Self, allowed_ips: &[&str], has_endpoint: bool) {
        let mut change = PeerChange::new(other.public_key);
        change.preshared_key = Some(Zeroizing::new([7; 32]));
        change.endpoint = has_endpoint.then_some(other.address);
        change.allowed_ips = prefixes(allowed_ips);
        self.device.change_peer(at(0), &change);
    }

    pub(crate) fn peer(&self, other: &Self) -> Arc<Peer> {
        Arc::clone(&self.device.tables.look().peers[&other.public_key])
    }

    /// Puts packets into the tunnel.
    pub(crate) fn send(&self, now: Now, packets: &[Vec<u8>]) -> Vec<Sent> {
        let mut buffer = Vec::new();
        let mut slots = Vec::new();
        for packet in packets {
            let slot = Slot {
                start: buffer.len(),
                len: packet.len(),
            };
            buffer.resize(slot.start + slot.sealed_len(MTU), 0);
            buffer[slot.start + HEADER_LEN..][..slot.len].copy_from_slice(packet);
            slots.push(slot);
        }
        let mut outgoing = Outgoing::default();
        let endpoint = self
            .device
            .seal(now, MTU, &mut buffer, &slots, &mut outgoing);
        let mut sent = self.sent(&mut outgoing);
        if let Some(endpoint) = endpoint {
            sent.extend(slots.iter().map(|slot| Sent {
                from: self.address,
                to: endpoint.address,
                bytes: buffer[slot.start..][..slot.sealed_len(MTU)].to_vec(),
            }));
        }
        sent
    }

    /// Takes datagrams from the network: packets for the tunnel, and what is answered.
    pub(crate) fn receive(&self, now: Now, datagrams: &[Sent]) -> (Vec<Vec<u8>>, Vec<Sent>) {
        let mut copies: Vec<Sent> = datagrams.to_vec();
        let mut opened = Opened::default();
        let batch = copies
            .iter_mut()
            .map(|sent| (&mut sent.bytes[..], Endpoint::new(sent.from)));
        self.device.open(now, batch, &mut opened);
        for (message, endpoint) in &opened.handshakes {
            self.device
                .handle_handshake(now, message, *endpoint, &mut opened.outgoing);
        }
        let packets = opened
            .packets
            .iter()
            .map(|packet| packet.to_vec())
            .collect();
        (packets, self.sent(&mut opened.outgoing))
    }

    pub(crate) fn tick(&self, now: Now) -> Vec<Sent> {
        let mut outgoing = Outgoing::default();
        self.device.handle_timeout(now, &mut outgoing);
        self.sent(&mut outgoing)
    }

    /// Seals whatever it is for a peer with which there is a session, without a look at its destination.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn seal_for(&self, now: Now, other: &Self, packet: &[u8]) -> Option<Sent> {
        let session = self.peer(other).current(now)?;
        let slot = Slot {
            start: 0,
            len: packet.len(),
        };
        let mut bytes = vec![0; slot.sealed_len(MTU)];
        bytes[HEADER_LEN..][..slot.len].copy_from_slice(packet);
        session.seal(&mut bytes, slot, MTU, session.reserve(1)?);
        Some(Sent {
            from: self.address,
            to: other.address,
            bytes,
        })
    }

    fn sent(&self, outgoing: &mut Outgoing) -> Vec<Sent> {
        let sent = outgoing.drain().map(|(endpoint, bytes)| Sent {
            from: self.address,
            to: endpoint.address,
            bytes,
        });
        sent.collect()
    }
}

pub(crate) fn at(seconds: u64) -> Now {
    Now {
        monotonic: Duration::from_secs(10_000 + seconds),
        wall: Duration::from_secs(1_800_000_000 + seconds),
    }
}

pub(crate) fn prefixes(texts: &[&str]) -> Vec<AllowedIp> {
    let parsed = texts.iter().filter_map(|text| text.parse().ok());
    parsed.map(AllowedIp::Add).collect()
}

pub(crate) fn packet(source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(
        &u16::try_from(20 + payload.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes(),
    );
    packet[12..16].copy_from_slice(&source);
    packet[16..20].copy_from_slice(&destination);
    packet.extend_from_slice(payload);
    packet
}

pub(crate) fn to_bob(payload: &[u8]) -> Vec<u8> {
    packet([10, 0, 0, 1], [10, 0, 0, 2], payload)
}

/// Alice knows where Bob is; Bob hears of Alice.
pub(crate) fn pair() -> (Side, Side) {
    let (alice, bob) = (Side::new(1), Side::new(2));
    alice.knows(&bob, &["10.0.0.2/32"], true);
    bob.knows(&alice, &["10.0.0.1/32"], false);
    (alice, bob)
}

/// Carries datagrams to and fro until nobody says anything; the packets that came out of each tunnel.
pub(crate) fn converse(
    alice: &Side,
    bob: &Side,
    now: Now,
    mut from_alice: Vec<Sent>,
    mut from_bob: Vec<Sent>,
) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut at_alice, mut at_bob) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        if from_alice.is_empty() && from_bob.is_empty() {
            return (at_alice, at_bob);
        }
        let (packets, mut answers) = bob.receive(now, &from_alice);
        at_bob.extend(packets);
        let (packets, next) = alice.receive(now, &from_bob);
        at_alice.extend(packets);
        from_alice = next;
        from_bob = std::mem::take(&mut answers);
    }
    assert!(
        from_alice.is_empty() && from_bob.is_empty(),
        "they do not stop speaking"
    );
    (at_alice, at_bob)
}

pub(crate) fn connected(now: Now) -> (Side, Side) {
    let (alice, bob) = pair();
    let sent = alice.send(now, &[to_bob(b"first")]);
    converse(&alice, &bob, now, sent, Vec::new());
    (alice, bob)
}
