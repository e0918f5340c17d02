//! The newest acknowledged revision, in a file of its own: it shows when a database has lost commits, and when a snapshot
//! lacks none.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::digest::short_digest;

/// One write of a sector is done or not, even when the power fails; two of them are written in turn.
const SLOT: usize = 512;

/// Overwritten in place and never longer or shorter, so a full disk does not keep it from being written.
#[derive(Debug)]
pub(crate) struct Record {
    path: PathBuf,
    file: Option<File>,
    next: u64,
    /// What it says; none when that is not known.
    said: Option<u64>,
    is_durable: bool,
}

impl Record {
    /// What the record says; none when there is none, or when it cannot be trusted.
    pub(crate) fn read(path: &Path) -> Option<u64> {
        let bytes = fs::read(path).ok()?;
        bytes.chunks(SLOT).filter_map(parse).max()
    }

    /// Makes the record say `revision`, and stays open for what follows. A record that cannot be written is taken away:
    /// none is better than one that says too little.
    pub(crate) fn begin(path: &Path, revision: u64) -> Self {
        let mut record = Self {
            path: path.to_owned(),
            file: None,
            next: 0,
            said: None,
            is_durable: false,
        };
        record.follow(revision);
        record
    }

    /// Durable when this returns, unless the record is gone.
    pub(crate) fn follow(&mut self, revision: u64) {
        if self.say(revision) && !self.is_durable {
            let synced = self.file.as_ref().map_or(Ok(()), File::sync_data);
            self.is_durable = synced.is_ok();
            if !self.is_durable {
                self.withdraw();
            }
        }
    }

    /// Said to whoever reads it, and durable with the next that [follows](Self::follow); whether there is a record.
    pub(crate) fn say(&mut self, revision: u64) -> bool {
        if self.said != Some(revision) {
            self.is_durable = false;
            self.said = Some(revision);
            if self.try_write(revision).is_err() {
                self.withdraw();
            }
        }
        self.said.is_some()
    }

    fn withdraw(&mut self) {
        self.file = None;
        self.said = None;
        // Nothing to remove, or a disk that takes nothing: then no commit succeeds either.
        let _ = fs::remove_file(&self.path);
    }

    fn try_write(&mut self, revision: u64) -> io::Result<()> {
        let slot = slot(revision);
        let size = SLOT as u64;
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let file = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .mode(0o600)
                    .open(&self.path)?;
                file.write_all_at(&slot, size)?;
                file.set_len(2 * size)?;
                self.next = 0;
                file
            }
        };
        file.write_all_at(&slot, self.next * size)?;
        self.next = 1 - self.next;
        self.file = Some(file);
        Ok(())
    }
}

fn slot(revision: u64) -> Vec<u8> {
    let text = format!("revision {revision}");
    let mut line = format!("{text} {:016x}\n", short_digest(&[text.as_bytes()])).into_bytes();
    line.resize(SLOT, b'\n');
    line
}

fn parse(slot: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(slot).ok()?.trim_end_matches('\n');
    let (text, digest) = line.rsplit_once(' ')?;
    let is_good = digest == format!("{:016x}", short_digest(&[text.as_bytes()]));
    text.strip_prefix("revision ")?
        .parse()
        .ok()
        .filter(|_| is_good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_slot_that_is_whole_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record");
        assert_eq!(Record::read(&path), None);
        let mut record = Record::begin(&path, 7);
        assert_eq!(Record::read(&path), Some(7));
        for revision in 8..12 {
            record.follow(revision);
            assert_eq!(Record::read(&path), Some(revision));
            assert_eq!(fs::metadata(&path).unwrap().len(), 2 * SLOT as u64);
        }
        let whole = fs::read(&path).unwrap();
        for position in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[position] ^= 1 << (position % 8);
            fs::write(&path, &bytes).unwrap();
            let read = Record::read(&path);
            assert!(matches!(read, Some(10 | 11)), "byte {position}: {read:?}");
        }
    }
}
