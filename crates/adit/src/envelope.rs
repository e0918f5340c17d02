//! The file of a backup: its text with a checksum, or sealed with a passphrase (Argon2id, then ChaCha20-Poly1305).

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const PLAIN: &str = "adit-backup 1";
const SEALED: &str = "adit-backup 1 sealed";

/// What RFC 9106 section 4 recommends where memory is scarce: 64 MiB, 3 passes, 4 lanes.
const COST: Cost = Cost {
    memory: 64 << 10,
    passes: 3,
    lanes: 4,
};

/// A file must not make its reader take all memory, or all time.
const DEAREST: Cost = Cost {
    memory: 1 << 20,
    passes: 16,
    lanes: 16,
};

/// What is wrong with a file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvelopeError {
    #[error("it is no backup of Adit, or one of a later version")]
    Foreign,
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    #[error("it is sealed with a passphrase, and none was given")]
    Sealed,
    #[error("the passphrase is another one, or the file is damaged")]
    Passphrase,
    #[error("cannot make a key of the passphrase: {0}")]
    Key(String),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    /// KiB.
    memory: u32,
    passes: u32,
    lanes: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    cost: Cost,
    salt: String,
    nonce: String,
}

/// The file for a text.
pub(crate) fn plain(text: &str) -> String {
    format!("{PLAIN}\n{}\n{text}\n", checksum(text))
}

/// The file for a text that only whoever has the passphrase can read; the random bytes are of this file alone.
pub(crate) fn seal(
    text: &str,
    passphrase: &[u8],
    random: [u8; 28],
) -> Result<String, EnvelopeError> {
    let (salt, nonce) = random.split_at(16);
    let head = Head {
        cost: COST,
        salt: STANDARD.encode(salt),
        nonce: STANDARD.encode(nonce),
    };
    let head =
        serde_json::to_string(&head).map_err(|error| EnvelopeError::Key(error.to_string()))?;
    let payload = Payload {
        msg: text.as_bytes(),
        aad: head.as_bytes(),
    };
    let sealed = cipher(passphrase, salt, COST)?
        .encrypt(Nonce::from_slice(nonce), payload)
        .map_err(|_| EnvelopeError::Damaged("it cannot be sealed"))?;
    Ok(format!("{SEALED}\n{head}\n{}\n", STANDARD.encode(sealed)))
}

/// The text of a file.
pub(crate) fn open(file: &str, passphrase: Option<&[u8]>) -> Result<String, EnvelopeError> {
    let mut lines = file.splitn(3, '\n');
    let (kind, head, body) = (lines.next(), lines.next(), lines.next());
    let body = body
        .and_then(|body| body.strip_suffix('\n'))
        .ok_or(EnvelopeError::Damaged("its end is missing"));
    let head = head.unwrap_or_default();
    match kind {
        Some(PLAIN) => {
            let body = body?;
            if checksum(body) != head {
                return Err(EnvelopeError::Damaged("its checksum is wrong"));
            }
            Ok(body.to_owned())
        }
        Some(SEALED) => {
            let passphrase = passphrase.ok_or(EnvelopeError::Sealed)?;
            unseal(head, body?, passphrase)
        }
        Some(_) | None => Err(EnvelopeError::Foreign),
    }
}

fn unseal(head: &str, body: &str, passphrase: &[u8]) -> Result<String, EnvelopeError> {
    let damaged = || EnvelopeError::Damaged("its head cannot be read");
    let Head { cost, salt, nonce } = serde_json::from_str(head).map_err(|_| damaged())?;
    let is_bearable = cost.memory <= DEAREST.memory
        && cost.passes <= DEAREST.passes
        && cost.lanes <= DEAREST.lanes;
    let salt = STANDARD.decode(salt).map_err(|_| damaged())?;
    let nonce = STANDARD.decode(nonce).map_err(|_| damaged())?;
    if !is_bearable || nonce.len() != 12 {
        return Err(damaged());
    }
    let sealed = STANDARD.decode(body);
    let sealed = sealed.map_err(|_| EnvelopeError::Damaged("its content cannot be read"))?;
    let payload = Payload {
        msg: &sealed,
        aad: head.as_bytes(),
    };
    let text = cipher(passphrase, &salt, cost)?
        .decrypt(Nonce::from_slice(&nonce), payload)
        .map_err(|_| EnvelopeError::Passphrase)?;
    String::from_utf8(text).map_err(|_| EnvelopeError::Passphrase)
}

fn cipher(passphrase: &[u8], salt: &[u8], cost: Cost) -> Result<ChaCha20Poly1305, EnvelopeError> {
    let failed = |error: argon2::Error| EnvelopeError::Key(error.to_string());
    let params = Params::new(cost.memory, cost.passes, cost.lanes, Some(32)).map_err(failed)?;
    let mut key = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, &mut key)
        .map_err(failed)?;
    Ok(ChaCha20Poly1305::new(Key::from_slice(&key)))
}

fn checksum(text: &str) -> String {
    format!("sha256 {:x}", Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "{\"a\": \"ä\nb\"}";

    #[test]
    fn what_was_written_is_read_and_every_change_is_noticed() {
        let sealed = seal(TEXT, b"correct horse", [7; 28]).unwrap();
        assert!(!sealed.contains('ä'));
        let files = [plain(TEXT), sealed.clone()];
        for (index, file) in files.iter().enumerate() {
            assert_eq!(open(file, Some(b"correct horse")).unwrap(), TEXT);
            // Making keys takes a while: of what is sealed a sample.
            let step = if index == 0 { 1 } else { 29 };
            for position in (0..file.len()).step_by(step) {
                let mut bytes = file.clone().into_bytes();
                bytes[position] ^= 1;
                let read = String::from_utf8(bytes).map(|file| open(&file, Some(b"correct horse")));
                assert!(!matches!(read, Ok(Ok(_))), "byte {position} of {file}");
                let short = file.get(..position).unwrap_or_default();
                assert!(open(short, Some(b"correct horse")).is_err(), "{position}");
            }
        }
        assert_eq!(open(&sealed, None), Err(EnvelopeError::Sealed));
        assert_eq!(
            open(&sealed, Some(b"wrong")),
            Err(EnvelopeError::Passphrase)
        );
        assert_eq!(open("PK\n\n\n", None), Err(EnvelopeError::Foreign));
    }

    #[test]
    fn a_file_cannot_ask_for_all_memory() {
        let sealed = seal(TEXT, b"p", [1; 28]).unwrap();
        let dear = sealed.replace("\"memory\":65536", "\"memory\":4294967295");
        assert_ne!(dear, sealed);
        assert!(matches!(
            open(&dear, Some(b"p")),
            Err(EnvelopeError::Damaged(_))
        ));
    }
}
