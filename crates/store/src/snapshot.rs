//! The snapshot: everything that is committed as lines of JSON, in a file that does not depend on the database's format.
//!
//! The first line is the header, then comes one line for each object, and the last is the SHA-256 of all before it.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::StoredObject;
use crate::error::StoreError;
use crate::files::{self, Files};
use crate::migration;

/// Of the lines, not of the objects in them.
const FORMAT: u32 = 1;

/// In bytes.
const PROBE: usize = 64 << 10;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    /// Of the database, at the time.
    schema: i64,
    revision: u64,
    objects: u64,
}

/// Why a text is no snapshot that could be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("it is not whole: {0}")]
    Incomplete(&'static str),
    #[error("its checksum is wrong")]
    Checksum,
    #[error("line {line} is not what a snapshot holds: {reason}")]
    Malformed { line: usize, reason: String },
    #[error(
        "it is of format {format} and schema {schema}, which this version of Adit does not know"
    )]
    Newer { format: u32, schema: i64 },
}

/// What a snapshot holds; the objects are ordered by kind and id.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub revision: u64,
    pub objects: Vec<StoredObject>,
}

/// Writes snapshots into a state directory; anywhere, at any time, beside an open store.
#[derive(Clone, Debug)]
pub struct Snapshots {
    files: Files,
}

impl Snapshots {
    /// Of the state in `directory`.
    pub fn new(directory: &Path) -> Self {
        Self {
            files: Files::new(directory),
        }
    }

    pub(crate) fn of(files: &Files) -> Self {
        Self {
            files: files.clone(),
        }
    }

    /// Replaces the snapshot, and keeps the one before. Durable, and read back, when this returns; after an error the
    /// one that was there still is.
    pub fn write(&self, content: &Snapshot) -> Result<(), StoreError> {
        // Without a database this is not the state's directory now: its disk may be away.
        fs::metadata(&self.files.database)
            .map_err(|error| StoreError::from_io(error, "find", &self.files.database))?;
        let path = &self.files.snapshot;
        let unfinished = files::sibling(path, ".new");
        let text = render(content)
            .map_err(|error| StoreError::from_io(error.into(), "render", &unfinished))?;
        let written = fill(&unfinished, &text)
            .map_err(|error| StoreError::from_io(error, "write", &unfinished));
        if let Err(error) = written {
            // On a full disk what was half written would only take more of it.
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        let back = fs::read(&unfinished)
            .map_err(|error| StoreError::from_io(error, "read back", &unfinished))?;
        if back != text || parse(&back).is_err() {
            return Err(StoreError::Corrupt {
                path: unfinished,
                detail: "it does not read back as it was written".to_owned(),
            });
        }
        if read(path).is_ok() {
            self.keep_previous()?;
        }
        files::rename(&unfinished, path)?;
        self.files.sync_directory()
    }

    /// The newest snapshot that can be used.
    pub fn newest(&self) -> Result<Snapshot, StoreError> {
        self.newest_with_path().map(|(_, content)| content)
    }

    /// Whether the disk takes as much as a change needs.
    pub fn probe(&self) -> Result<(), StoreError> {
        let database = &self.files.database;
        OpenOptions::new()
            .write(true)
            .open(database)
            .map_err(|error| StoreError::from_io(error, "open", database))?;
        let path = self.files.directory.join("adit.probe");
        let filled = fill(&path, &[0; PROBE]);
        let removed = files::remove(&path);
        filled.map_err(|error| StoreError::from_io(error, "write", &path))?;
        removed
    }

    pub(crate) fn newest_with_path(&self) -> Result<(PathBuf, Snapshot), StoreError> {
        let candidates = [&self.files.snapshot, &self.files.previous_snapshot];
        let mut first = None;
        for path in candidates {
            match read(path) {
                Ok(content) => return Ok((path.clone(), content)),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| {
            StoreError::from_io(io::ErrorKind::NotFound.into(), "read", &self.files.snapshot)
        }))
    }

    /// There is a snapshot at every moment: the present one gets a second name, and keeps its first.
    fn keep_previous(&self) -> Result<(), StoreError> {
        let previous = &self.files.previous_snapshot;
        let second = files::sibling(previous, ".new");
        files::remove(&second)?;
        fs::hard_link(&self.files.snapshot, &second)
            .map_err(|error| StoreError::from_io(error, "keep", &self.files.snapshot))?;
        files::rename(&second, previous)
    }
}

/// Reads what [`Snapshots::write`] wrote.
pub fn parse(text: &[u8]) -> Result<Snapshot, SnapshotError> {
    let text = text
        .strip_suffix(b"\n")
        .ok_or(SnapshotError::Incomplete("its last line does not end"))?;
    let end = text
        .iter()
        .rposition(|byte| *byte == b'\n')
        .ok_or(SnapshotError::Incomplete("it has one line"))?;
    let (content, last) = text.split_at_checked(end + 1).unwrap_or((text, &[]));
    if last != end_of(content).as_bytes() {
        return Err(SnapshotError::Checksum);
    }
    let mut lines = content
        .strip_suffix(b"\n")
        .unwrap_or(content)
        .split(|byte| *byte == b'\n')
        .zip(1..);
    let header: Header = match lines.next() {
        Some((bytes, line)) => read_line(bytes, line)?,
        None => return Err(SnapshotError::Incomplete("it has no header")),
    };
    if header.format != FORMAT || header.schema > migration::newest(migration::SCHEMAS) {
        return Err(SnapshotError::Newer {
            format: header.format,
            schema: header.schema,
        });
    }
    let mut keys = BTreeSet::new();
    let mut objects = Vec::new();
    for (bytes, line) in lines {
        let object: StoredObject = read_line(bytes, line)?;
        if !keys.insert((object.kind.clone(), object.id)) {
            return Err(SnapshotError::Malformed {
                line,
                reason: format!("{} {} is there twice", object.kind, object.id),
            });
        }
        objects.push(object);
    }
    if objects.len() as u64 != header.objects {
        return Err(SnapshotError::Incomplete("objects are missing"));
    }
    objects.sort_by(|left, right| (&left.kind, left.id).cmp(&(&right.kind, right.id)));
    Ok(Snapshot {
        revision: header.revision,
        objects,
    })
}

pub(crate) fn read(path: &Path) -> Result<Snapshot, StoreError> {
    let text = fs::read(path).map_err(|error| StoreError::from_io(error, "read", path))?;
    parse(&text).map_err(|source| StoreError::Snapshot {
        path: path.to_owned(),
        source,
    })
}

fn render(content: &Snapshot) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(&Header {
        format: FORMAT,
        schema: migration::newest(migration::SCHEMAS),
        revision: content.revision,
        objects: content.objects.len() as u64,
    })?;
    text.push(b'\n');
    for object in &content.objects {
        serde_json::to_writer(&mut text, object)?;
        text.push(b'\n');
    }
    let end = end_of(&text);
    text.extend_from_slice(end.as_bytes());
    text.push(b'\n');
    Ok(text)
}

/// The last line, without its end.
fn end_of(content: &[u8]) -> String {
    format!("{{\"sha256\":\"{:x}\"}}", Sha256::digest(content))
}

fn fill(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn read_line<T: DeserializeOwned>(bytes: &[u8], line: usize) -> Result<T, SnapshotError> {
    serde_json::from_slice(bytes).map_err(|error| SnapshotError::Malformed {
        line,
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests;
