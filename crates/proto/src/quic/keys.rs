//! The protection of Initials (RFC 9001 §5): anybody who saw the first can take it off.

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey, quic};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

use super::QuicError;
use super::packet::{Initial, Version};

/// RFC 9001 §5.2
const SALT_V1: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad,
    0xcc, 0xbb, 0x7f, 0x0a,
];
/// RFC 9369 §3.3.1
const SALT_V2: [u8; 20] = [
    0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb,
    0xf9, 0xbd, 0x2e, 0xd9,
];

const KEY: usize = 16;
const NONCE: usize = 12;
const TAG: usize = 16;
const SAMPLE: usize = 16;

/// What the client of one connection protects its Initials with.
pub(super) struct ClientKeys {
    version: Version,
    header: quic::HeaderProtectionKey,
    packet: LessSafeKey,
    nonce: [u8; NONCE],
}

impl std::fmt::Debug for ClientKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ClientKeys")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl ClientKeys {
    /// Those that follow from the destination of a client's first Initial.
    pub(super) fn derive(version: Version, destination: &[u8]) -> Result<Self, QuicError> {
        let (salt, labels) = match version {
            Version::V1 => (SALT_V1, ["quic key", "quic iv", "quic hp"]),
            // RFC 9369 §3.3.2
            Version::V2 => (SALT_V2, ["quicv2 key", "quicv2 iv", "quicv2 hp"]),
        };
        let initial = Salt::new(HKDF_SHA256, &salt).extract(destination);
        let secret: [u8; 32] = expand(&initial, "client in")?;
        let secret = Prk::new_less_safe(HKDF_SHA256, &secret);
        let [key, nonce, header] = labels;
        let key: [u8; KEY] = expand(&secret, key)?;
        let header: [u8; KEY] = expand(&secret, header)?;
        let packet = UnboundKey::new(&AES_128_GCM, &key).map_err(|_| QuicError::Protection)?;
        Ok(Self {
            version,
            header: quic::HeaderProtectionKey::new(&quic::AES_128, &header)
                .map_err(|_| QuicError::Protection)?,
            packet: LessSafeKey::new(packet),
            nonce: expand(&secret, nonce)?,
        })
    }

    pub(super) const fn version(&self) -> Version {
        self.version
    }

    /// The frames of an Initial.
    pub(super) fn open(&self, initial: &Initial<'_>) -> Result<Vec<u8>, QuicError> {
        let mut bytes = initial.bytes.to_vec();
        let offset = initial.number_offset;
        // RFC 9001 §5.4.2: the sample begins where a number of four bytes would end.
        let sample = bytes
            .get(offset + 4..offset + 4 + SAMPLE)
            .ok_or(QuicError::Malformed)?;
        let [first_mask, number_mask @ ..] = self
            .header
            .new_mask(sample)
            .map_err(|_| QuicError::Protection)?;
        let first = bytes.first_mut().ok_or(QuicError::Malformed)?;
        *first ^= first_mask & 0x0f;
        let number_length = usize::from(*first & 3) + 1;
        let number = bytes
            .get_mut(offset..offset + number_length)
            .ok_or(QuicError::Malformed)?;
        let mut value = 0;
        for (byte, mask) in number.iter_mut().zip(number_mask) {
            *byte ^= mask;
            value = value << 8 | u64::from(*byte);
        }
        // A client's first numbers are small, so what was cut off of them is zero (RFC 9000 §17.1).
        let mut nonce = self.nonce;
        for (byte, part) in nonce.iter_mut().rev().zip(value.to_be_bytes().iter().rev()) {
            *byte ^= part;
        }
        let payload = offset + number_length;
        if bytes.len() < payload + TAG {
            return Err(QuicError::Malformed);
        }
        let mut sealed = bytes.split_off(payload);
        let opened = self
            .packet
            .open_in_place(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(&bytes),
                &mut sealed,
            )
            .map_err(|_| QuicError::Protection)?
            .len();
        sealed.truncate(opened);
        Ok(sealed)
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446 §7.1).
fn expand<const N: usize>(secret: &Prk, label: &str) -> Result<[u8; N], QuicError> {
    let length = u16::try_from(N).map_err(|_| QuicError::Protection)?;
    let name_length = [6 + u8::try_from(label.len()).map_err(|_| QuicError::Protection)?];
    let length = length.to_be_bytes();
    let info = [&length[..], &name_length, b"tls13 ", label.as_bytes(), &[0]];
    let mut out = [0; N];
    secret
        .expand(&info, Length(N))
        .and_then(|material| material.fill(&mut out))
        .map_err(|_| QuicError::Protection)?;
    Ok(out)
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    impl ClientKeys {
        /// An Initial with these frames, as a client would send it.
        pub(in crate::quic) fn seal(
            &self,
            destination: &[u8],
            number: u32,
            frames: &[u8],
            token: &[u8],
        ) -> Vec<u8> {
            let first = match self.version {
                Version::V1 => 0xc3,
                Version::V2 => 0xd3,
            };
            let version: u32 = match self.version {
                Version::V1 => 1,
                Version::V2 => 0x6b33_43cf,
            };
            let mut header = vec![first];
            header.extend(version.to_be_bytes());
            header.push(destination.len() as u8);
            header.extend(destination);
            header.push(0);
            assert!(token.len() < 64);
            header.push(token.len() as u8);
            header.extend(token);
            header.extend((0x4000 | (4 + frames.len() + TAG) as u16).to_be_bytes());
            let offset = header.len();
            header.extend(number.to_be_bytes());
            let mut nonce = self.nonce;
            for (byte, part) in nonce
                .iter_mut()
                .rev()
                .zip(number.to_be_bytes().iter().rev())
            {
                *byte ^= part;
            }
            let mut sealed = frames.to_vec();
            self.packet
                .seal_in_place_append_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(&header),
                    &mut sealed,
                )
                .unwrap();
            let mask = self.header.new_mask(&sealed[..SAMPLE]).unwrap();
            header[0] ^= mask[0] & 0x0f;
            for (byte, mask) in header[offset..].iter_mut().zip(&mask[1..]) {
                *byte ^= mask;
            }
            [header, sealed].concat()
        }
    }

    #[test]
    fn the_keys_of_the_examples() {
        // RFC 9001 appendix A.1, RFC 9369 appendix A.1.
        let destination = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
        for (version, nonce) in [
            (
                Version::V1,
                [
                    0xfa, 0x04, 0x4b, 0x2f, 0x42, 0xa3, 0xfd, 0x3b, 0x46, 0xfb, 0x25, 0x5c,
                ],
            ),
            (
                Version::V2,
                [
                    0x91, 0xf7, 0x3e, 0x23, 0x51, 0xd8, 0xfa, 0x91, 0x66, 0x0e, 0x90, 0x9f,
                ],
            ),
        ] {
            let keys = ClientKeys::derive(version, &destination).unwrap();
            assert_eq!(keys.nonce, nonce);
        }
    }
}
