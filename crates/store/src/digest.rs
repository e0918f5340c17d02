//! Digests that tell what was damaged from what was written.

use sha2::{Digest, Sha256};

/// The first eight bytes of a SHA-256 over the parts, each after its length.
pub(crate) fn short_digest(parts: &[&[u8]]) -> i64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize()
        .first_chunk()
        .copied()
        .map(i64::from_be_bytes)
        .unwrap_or_default()
}
