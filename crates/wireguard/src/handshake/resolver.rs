//! The algorithms that `snow` is to use: secrets are erased, and points of low order refused.

use blake2::{Blake2s256, Digest as _};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::erased::Erased;

pub(super) struct Resolver;

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Randomness))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(Exchange::new()) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::Blake2s)
            .then(|| Box::new(Digest(Erased::new(Blake2s256::new()))) as Box<dyn Hash>)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly)
            .then(|| Box::new(Sealing(None)) as Box<dyn Cipher>)
    }
}

struct Randomness;

impl Random for Randomness {
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        getrandom::fill(bytes).map_err(|_| Error::Rng)
    }
}

struct Exchange {
    private_key: Zeroizing<[u8; 32]>,
    public_key: [u8; 32],
}

impl Exchange {
    fn new() -> Self {
        Self {
            private_key: Zeroizing::new([0; 32]),
            public_key: [0; 32],
        }
    }

    fn secret(&self) -> StaticSecret {
        StaticSecret::from(*self.private_key)
    }
}

impl Dh for Exchange {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, private_key: &[u8]) {
        if let Ok(bytes) = private_key.try_into() {
            self.private_key = Zeroizing::new(bytes);
            self.public_key = PublicKey::from(&self.secret()).to_bytes();
        }
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        random.try_fill_bytes(bytes.as_mut_slice())?;
        self.set(bytes.as_slice());
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public_key
    }

    fn privkey(&self) -> &[u8] {
        self.private_key.as_slice()
    }

    fn dh(&self, public_key: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let public_key: [u8; 32] = public_key
            .get(..32)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(Error::Dh)?;
        let shared = self.secret().diffie_hellman(&PublicKey::from(public_key));
        if !shared.was_contributory() {
            return Err(Error::Dh);
        }
        out.get_mut(..32)
            .ok_or(Error::Dh)?
            .copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

struct Digest(Erased<Blake2s256>);

impl Hash for Digest {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        *self.0 = Blake2s256::new();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let hash = self.0.finalize_reset();
        out[..32].copy_from_slice(&hash);
    }
}

struct Sealing(Option<Erased<LessSafeKey>>);

impl Cipher for Sealing {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0 = UnboundKey::new(&CHACHA20_POLY1305, key)
            .ok()
            .map(|key| Erased::new(LessSafeKey::new(key)));
    }

    /// `snow` sets a key first and gives room for the tag; the trait has no way to refuse. A length of 0 fails the caller's check.
    fn encrypt(&self, nonce: u64, authenticated: &[u8], plain: &[u8], out: &mut [u8]) -> usize {
        let length = plain.len();
        let (Some(key), Some(room)) = (&self.0, out.get_mut(..length + 16)) else {
            return 0;
        };
        let (sealed, tag_room) = room.split_at_mut(length);
        sealed.copy_from_slice(plain);
        match key.seal_in_place_separate_tag(self::nonce(nonce), Aad::from(authenticated), sealed) {
            Ok(tag) => tag_room.copy_from_slice(tag.as_ref()),
            Err(_) => return 0,
        }
        length + 16
    }

    fn decrypt(
        &self,
        nonce: u64,
        authenticated: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let key = self.0.as_ref().ok_or(Error::Decrypt)?;
        let (sealed, tag) = sealed.split_last_chunk::<16>().ok_or(Error::Decrypt)?;
        let plain = out.get_mut(..sealed.len()).ok_or(Error::Decrypt)?;
        plain.copy_from_slice(sealed);
        key.open_in_place_separate_tag(
            self::nonce(nonce),
            Aad::from(authenticated),
            Tag::from(*tag),
            plain,
            0..,
        )
        .map_err(|_| Error::Decrypt)?;
        Ok(sealed.len())
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}
