//! Kernel settings: what was there is recorded before the first change, and put back.
//!
//! Everything here reads and writes `/proc/sys` as the calling thread sees it, that is in the network namespace of
//! that thread.

mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use record::{Record, Setting};

/// A setting, or the record of settings, that could not be read or written.
#[derive(Debug, Error)]
#[error("cannot {operation} {object}: {source}")]
pub struct SysctlError {
    /// What was tried: `read`, `set`, `restore`.
    pub operation: &'static str,
    /// The setting or file.
    pub object: String,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// A setting that was not put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The setting, by path below `/proc/sys`.
    pub path: String,
    /// Why it stays, for people.
    pub reason: String,
}

/// The value of a setting, by path below `/proc/sys`; none if this kernel, or this host now, does not have it.
pub fn read(path: &str) -> Result<Option<String>, SysctlError> {
    match fs::read_to_string(file_of(path)?) {
        Ok(text) => Ok(Some(text.trim_end_matches('\n').to_owned())),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(failure("read", path)(error)),
    }
}

/// Changes settings and remembers what they were.
///
/// The record holds for one boot and one network namespace: settings do not outlive either, so a record from another
/// is forgotten.
#[derive(Debug)]
pub struct Recorder {
    file: PathBuf,
    /// Where the record is kept while the disk of the first takes nothing; the newer of the two when it is there.
    spare: Option<PathBuf>,
    record: Record,
}

impl Recorder {
    /// Opens the record, a file in the state directory, which comes into being with the first change.
    pub fn open(file: &Path) -> Result<Self, SysctlError> {
        let object = file.display().to_string();
        let record = Record::load(file).map_err(failure("read", &object))?;
        Ok(Self {
            file: file.to_owned(),
            spare: None,
            record,
        })
    }

    /// Keeps the record in another file while the first cannot be written, so that a full disk leaves no host without
    /// its settings. A record is worth nothing after a boot, so a file in memory is as good.
    pub fn with_spare(mut self, file: &Path) -> Result<Self, SysctlError> {
        let object = file.display().to_string();
        let record = Record::load(file).map_err(failure("read", &object))?;
        if !record.settings.is_empty() {
            self.record = record;
        }
        self.spare = Some(file.to_owned());
        Ok(self)
    }

    /// Gives a setting a value; false if it had it. Before the first change what was there is on the disk, along
    /// with everything that the kernel changes together with it.
    pub fn set(&mut self, path: &str, value: &str) -> Result<bool, SysctlError> {
        let missing = || failure("set", path)(io::ErrorKind::NotFound.into());
        let found = read(path)?.ok_or_else(missing)?;
        if same(&found, value) || is_taken(path, &found) {
            return Ok(false);
        }
        let recorded = self.record.settings.iter_mut().find(|it| it.path == path);
        match recorded {
            Some(setting) if same(&setting.ours, value) => {}
            Some(setting) => {
                value.clone_into(&mut setting.ours);
                self.store()?;
            }
            None => {
                let setting = Setting {
                    path: path.to_owned(),
                    prior: found,
                    ours: value.to_owned(),
                    along: changed_along(path)?,
                    links: links().map_err(failure("read", CONFIGURED_LINKS))?,
                };
                self.record.settings.push(setting);
                self.store()?;
            }
        }
        write(path, value).map_err(failure("set", path))?;
        Ok(true)
    }

    /// The settings that were changed and not put back yet.
    pub fn changed(&self) -> impl Iterator<Item = &str> {
        self.record.settings.iter().map(|it| it.path.as_str())
    }

    /// Puts one setting back, with everything that changed along with it. It stays, with a reason, when others
    /// changed it since, and forwarding also when others have come to depend on it. A setting of an interface that
    /// is gone needs nothing.
    pub fn restore(&mut self, path: &str) -> Result<Option<Kept>, SysctlError> {
        let Some(position) = self.record.settings.iter().position(|it| it.path == path) else {
            return Ok(None);
        };
        let setting = &self.record.settings[position];
        let outcome = restore(setting)?;
        match &outcome {
            // Depended upon now; a later attempt may find it free.
            Outcome::Needed(_) => {}
            Outcome::Restored | Outcome::Overruled(_) => {
                self.record.settings.remove(position);
                self.store()?;
            }
        }
        Ok(match outcome {
            Outcome::Restored => None,
            Outcome::Needed(reason) | Outcome::Overruled(reason) => Some(Kept {
                path: path.to_owned(),
                reason,
            }),
        })
    }

    /// Puts everything back, the last change first, except what `keep` has a reason for. What could not be put back
    /// is kept, too, with the error as the reason.
    pub fn restore_all(&mut self, keep: impl Fn(&str) -> Option<String>) -> Vec<Kept> {
        let paths: Vec<String> = self.changed().map(str::to_owned).collect();
        let mut kept = Vec::new();
        for path in paths.into_iter().rev() {
            match keep(&path) {
                Some(reason) => kept.push(Kept { path, reason }),
                None => match self.restore(&path) {
                    Ok(outcome) => kept.extend(outcome),
                    Err(error) => kept.push(Kept {
                        path,
                        reason: error.to_string(),
                    }),
                },
            }
        }
        kept
    }

    fn store(&self) -> Result<(), SysctlError> {
        let object = self.file.display().to_string();
        match (self.record.store(&self.file), &self.spare) {
            (Ok(()), Some(spare)) => match fs::remove_file(spare) {
                Err(error) if !is_gone(&error) => {
                    Err(failure("remove", &spare.display().to_string())(error))
                }
                Ok(()) | Err(_) => Ok(()),
            },
            (Err(error), Some(spare)) if takes_nothing(&error) => {
                // What keeps the record from the disk is told, not that there is no other place either.
                self.record
                    .store(spare)
                    .map_err(|_| failure("write", &object)(error))
            }
            (result, _) => result.map_err(failure("write", &object)),
        }
    }
}

