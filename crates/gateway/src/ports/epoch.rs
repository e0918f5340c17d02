//! The epoch, over restarts: it begins anew when leases may be lost or an address is another.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adit_proto::port_control::{Epoch, SavedEpoch};
use serde::{Deserialize, Serialize};

use super::places::{Addresses, Place};

/// The file in the state directory.
const FILE: &str = "epoch.json";

/// The epoch with what it depends on.
pub(super) struct KeptEpoch {
    file: PathBuf,
    epoch: Epoch,
    revision: u64,
    places: BTreeMap<Place, Addresses>,
    /// Nobody was told yet that it began anew.
    is_untold: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    value: u32,
    /// Seconds since 1970.
    at: u64,
    revision: u64,
    // Not in those of older versions.
    #[serde(default)]
    places: Vec<(Place, Addresses)>,
    #[serde(default)]
    untold: bool,
}

/// Another state takes the place of the one that the epoch stands for: the next start begins it anew.
pub(crate) fn forget(directory: &Path) -> io::Result<()> {
    match fs::remove_file(directory.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl KeptEpoch {
    /// Goes on with what a predecessor kept, unless the state went back to before it. Where nothing was kept beside a state
    /// nobody knows what is lost, which is to be told as well (RFC 6887 section 14.1.3).
    pub(super) fn open(directory: &Path, revision: u64) -> Self {
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
                    places: record.places.into_iter().collect(),
                    is_untold: record.untold,
                }
            }
            Some(_) | None => {
                let mut begun = Self {
                    file,
                    epoch: Epoch::begin(now),
                    revision,
                    places: BTreeMap::new(),
                    is_untold: revision > 0,
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

    /// Takes the addresses as they are now, if they may be others. An address that is away for a moment is not another one.
    pub(super) fn follow(&mut self, places: &BTreeMap<Place, Addresses>, revision: u64) {
        self.revision = revision;
        let count = self.places.len();
        self.places.retain(|place, _| places.contains_key(place));
        let mut is_new = self.places.len() != count;
        let mut is_other = false;
        for (place, now) in places {
            let known = self.places.entry(place.clone()).or_default();
            let after = Addresses {
                ipv4: now.ipv4.or(known.ipv4),
                ipv6: now.ipv6.or(known.ipv6),
            };
            is_other |= (known.ipv4.is_some() && after.ipv4 != known.ipv4)
                || (known.ipv6.is_some() && after.ipv6 != known.ipv6);
            is_new |= after != *known;
            *known = after;
        }
        if is_other {
            self.epoch = Epoch::begin(Instant::now());
            self.is_untold = true;
        }
        if is_new {
            self.save();
        }
    }

    /// Whether clients have to be told that it began anew; true once.
    pub(super) fn is_to_be_told(&mut self) -> bool {
        let is_untold = std::mem::take(&mut self.is_untold);
        if is_untold {
            self.save();
        }
        is_untold
    }

    /// Without a file clients find the epoch begun anew after a restart, and ask once more.
    fn save(&mut self) {
        let saved = self.epoch.save(SystemTime::now(), Instant::now());
        let at = saved.at.duration_since(UNIX_EPOCH);
        let record = Record {
            value: saved.value,
            at: at.map_or(0, |at| at.as_secs()),
            revision: self.revision,
            places: self.places.clone().into_iter().collect(),
            untold: self.is_untold,
        };
        let store = || -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use adit_model::state::SubnetId;
    use adit_store::{Recovery, Store};

    use super::*;
    use crate::options::RunOptions;

    fn places(addresses: &[(u64, Option<&str>, Option<&str>)]) -> BTreeMap<Place, Addresses> {
        let place = |subnet| Place {
            subnet: SubnetId(subnet),
            egress: None,
        };
        let of = |ipv4: &Option<&str>, ipv6: &Option<&str>| Addresses {
            ipv4: ipv4.map(|text| text.parse().unwrap()),
            ipv6: ipv6.map(|text| text.parse().unwrap()),
        };
        let pairs = addresses.iter();
        pairs
            .map(|(subnet, ipv4, ipv6)| (place(*subnet), of(ipv4, ipv6)))
            .collect()
    }

    /// An epoch that has counted for a while, as a predecessor left it.
    fn counted(directory: &Path, revision: u64) -> KeptEpoch {
        let mut kept = KeptEpoch::open(directory, revision);
        let long_ago = SystemTime::now() - Duration::from_secs(500);
        let saved = SavedEpoch {
            value: 100,
            at: long_ago,
        };
        kept.epoch = Epoch::resume(&saved, SystemTime::now(), Instant::now());
        kept.is_untold = false;
        kept.save();
        kept
    }

    #[test]
    fn the_state_of_a_predecessor_goes_on_and_another_is_told_of_until_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let mut first = KeptEpoch::open(path, 0);
        assert!(!first.is_to_be_told(), "there was nothing to lose");
        drop(counted(path, 5));
        let mut next = KeptEpoch::open(path, 5);
        assert!(next.value() >= 600 && !next.is_to_be_told());

        forget(path).unwrap();
        forget(path).unwrap();
        let restored = KeptEpoch::open(path, 9);
        assert_eq!(restored.value(), 0);
        drop(restored);
        let mut again = KeptEpoch::open(path, 9);
        assert!(again.is_to_be_told(), "it ended before anybody was told");
        assert!(!again.is_to_be_told());
        assert!(!KeptEpoch::open(path, 9).is_to_be_told());

        drop(counted(path, 9));
        let mut back = KeptEpoch::open(path, 8);
        assert!(back.value() == 0 && back.is_to_be_told());
        let of_before = r#"{"value":7,"at":1,"revision":8,"addresses":{"eth0":["203.0.113.2"]}}"#;
        fs::write(path.join(FILE), of_before).unwrap();
        let mut older = KeptEpoch::open(path, 8);
        assert!(older.value() > 7 && !older.is_to_be_told());
        fs::write(path.join(FILE), "{").unwrap();
        let mut broken = KeptEpoch::open(path, 8);
        assert!(broken.value() == 0 && broken.is_to_be_told());
    }

    #[test]
    fn a_recovered_state_begins_it_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        drop(Store::open(path).unwrap());
        drop(counted(path, 5));
        fs::write(path.join("adit.db"), "no database").unwrap();
        let options = RunOptions {
            state_dir: Some(path.to_owned()),
            ..RunOptions::default()
        };
        let recovered = crate::recover(options, Recovery::Empty).unwrap();
        assert!(recovered.is_some());
        let mut kept = KeptEpoch::open(path, 5);
        assert!(kept.value() == 0 && kept.is_to_be_told());
    }

    #[test]
    fn another_address_of_any_place_begins_it_anew_and_an_absent_one_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let both = [
            (1, Some("203.0.113.2"), Some("2001:db8:1::2")),
            (2, Some("203.0.113.2"), None),
        ];
        let changes: [(&[_], bool); 7] = [
            (&both, false),
            // At the next start IPv6 is not there yet.
            (&[(1, Some("203.0.113.2"), None), both[1]], false),
            (&both, false),
            (&[(1, None, None), (2, None, None)], false),
            (&[both[0], (2, Some("198.18.2.2"), None)], true),
            (&[(1, None, Some("2001:db8:2::2")), both[1]], true),
            // A subnet that is gone, and one that is new.
            (&[both[0], (3, Some("198.18.2.2"), None)], false),
        ];
        for (changed, is_other) in changes {
            drop(counted(directory.path(), 5));
            let mut kept = KeptEpoch::open(directory.path(), 5);
            kept.follow(&places(&both), 6);
            kept.follow(&places(changed), 7);
            assert_eq!(kept.is_to_be_told(), is_other, "{changed:?}");
            assert_eq!(kept.value() < 600, is_other, "{changed:?}");
            let mut next = KeptEpoch::open(directory.path(), 7);
            next.follow(&places(&both), 7);
            assert_eq!(next.is_to_be_told(), is_other, "{changed:?} and back");
            forget(directory.path()).unwrap();
        }
    }
}
