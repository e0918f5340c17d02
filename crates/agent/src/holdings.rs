//! The mappings that this host holds, in a file, so that a later command can list, renew and remove them.

mod process;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use adit_model::protocol::Protocol;
use adit_model::timestamp::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use thiserror::Error;

const FILE: &str = "portmap.json";
const LOCK: &str = "portmap.lock";

/// A mapping that a gateway granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Who granted it.
    pub gateway: SocketAddr,
    /// The address of this host that it leads to.
    pub local: IpAddr,
    /// How it was asked for: `pcp`, `nat-pmp`.
    pub mechanism: String,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port of this host, or the first of several.
    pub port: u16,
    /// How many ports.
    pub ports: u16,
    /// What remote hosts see, of several ports the first.
    pub external: SocketAddr,
    /// TLS names that lead to it.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// Until when.
    pub expires: Timestamp,
    /// What shows to the gateway that this host asked for it. A secret.
    pub nonce: [u8; 12],
    /// The router's number for it, where it has no other name.
    #[serde(default)]
    pub pinhole: Option<u16>,
    /// The process that renews it, if one does.
    #[serde(default)]
    pub watcher: Option<u32>,
    /// When that process began, in ticks of the kernel's clock: numbers of processes come again.
    #[serde(default)]
    pub watcher_began: Option<u64>,
}

/// Between whom mappings are: the same port of a host has one with each gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Who grants them.
    pub gateway: SocketAddr,
    /// The address of this host that they lead to.
    pub local: IpAddr,
}

impl Holding {
    /// Between whom it is.
    pub const fn place(&self) -> Place {
        Place {
            gateway: self.gateway,
            local: self.local,
        }
    }

    /// Whether both are the same mapping, maybe of different times.
    pub fn is_same(&self, other: &Self) -> bool {
        self.is_of(other.place(), other.protocol, other.port)
    }

    /// Whether it is the mapping of a port there.
    pub fn is_of(&self, place: Place, protocol: Protocol, port: u16) -> bool {
        self.place() == place && self.protocol == protocol && self.port == port
    }

    /// What is left of its time.
    pub fn left(&self, now: SystemTime) -> Duration {
        let left = self.expires.0.saturating_sub(Timestamp::from(now).0);
        Duration::from_secs(left)
    }

    /// The process that renews it, if it is still there.
    pub fn live_watcher(&self) -> Option<u32> {
        let began = |id: &u32| process::began(*id);
        self.watcher.filter(|id| {
            began(id).is_some_and(|began| self.watcher_began.is_none_or(|it| it == began))
        })
    }

    /// The same, renewed by this process.
    #[must_use]
    pub fn watched(self) -> Self {
        let id = std::process::id();
        Self {
            watcher: Some(id),
            watcher_began: process::began(id),
            ..self
        }
    }

    /// The same, renewed by the process that renews the other.
    #[must_use]
    pub fn watched_like(self, other: Option<&Self>) -> Self {
        let other = other.filter(|other| other.live_watcher().is_some());
        Self {
            watcher: other.and_then(|it| it.watcher),
            watcher_began: other.and_then(|it| it.watcher_began),
            ..self
        }
    }
}

/// Why the file could not be used.
#[derive(Debug, Error)]
pub enum HoldingsError {
    /// The file system said so.
    #[error("cannot use {path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// Something else is in it.
    #[error("{path} does not hold mappings: {error}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: serde_json::Error,
    },
}

/// The file.
#[derive(Clone, Debug)]
pub struct Holdings {
    folder: PathBuf,
}

