//! Snapshot files: as they are, and with the checksum that belongs to them.

#![no_main]

use adit_store::snapshot;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

fuzz_target!(|content: &[u8]| {
    let _ = snapshot::parse(content);
    let mut sealed = content.to_vec();
    let end = format!("{{\"sha256\":\"{:x}\"}}\n", Sha256::digest(content));
    sealed.extend_from_slice(end.as_bytes());
    if let Ok(read) = snapshot::parse(&sealed) {
        adit_gateway::fuzzing::objects(read);
    }
});
