//! Datagrams that are sent one by one: handshakes, keepalives, and packets that waited for a session.

use crate::endpoint::Endpoint;

/// What there is to send, in order.
#[derive(Default)]
pub(crate) struct Outgoing {
    datagrams: Vec<(Endpoint, Vec<u8>)>,
}

impl Outgoing {
    pub(crate) fn push(&mut self, endpoint: Endpoint, datagram: Vec<u8>) {
        self.datagrams.push((endpoint, datagram));
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (Endpoint, Vec<u8>)> {
        self.datagrams.drain(..)
    }
}
