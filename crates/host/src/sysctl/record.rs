//! The record of settings that we changed: one JSON file, replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Where these settings are in force.
    origin: Origin,
    /// In the order of the first change.
    pub(crate) settings: Vec<Setting>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setting {
    /// By path below `/proc/sys`.
    pub(crate) path: String,
    /// The value before our first change.
    pub(crate) prior: String,
    /// The value that we gave it last.
    pub(crate) ours: String,
    /// What the kernel changed along with it: path and prior value.
    pub(crate) along: BTreeMap<String, String>,
    /// The links that were there before our first change.
    pub(crate) links: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    boot: String,
    network_namespace: String,
}

impl Record {
    /// The record in a file; an empty one if there is none, or if it is of another boot or network namespace.
    pub(crate) fn load(file: &Path) -> io::Result<Self> {
        let origin = Origin::of_this_thread()?;
        let empty = Self {
            origin,
            settings: Vec::new(),
        };
        let text = match fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(empty),
            Err(error) => return Err(error),
        };
        let found: Self = serde_json::from_slice(&text)?;
        Ok(match found.origin == empty.origin {
            true => found,
            false => empty,
        })
    }

    /// Replaces the file; durable when this returns.
    pub(crate) fn store(&self, file: &Path) -> io::Result<()> {
        let directory = file
            .parent()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let temporary = file.with_extension("new");
        adit_fault::point("sysctl/record")?;
        let mut new = File::create(&temporary)?;
        new.write_all(&serde_json::to_vec_pretty(self)?)?;
        new.sync_all()?;
        adit_fault::point("sysctl/record/rename")?;
        fs::rename(&temporary, file)?;
        File::open(directory)?.sync_all()
    }
}

impl Origin {
    fn of_this_thread() -> io::Result<Self> {
        Ok(Self {
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id")?
                .trim()
                .to_owned(),
            network_namespace: fs::read_link("/proc/thread-self/ns/net")?
                .to_string_lossy()
                .into_owned(),
        })
    }
}