fn takes_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// One directory for every link, besides `all` and `default`.
const CONFIGURED_LINKS: &str = "net/ipv4/conf";

/// Links of programs that forward for containers and virtual machines.
const FORWARDING_LINKS: [&str; 6] = ["br-", "cni", "docker", "lxcbr", "podman", "virbr"];

/// Whether a program in user space (networkd, NetworkManager) takes the advertisements of a link instead of the kernel since
/// it was decided that the kernel shall: the next decision knows.
fn is_taken(path: &str, found: &str) -> bool {
    path.ends_with("/accept_ra") && same(found, "0")
}

enum Outcome {
    Restored,
    Needed(String),
    Overruled(String),
}

fn restore(setting: &Setting) -> Result<Outcome, SysctlError> {
    let Some(current) = read(&setting.path)? else {
        return Ok(Outcome::Restored);
    };
    // A change that was recorded and never made, or a restoration that was interrupted: the rest is put back.
    let begun = same(&current, &setting.prior);
    if !begun && !same(&current, &setting.ours) {
        return Ok(Outcome::Overruled(format!(
            "it is `{current}` now, which Adit did not set"
        )));
    }
    if !begun
        && family_of_forwarding(&setting.path).is_some()
        && let Some(reason) = forwarding_needed(setting)?
    {
        return Ok(Outcome::Needed(reason));
    }
    let values = std::iter::once((&setting.path, &setting.prior)).chain(&setting.along);
    for (path, prior) in values {
        match read(path)? {
            Some(current) if current != *prior => {
                match write(path, prior) {
                    // The link went between reading and writing.
                    Err(error) if is_gone(&error) => {}
                    result => result.map_err(failure("restore", path))?,
                }
            }
            Some(_) | None => {}
        }
    }
    Ok(Outcome::Restored)
}

/// Why global forwarding stays on: somebody set it for a link otherwise than we did, or brought a link that lives by
/// it.
fn forwarding_needed(setting: &Setting) -> Result<Option<String>, SysctlError> {
    if setting.ours == "0" {
        return Ok(None);
    }
    for path in setting
        .along
        .keys()
        .filter(|it| it.ends_with("/forwarding"))
    {
        if let Some(current) = read(path)?
            && !same(&current, &setting.ours)
        {
            return Ok(Some(format!(
                "{path} is `{current}`: somebody else manages forwarding now"
            )));
        }
    }
    let now = links().map_err(failure("read", CONFIGURED_LINKS))?;
    let user = now.difference(&setting.links).find(|link| {
        FORWARDING_LINKS
            .iter()
            .any(|prefix| link.starts_with(prefix))
    });
    Ok(user.map(|link| format!("link {link} appeared since and needs forwarding")))
}

/// The directory of the family whose forwarding this switches for all links.
fn family_of_forwarding(path: &str) -> Option<&'static str> {
    match path {
        "net/ipv4/conf/all/forwarding" | "net/ipv4/ip_forward" => Some("net/ipv4"),
        "net/ipv6/conf/all/forwarding" => Some("net/ipv6"),
        _ => None,
    }
}

/// What the kernel changes together with a setting: forwarding for all rewrites it for each link, and over IPv4 also
/// whether redirects are accepted.
fn changed_along(path: &str) -> Result<BTreeMap<String, String>, SysctlError> {
    let Some(family) = family_of_forwarding(path) else {
        return Ok(BTreeMap::new());
    };
    let directory = format!("{family}/conf");
    let mut paths = vec![format!("{directory}/all/accept_redirects")];
    let names = names_in(&directory).map_err(failure("read", &directory))?;
    paths.extend(
        names
            .iter()
            .map(|name| format!("{directory}/{name}/forwarding")),
    );
    let mut along = BTreeMap::new();
    for other in paths.into_iter().filter(|it| it != path) {
        if let Some(value) = read(&other)? {
            along.insert(other, value);
        }
    }
    Ok(along)
}

fn links() -> io::Result<BTreeSet<String>> {
    let mut names = names_in(CONFIGURED_LINKS)?;
    names.remove("all");
    names.remove("default");
    Ok(names)
}

fn names_in(directory: &str) -> io::Result<BTreeSet<String>> {
    fs::read_dir(Path::new("/proc/sys").join(directory))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// The kernel separates the numbers of a setting by tabs, people by spaces.
fn same(left: &str, right: &str) -> bool {
    left.split_whitespace().eq(right.split_whitespace())
}

pub(crate) fn write(path: &str, value: &str) -> io::Result<()> {
    adit_fault::point("sysctl/write")?;
    let file = file_of(path).map_err(|error| error.source)?;
    // Not created: a setting that does not exist is to be an error.
    let mut file = fs::OpenOptions::new().write(true).open(file)?;
    io::Write::write_all(&mut file, value.as_bytes())
}

fn file_of(path: &str) -> Result<PathBuf, SysctlError> {
    let plain = path
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..");
    match plain {
        true => Ok(Path::new("/proc/sys").join(path)),
        false => Err(failure("read", path)(io::ErrorKind::InvalidInput.into())),
    }
}

/// `ENODEV` and `EINVAL` are not among these: only what has no file is gone.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn failure(operation: &'static str, object: &str) -> impl FnOnce(io::Error) -> SysctlError {
    let object = object.to_owned();
    move |source| SysctlError {
        operation,
        object,
        source,
    }
}
