//! WireGuard keys; secrets do not show in `Debug`.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not a WireGuard key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a WireGuard key is 44 characters of base64 for 32 bytes")]
pub struct KeyError;

fn parse(text: &str) -> Result<[u8; 32], KeyError> {
    let bytes = STANDARD.decode(text.trim()).map_err(|_| KeyError)?;
    bytes.try_into().map_err(|_| KeyError)
}

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps the 32 bytes of a key.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The base64 text, as `wg` reads and writes it.
            pub fn to_base64(&self) -> String {
                STANDARD.encode(self.0)
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                parse(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.to_base64())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

key! {
    /// A Curve25519 public key: the identity of a peer.
    PublicKey
}
key! {
    /// A Curve25519 private key.
    PrivateKey
}
key! {
    /// A symmetric key that is mixed into the handshake of one peer.
    PresharedKey
}

impl PresharedKey {
    /// What WireGuard takes for no key.
    pub(crate) const NONE: Self = Self([0; 32]);

    /// Whether it is no key.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

impl PrivateKey {
    /// Makes a private key of 32 random bytes (clamped as X25519 wants it).
    pub fn from_random(mut bytes: [u8; 32]) -> Self {
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        Self(bytes)
    }

    /// The public key that belongs to it.
    pub fn public_key(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.to_base64())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.to_base64())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PrivateKey(hidden)")
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PresharedKey(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_gives_the_public_key_that_wg_gives() {
        // `echo AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHl8= | wg pubkey`
        let private: PrivateKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHl8="
            .parse()
            .unwrap();
        assert_eq!(
            private.public_key().to_base64(),
            "j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiE4KF8="
        );
        assert!(!format!("{private:?}").contains("AAEC"));
    }

    #[test]
    fn a_text_of_another_length_is_no_key() {
        assert_eq!("AAAA".parse::<PublicKey>(), Err(KeyError));
        assert_eq!("".parse::<PublicKey>(), Err(KeyError));
    }
}