impl Holdings {
    /// In a folder, which is made when something is stored.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// All that have not run out.
    ///
    /// # Errors
    ///
    /// When there is a file that cannot be read.
    pub fn list(&self, now: SystemTime) -> Result<Vec<Holding>, HoldingsError> {
        let path = self.folder.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(HoldingsError::File { path, error }),
        };
        let mut holdings: Vec<Holding> = serde_json::from_slice(&text)
            .map_err(|error| HoldingsError::Content { path, error })?;
        holdings.retain(|holding| !holding.left(now).is_zero());
        Ok(holdings)
    }

    /// Stores a mapping in the place of what was known of it.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn put(&self, holding: Holding, now: SystemTime) -> Result<(), HoldingsError> {
        self.change(now, |holdings| {
            holdings.retain(|other| !other.is_same(&holding));
            holdings.push(holding);
        })
    }

    /// Forgets a mapping.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn remove(&self, holding: &Holding, now: SystemTime) -> Result<(), HoldingsError> {
        self.change(now, |holdings| {
            holdings.retain(|other| !other.is_same(holding));
        })
    }

    fn change(
        &self,
        now: SystemTime,
        change: impl FnOnce(&mut Vec<Holding>),
    ) -> Result<(), HoldingsError> {
        let failed = |path: &Path, error: io::Error| HoldingsError::File {
            path: path.to_owned(),
            error,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.folder)
            .map_err(|error| failed(&self.folder, error))?;
        let path = self.folder.join(LOCK);
        let lock = File::create(&path).map_err(|error| failed(&path, error))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, error)| failed(&path, error.into()))?;
        let mut holdings = self.list(now)?;
        change(&mut holdings);
        let path = self.folder.join(FILE);
        self.replace(&path, &holdings)
            .map_err(|error| failed(&path, error))
    }

    /// Written beside and renamed, so that a reader finds one or the other.
    fn replace(&self, path: &Path, holdings: &[Holding]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.as_file()
            .set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(&serde_json::to_vec_pretty(holdings)?)?;
        file.persist(path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(port: u16, expires: u64) -> Holding {
        Holding {
            gateway: "10.59.0.1:5351".parse().unwrap(),
            local: "10.59.0.2".parse().unwrap(),
            mechanism: "pcp".to_owned(),
            protocol: Protocol::Tcp,
            port,
            ports: 1,
            external: "198.51.100.7:40000".parse().unwrap(),
            hostnames: Vec::new(),
            expires: Timestamp(expires),
            nonce: [7; 12],
            pinhole: None,
            watcher: None,
            watcher_began: None,
        }
    }

    #[test]
    fn number_of_a_process_that_ended_may_be_that_of_another() {
        let mine = holding(80, 100).watched();
        let id = std::process::id();
        assert_eq!(mine.live_watcher(), Some(id));
        let copied = holding(80, 100).watched_like(Some(&mine));
        assert_eq!(copied.live_watcher(), Some(id));
        let reused = Holding {
            watcher_began: mine.watcher_began.map(|began| began + 1),
            ..mine.clone()
        };
        assert_eq!(reused.live_watcher(), None);
        assert_eq!(holding(80, 100).watched_like(Some(&reused)).watcher, None);
        // A file that an earlier version wrote.
        let mut text = serde_json::to_value(&mine).unwrap();
        text.as_object_mut().unwrap().remove("watcher_began");
        let early: Holding = serde_json::from_value(text).unwrap();
        assert_eq!(early.live_watcher(), Some(id));
    }

    #[test]
    fn what_is_stored_is_listed_until_it_runs_out() {
        let folder = tempfile::tempdir().unwrap();
        let holdings = Holdings::new(folder.path().join("run"));
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(holdings.list(at(0)).unwrap().is_empty());
        holdings.put(holding(80, 100), at(0)).unwrap();
        holdings.put(holding(81, 200), at(0)).unwrap();
        holdings.put(holding(80, 150), at(0)).unwrap();
        let listed = holdings.list(at(120)).unwrap();
        assert_eq!(listed, [holding(81, 200), holding(80, 150)]);
        assert_eq!(holdings.list(at(150)).unwrap(), [holding(81, 200)]);
        holdings.remove(&holding(81, 1), at(120)).unwrap();
        assert_eq!(holdings.list(at(120)).unwrap(), [holding(80, 150)]);
        // The nonce is for its owner alone.
        let file = fs::metadata(folder.path().join("run").join(FILE)).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
    }
}
