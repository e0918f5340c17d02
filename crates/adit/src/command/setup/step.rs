//! One thing that setup does.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use adit_api::types::device::AddDevice;
use adit_api::types::subnet::AddSubnet;
use adit_api::types::uplink::SetUplink;
use adit_model::change::{Ipv6Wish, Patch};
use anyhow::{Context as _, anyhow};
use nix::unistd::User;

use super::supervisor::{Supervisor, call, succeeds};
use crate::output::Failure;

#[derive(Clone, Debug)]
pub(super) enum Step {
    CopyProgram {
        from: PathBuf,
        to: &'static str,
    },
    AddUser(&'static str),
    GiveState {
        path: &'static str,
        user: &'static str,
    },
    Write {
        path: &'static str,
        text: String,
        mode: u32,
    },
    Reload,
    Enable(String),
    Start(String),
    Restart(String),
    SetUplink(String, SetUplink),
    AddSubnet(AddSubnet),
    AddDevice(Box<AddDevice>),
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CopyProgram { from, to } => {
                write!(formatter, "copy {} to {to}", from.display())
            }
            Self::AddUser(user) => {
                write!(formatter, "make the user {user}, which the gateway runs as")
            }
            Self::GiveState { path, user } => write!(formatter, "give {path} to the user {user}"),
            Self::Write { path, .. } if Path::new(path).exists() => write!(
                formatter,
                "replace {path} (what was there is kept as {})",
                kept(path).display()
            ),
            Self::Write { path, .. } => write!(formatter, "write {path}"),
            Self::Reload => formatter.write_str("have systemd read its units again"),
            Self::Enable(service) => {
                write!(formatter, "enable {service} at every start of this host")
            }
            Self::Start(service) => write!(formatter, "start {service}"),
            Self::Restart(service) => {
                write!(
                    formatter,
                    "restart {service}, which interrupts no connection"
                )
            }
            Self::SetUplink(name, request) => {
                let mut parts = Vec::new();
                if let Patch::Set(address) = &request.advertised {
                    parts.push(format!("the Internet sees it as {}", address.0));
                }
                if let Patch::Set(endpoint) = &request.endpoint {
                    parts.push(format!("devices connect to {endpoint}"));
                }
                write!(formatter, "uplink {name}: {}", parts.join(", "))
            }
            Self::AddSubnet(request) => {
                write!(
                    formatter,
                    "add the subnet {} with {}",
                    request.name, request.ipv4.0
                )?;
                match request.ipv6.as_ref().map(|text| &text.0) {
                    Some(Ipv6Wish::Prefix(prefix)) => write!(formatter, " and {prefix}"),
                    Some(Ipv6Wish::Private) | None => {
                        formatter.write_str(" and private IPv6 addresses, which are translated")
                    }
                    Some(Ipv6Wish::None) => formatter.write_str(" and no IPv6"),
                }
            }
            Self::AddDevice(request) => write!(formatter, "add the device {}", request.name),
        }
    }
}

impl Step {
    /// Whether the gateway makes it, not this program.
    pub(super) const fn is_change(&self) -> bool {
        match self {
            Self::SetUplink(..) | Self::AddSubnet(_) | Self::AddDevice(_) => true,
            Self::CopyProgram { .. }
            | Self::AddUser(_)
            | Self::GiveState { .. }
            | Self::Write { .. }
            | Self::Reload
            | Self::Enable(_)
            | Self::Start(_)
            | Self::Restart(_) => false,
        }
    }

    /// Does it on this host; one that was done already does no harm.
    pub(super) fn perform(&self, supervisor: Supervisor) -> Result<(), Failure> {
        match self {
            Self::CopyProgram { from, to } => {
                let program = fs::read(from);
                let program = program.with_context(|| format!("cannot read {}", from.display()))?;
                Ok(put(Path::new(to), &program, 0o755)?)
            }
            Self::AddUser(user) => add_user(user),
            Self::GiveState { path, user } => Ok(give(Path::new(path), user)?),
            Self::Write { path, text, mode } => {
                let path = Path::new(path);
                if path.exists() {
                    let kept = kept(path);
                    fs::copy(path, &kept).with_context(|| {
                        format!("cannot keep {} as {}", path.display(), kept.display())
                    })?;
                }
                Ok(put(path, text.as_bytes(), *mode)?)
            }
            Self::Reload => supervisor.reload(),
            Self::Enable(service) => supervisor.enable(service),
            Self::Start(service) => supervisor.start(service),
            Self::Restart(service) => supervisor.restart(service),
            Self::SetUplink(..) | Self::AddSubnet(_) | Self::AddDevice(_) => Ok(()),
        }
    }
}

fn kept(path: impl AsRef<Path>) -> PathBuf {
    let mut name = path.as_ref().as_os_str().to_owned();
    name.push(".before-setup");
    name.into()
}

/// A file that is there whole or not at all; a program may run while it is replaced.
fn put(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let unfinished = PathBuf::from(name);
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&unfinished)?;
        file.write_all(content)?;
        // Whatever the umask of the caller.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn add_user(user: &str) -> Result<(), Failure> {
    let shell = "/usr/sbin/nologin";
    let home = "/var/lib/adit";
    if succeeds("useradd", &["--help"]) {
        return call(
            "useradd",
            &[
                "--system",
                "--user-group",
                "--no-create-home",
                "--home-dir",
                home,
                "--shell",
                shell,
                user,
            ],
        );
    }
    // The adduser of busybox.
    call("addgroup", &["-S", user])?;
    call(
        "adduser",
        &["-S", "-D", "-H", "-h", home, "-s", shell, "-G", user, user],
    )
}

/// The state is flat: links in it are not followed, and nothing outside is touched.
fn give(directory: &Path, user: &str) -> anyhow::Result<()> {
    let owner = User::from_name(user)
        .with_context(|| format!("cannot look for the user {user}"))?
        .ok_or_else(|| anyhow!("there is no user {user}"))?;
    let (uid, gid) = (Some(owner.uid.as_raw()), Some(owner.gid.as_raw()));
    let give = || -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            lchown(entry?.path(), uid, gid)?;
        }
        // Last, so that what was interrupted is done again.
        lchown(directory, uid, gid)
    };
    give().with_context(|| format!("cannot give {} to {user}", directory.display()))
}
