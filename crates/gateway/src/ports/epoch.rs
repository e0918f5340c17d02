//! The epoch, over restarts: it begins anew when leases may be lost or an address is another.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adit_model::uplink::Uplink;
use adit_proto::port_control::{Epoch, SavedEpoch};
use serde::{Deserialize, Serialize};

/// The file in the state directory.
const FILE: &str = "epoch.json";

/// The epoch with what it depends on.
pub(super) struct KeptEpoch {
    file: PathBuf,
    epoch: Epoch,
    revision: u64,
    addresses: BTreeMap<String, Vec<IpAddr>>,
    /// Nobody was told yet that it began anew.
    is_untold: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    value: u32,
    /// Seconds since 1970.
    at: u64,
    revision: u64,
    addresses: BTreeMap<String, Vec<IpAddr>>,
}

impl KeptEpoch {
    /// Goes on with what a predecessor kept, unless the state went back to before it.
    pub(super) fn open(directory: PathBuf, revision: u64) -> Self {
        let file = directory.join(FILE);
        let record: Option<Record> = fs::read(&file)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        let now = Instant::now();
        match record {
            Some(record) if record.revision <= revision => {
                let saved = SavedEpoch {
                    value: record.value,
                    at: UNIX_EPOCH + Duration::from_secs(record.at),
                };
                Self {
                    file,
                    epoch: Epoch::resume(&saved, SystemTime::now(), now),
                    revision,
                    addresses: record.addresses,
                    is_untold: false,
                }
            }
            record => {
                let mut begun = Self {
                    file,
                    epoch: Epoch::begin(now),
                    revision,
                    addresses: BTreeMap::new(),
                    is_untold: record.is_some(),
                };
                begun.save();
                begun
            }
        }
    }

    /// Its value now.
    pub(super) fn value(&self) -> u32 {
        self.epoch.value(Instant::now())
    }

    /// Takes the uplinks as they are now; true where clients have to be told that the epoch began anew. An address that is away
    /// for a moment is not another one.
    pub(super) fn follow(&mut self, uplinks: &[Uplink]) -> bool {
        let mut is_other = false;
        let mut is_new = false;
        for uplink in uplinks {
            let known = uplink.public_ipv4().or_else(|| uplink.local_ipv4());
            let addresses: Vec<IpAddr> = (known.map(IpAddr::V4).into_iter())
                .chain(uplink.local_ipv6().map(IpAddr::V6))
                .collect();
            if addresses.is_empty() {
                continue;
            }
            match self.addresses.get(&uplink.name) {
                Some(before) if *before == addresses => {}
                Some(before) => {
                    // What was there is still there, and more came.
                    is_other |= !before.iter().all(|address| addresses.contains(address));
                    is_new = true;
                    self.addresses.insert(uplink.name.clone(), addresses);
                }
                None => {
                    is_new = true;
                    self.addresses.insert(uplink.name.clone(), addresses);
                }
            }
        }
        if is_other {
            self.epoch = Epoch::begin(Instant::now());
        }
        if is_other || is_new {
            self.save();
        }
        std::mem::take(&mut self.is_untold) || is_other
    }

    /// Without a file clients find the epoch begun anew after a restart, and ask once more.
    fn save(&mut self) {
        let saved = self.epoch.save(SystemTime::now(), Instant::now());
        let at = saved.at.duration_since(UNIX_EPOCH);
        let record = Record {
            value: saved.value,
            at: at.map_or(0, |at| at.as_secs()),
            revision: self.revision,
            addresses: self.addresses.clone(),
        };
        let store = || -> std::io::Result<()> {
            let new = self.file.with_extension("new");
            let mut options = fs::OpenOptions::new();
            let mut file = (options.write(true).create(true).truncate(true))
                .mode(0o600)
                .open(&new)?;
            file.write_all(&serde_json::to_vec(&record)?)?;
            file.sync_all()?;
            fs::rename(&new, &self.file)
        };
        if let Err(error) = store() {
            tracing::warn!(%error, file = %self.file.display(), "the epoch of PCP is not on record");
        }
    }
}
