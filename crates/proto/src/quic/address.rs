//! Whether a client is where its datagrams say: only who hears the server knows the connection id that it chose.

use crate::octets::Octets;

/// RFC 8999 §5.1: the form of a header, the same in every version.
const LONG: u8 = 0x80;
/// Versions 1 and 2 have no longer ones (RFC 9000 §17.2).
const LONGEST: usize = 20;
/// One of fewer bytes could be guessed.
const SHORTEST: usize = 4;

/// Watches the first datagrams of a flow, both ways, until the client is proven to hear the server. It reads what is the same in
/// every version (RFC 8999), and needs no keys.
///
/// Where the server has no id of its own, a proof never comes: an empty one, or that which the client chose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressProof {
    state: State,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    New,
    /// The ids that the client chose, its own and the server's.
    Asked { own: Id, server: Id },
    /// The id that the server chose in their place.
    Answered { server: Id },
    /// A stranger could know it.
    Impossible,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id {
    length: u8,
    bytes: [u8; LONGEST],
}

impl AddressProof {
    /// Takes a datagram of the client's; whether it proves that the client hears the server.
    pub fn handle_client(&mut self, datagram: &[u8]) -> bool {
        match &self.state {
            State::New => {
                if let Some((server, own)) = long_header(datagram) {
                    self.state = State::Asked { own, server };
                }
            }
            // A server that keeps the ids of clients would keep this one.
            State::Asked { server, .. } => {
                if long_header(datagram).is_some_and(|(other, _)| other != *server) {
                    self.state = State::Impossible;
                }
            }
            State::Answered { server } => return is_for(datagram, server),
            State::Impossible => {}
        }
        false
    }

    /// Takes a datagram of the server's.
    pub fn handle_server(&mut self, datagram: &[u8]) {
        let State::Asked { own, server } = &self.state else {
            return;
        };
        match long_header(datagram) {
            // What sends back whatever it gets is no proof of anything.
            Some((destination, chosen)) if destination == *own => {
                self.state = if chosen == *server || chosen.as_bytes().len() < SHORTEST {
                    State::Impossible
                } else {
                    State::Answered { server: chosen }
                };
            }
            Some(_) | None => {}
        }
    }
}

impl Id {
    fn new(bytes: &[u8]) -> Option<Self> {
        let mut id = Self {
            length: u8::try_from(bytes.len()).ok()?,
            bytes: [0; LONGEST],
        };
        id.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(id)
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length.into()).unwrap_or_default()
    }
}

/// The ids of the destination and the source.
fn long_header(datagram: &[u8]) -> Option<(Id, Id)> {
    let mut cursor = Octets::new(datagram);
    let is_long = cursor.take_u8()? & LONG != 0;
    // Version negotiation (RFC 8999 §6) repeats what the client chose.
    if !is_long || cursor.take_u32()? == 0 {
        return None;
    }
    let destination = cursor.take_vector8()?.rest();
    let source = cursor.take_vector8()?.rest();
    Some((Id::new(destination)?, Id::new(source)?))
}

fn is_for(datagram: &[u8], id: &Id) -> bool {
    match datagram.split_first() {
        Some((first, rest)) if first & LONG == 0 => rest.starts_with(id.as_bytes()),
        Some(_) => long_header(datagram).is_some_and(|(destination, _)| destination == *id),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT: &[u8] = b"client";
    const FIRST: &[u8] = b"by-client";
    const CHOSEN: &[u8] = b"by-server";

    fn long(version: u32, destination: &[u8], source: &[u8]) -> Vec<u8> {
        let mut datagram = vec![0xc0];
        datagram.extend(version.to_be_bytes());
        for id in [destination, source] {
            datagram.push(id.len() as u8);
            datagram.extend(id);
        }
        datagram.extend([7; 40]);
        datagram
    }

    fn short(destination: &[u8]) -> Vec<u8> {
        [&[0x40], destination, &[7; 40]].concat()
    }

    /// A client that has asked, and was answered like this.
    fn answered(answer: &[u8]) -> AddressProof {
        let mut proof = AddressProof::default();
        assert!(!proof.handle_client(&long(1, FIRST, CLIENT)));
        proof.handle_server(answer);
        proof
    }

    #[test]
    fn the_id_that_the_server_chose_is_proof_in_either_header() {
        let mut proof = answered(&long(1, CLIENT, CHOSEN));
        for no_proof in [
            long(1, FIRST, CLIENT),
            long(0, CHOSEN, CLIENT),
            short(FIRST),
            short(&CHOSEN[..4]),
            Vec::new(),
        ] {
            assert!(!proof.handle_client(&no_proof), "{no_proof:?}");
        }
        assert!(proof.handle_client(&short(CHOSEN)));
        assert!(proof.handle_client(&long(1, CHOSEN, CLIENT)));
        // Another may follow the first, which has been proof already (RFC 9000 §7.2).
        proof.handle_server(&long(1, CLIENT, b"another"));
        assert!(proof.handle_client(&long(1, CHOSEN, CLIENT)));
        // Clients often have none.
        let mut proof = AddressProof::default();
        assert!(!proof.handle_client(&long(9, FIRST, b"")));
        proof.handle_server(&long(9, b"", CHOSEN));
        assert!(proof.handle_client(&short(CHOSEN)));
    }

    #[test]
    fn what_a_stranger_may_know_is_no_proof() {
        // Nothing, what the client chose, what can be guessed.
        for chosen in [b"", FIRST, b"abc"] {
            let mut proof = answered(&long(1, CLIENT, chosen));
            assert!(!proof.handle_client(&short(chosen)));
            assert!(!proof.handle_client(&long(1, chosen, CLIENT)));
        }
        // One who speaks before it was answered could name the id of another of its connections.
        let mut proof = AddressProof::default();
        for first in [FIRST, CHOSEN] {
            assert!(!proof.handle_client(&long(1, first, CLIENT)));
        }
        proof.handle_server(&long(1, CLIENT, CHOSEN));
        assert!(!proof.handle_client(&short(CHOSEN)));
        // An echo, version negotiation, and what is no answer to this client.
        for answer in [
            long(1, FIRST, CLIENT),
            long(0, CLIENT, CHOSEN),
            long(1, b"others", CHOSEN),
            short(CHOSEN),
            b"\xc0".to_vec(),
        ] {
            let mut proof = answered(&answer);
            for id in [CHOSEN, CLIENT, FIRST] {
                assert!(!proof.handle_client(&short(id)), "{answer:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived_and_prove_nothing(
            datagrams in proptest::collection::vec(
                (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..6,
            ),
        ) {
            let mut proof = AddressProof::default();
            for (is_server, datagram) in &datagrams {
                if *is_server {
                    proof.handle_server(datagram);
                } else if proof.handle_client(datagram) {
                    // Only what a server has said before.
                    prop_assert!(datagrams.iter().any(|(is_server, _)| *is_server));
                }
            }
        }
    }
}
