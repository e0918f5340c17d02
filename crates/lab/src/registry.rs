//! What is up, in files under `/run/adit-lab`, so that any later process can find it and take it down.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::names;
use crate::process::Identity;
use crate::topology::Topology;

const ROOT: &str = "/run/adit-lab";
const NAMESPACES: &str = "/run/netns";

/// The folder of one instance.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    instance: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProcessRecord {
    pub(crate) identity: Identity,
    pub(crate) host: String,
    pub(crate) command: String,
}

/// Instances that have a folder or a namespace, sorted.
pub(crate) fn instances() -> Result<Vec<String>> {
    let mut instances = BTreeSet::new();
    instances.extend(entries(Path::new(ROOT))?);
    for namespace in entries(Path::new(NAMESPACES))? {
        if let Some((instance, _)) = namespace
            .strip_prefix("adit-")
            .and_then(|rest| rest.rsplit_once('-'))
        {
            instances.insert(instance.to_owned());
        }
    }
    Ok(instances.into_iter().collect())
}

impl Registry {
    pub(crate) fn new(instance: &str) -> Result<Self> {
        names::check_instance(instance)?;
        Ok(Self {
            instance: instance.to_owned(),
        })
    }

    pub(crate) fn folder(&self) -> PathBuf {
        Path::new(ROOT).join(&self.instance)
    }

    pub(crate) fn host_folder(&self, host: &str) -> Result<PathBuf> {
        let folder = self.folder().join(host);
        create_folders(&folder)?;
        Ok(folder)
    }

    /// Whether the name is ours from now on; whoever comes second is told no.
    pub(crate) fn claim(&self) -> Result<bool> {
        create_folders(Path::new(ROOT))?;
        let folder = self.folder();
        match fs::create_dir(&folder) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error).with_context(|| format!("create {}", folder.display())),
        }
    }

    /// Fills the folder of a name that was claimed.
    pub(crate) fn create(&self, topology: &Topology) -> Result<()> {
        create_folders(&self.processes_folder())?;
        create_folders(&self.interfaces_folder())?;
        write(&self.topology_path(), &serde_json::to_vec_pretty(topology)?)
    }

    pub(crate) fn topology(&self) -> Result<Topology> {
        let path = self.topology_path();
        let text =
            fs::read(&path).with_context(|| format!("lab instance {} is not up", self.instance))?;
        serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
    }

    pub(crate) fn mark_complete(&self) -> Result<()> {
        write(&self.complete_path(), b"")
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete_path().exists()
    }

    pub(crate) fn record_process(&self, pid: u32, host: &str, command: &str) -> Result<()> {
        // A process that has ended by now needs no record.
        let Some(identity) = Identity::of(pid.cast_signed()) else {
            return Ok(());
        };
        let record = ProcessRecord {
            identity,
            host: host.to_owned(),
            command: command.to_owned(),
        };
        write(
            &self.processes_folder().join(format!("{pid}.json")),
            &serde_json::to_vec(&record)?,
        )
    }

    /// Records that can be read. One that a crash left half-written is of a process that the namespace still shows.
    pub(crate) fn processes(&self) -> Result<Vec<ProcessRecord>> {
        let folder = self.processes_folder();
        let mut records = Vec::new();
        for name in entries(&folder)? {
            if let Ok(text) = fs::read(folder.join(&name))
                && let Ok(record) = serde_json::from_slice(&text)
            {
                records.push(record);
            }
        }
        Ok(records)
    }

    /// WireGuard interfaces that were made here under names of the lab's own choice.
    pub(crate) fn record_interface(&self, interface: &str) -> Result<()> {
        write(&self.interfaces_folder().join(interface), b"")
    }

    pub(crate) fn interfaces(&self) -> Result<Vec<String>> {
        entries(&self.interfaces_folder())
    }

    /// Namespaces of the instance that exist, whether they were recorded or not.
    pub(crate) fn namespaces(&self) -> Result<Vec<String>> {
        let mut namespaces = entries(Path::new(NAMESPACES))?;
        namespaces
            .retain(|namespace| names::host_of_namespace(&self.instance, namespace).is_some());
        Ok(namespaces)
    }

    pub(crate) fn remove(&self) -> Result<()> {
        let folder = self.folder();
        match fs::remove_dir_all(&folder) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(|| format!("remove {}", folder.display())),
        }
    }

    fn topology_path(&self) -> PathBuf {
        self.folder().join("topology.json")
    }

    fn complete_path(&self) -> PathBuf {
        self.folder().join("complete")
    }

    fn processes_folder(&self) -> PathBuf {
        self.folder().join("processes")
    }

    fn interfaces_folder(&self) -> PathBuf {
        self.folder().join("interfaces")
    }
}

pub(crate) fn namespace_path(namespace: &str) -> PathBuf {
    Path::new(NAMESPACES).join(namespace)
}

fn create_folders(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

/// Names in a folder, sorted; none when there is no such folder.
fn entries(folder: &Path) -> Result<Vec<String>> {
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {}", folder.display())),
    };
    let mut names = Vec::new();
    for entry in listing {
        let entry = entry.with_context(|| format!("list {}", folder.display()))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
