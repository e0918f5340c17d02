//! The Noise handshake (IKpsk2), both sides of it; `snow` does the protocol, keys and messages are ours.

mod resolver;

use snow::params::NoiseParams;
use snow::{Builder, HandshakeState};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::erased::Erased;
use crate::message::{Initiation, Response};
use crate::transport::Keys;
use resolver::Resolver;

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// The Noise parts of both messages, without types, indices and MACs.
pub(crate) const INITIATION_NOISE_LEN: usize = 108;
pub(crate) const RESPONSE_NOISE_LEN: usize = 48;

pub(crate) type Key = [u8; 32];
pub(crate) type Timestamp = [u8; 12];

/// The private key of the interface, and what follows from it.
pub(crate) struct Identity {
    private_key: StaticSecret,
    pub(crate) public_key: Key,
}

impl Identity {
    pub(crate) fn new(private_key: Key) -> Self {
        let private_key = StaticSecret::from(private_key);
        let public_key = PublicKey::from(&private_key).to_bytes();
        Self {
            private_key,
            public_key,
        }
    }

    pub(crate) fn private_key(&self) -> Zeroizing<Key> {
        Zeroizing::new(self.private_key.to_bytes())
    }
}

/// A handshake that we began and that is not answered yet.
pub(crate) struct Begun(Erased<HandshakeState>);

/// A handshake that somebody else began; the message is authentic, but it may be a replay.
pub(crate) struct Heard {
    state: Erased<HandshakeState>,
    /// Who began it.
    pub(crate) public_key: Key,
    pub(crate) timestamp: Timestamp,
}

/// Begins a handshake: the Noise part of the initiation.
pub(crate) fn begin(
    identity: &Identity,
    peer: &Key,
    preshared_key: &Key,
    timestamp: Timestamp,
) -> Option<([u8; INITIATION_NOISE_LEN], Begun)> {
    let state = builder(&identity.private_key())?
        .remote_public_key(peer)
        .ok()?
        .psk(2, preshared_key)
        .ok()?
        .build_initiator()
        .ok()?;
    let mut state = Erased::new(state);
    let mut noise = [0; INITIATION_NOISE_LEN];
    let length = state.write_message(&timestamp, &mut noise).ok()?;
    (length == noise.len()).then_some((noise, Begun(state)))
}

/// Takes an initiation apart. None if it is not for this identity, or forged.
pub(crate) fn hear(identity: &Identity, initiation: &Initiation) -> Option<Heard> {
    let state = builder(&identity.private_key())?.build_responder().ok()?;
    let mut state = Erased::new(state);
    let mut timestamp = [0; 12];
    let length = state
        .read_message(initiation.get(8..8 + INITIATION_NOISE_LEN)?, &mut timestamp)
        .ok()?;
    let public_key = state.get_remote_static()?.try_into().ok()?;
    (length == timestamp.len()).then_some(Heard {
        state,
        public_key,
        timestamp,
    })
}

impl Heard {
    /// Answers: the Noise part of the response, and the keys that follow.
    pub(crate) fn answer(
        mut self,
        preshared_key: &Key,
    ) -> Option<([u8; RESPONSE_NOISE_LEN], Keys)> {
        self.state.set_psk(2, preshared_key).ok()?;
        let mut noise = [0; RESPONSE_NOISE_LEN];
        let length = self.state.write_message(&[], &mut noise).ok()?;
        let (receive, send) = split(&mut self.state);
        (length == noise.len()).then_some((noise, Keys { send, receive }))
    }
}

impl Begun {
    /// Takes the answer. It may be forged, and the true one still to come: then the handshake goes on as it was.
    pub(crate) fn finish(&mut self, response: &Response) -> Option<Keys> {
        let noise = response.get(12..12 + RESPONSE_NOISE_LEN)?;
        self.0.read_message(noise, &mut []).ok()?;
        let (send, receive) = split(&mut self.0);
        Some(Keys { send, receive })
    }
}

fn split(state: &mut HandshakeState) -> (Zeroizing<Key>, Zeroizing<Key>) {
    let (first, second) = state.dangerously_get_raw_split();
    (Zeroizing::new(first), Zeroizing::new(second))
}

fn builder(private_key: &Key) -> Option<Builder<'_>> {
    let parameters: NoiseParams = PATTERN.parse().ok()?;
    Builder::with_resolver(parameters, Box::new(Resolver))
        .local_private_key(private_key)
        .ok()?
        .prologue(PROLOGUE)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message;

    fn pair() -> (Identity, Identity) {
        (Identity::new([1; 32]), Identity::new([2; 32]))
    }

    #[test]
    fn both_sides_end_with_the_same_keys_whatever_forgeries_come_first() {
        let (alice, bob) = pair();
        let preshared_key = [9; 32];
        let (noise, mut begun) = begin(&alice, &bob.public_key, &preshared_key, [5; 12]).unwrap();
        let initiation = message::initiation(1, &noise);
        let heard = hear(&bob, &initiation).unwrap();
        assert_eq!(heard.public_key, alice.public_key);
        assert_eq!(heard.timestamp, [5; 12]);
        let (noise, theirs) = heard.answer(&preshared_key).unwrap();
        let response = message::response(2, 1, &noise);
        for place in [12, 40, 44, 59] {
            let mut forged = response;
            forged[place] ^= 1;
            assert!(begun.finish(&forged).is_none(), "byte {place}");
        }
        let ours = begun.finish(&response).unwrap();
        assert_eq!(ours.send, theirs.receive);
        assert_eq!(ours.receive, theirs.send);
        assert_ne!(ours.send, ours.receive);
        assert!(begun.finish(&response).is_none(), "a second answer");
    }

    #[test]
    fn nothing_comes_of_other_keys() {
        let (alice, bob) = pair();
        let (noise, mut begun) = begin(&alice, &bob.public_key, &[1; 32], [5; 12]).unwrap();
        let initiation = message::initiation(1, &noise);
        assert!(hear(&alice, &initiation).is_none(), "not for this identity");
        for place in [8, 40, 80, 100, 115] {
            let mut forged = initiation;
            forged[place] ^= 1;
            assert!(hear(&bob, &forged).is_none(), "byte {place}");
        }
        let heard = hear(&bob, &initiation).unwrap();
        let (noise, _) = heard.answer(&[2; 32]).unwrap();
        let response = message::response(2, 1, &noise);
        assert!(begun.finish(&response).is_none(), "another preshared key");
    }

    #[test]
    fn points_of_low_order_are_refused() {
        let (alice, bob) = pair();
        assert!(begin(&alice, &[0; 32], &[0; 32], [5; 12]).is_none());
        let (noise, _) = begin(&alice, &bob.public_key, &[0; 32], [5; 12]).unwrap();
        let mut initiation = message::initiation(1, &noise);
        initiation[8..40].fill(0);
        assert!(hear(&bob, &initiation).is_none());
    }
}
