//! What starts services on this host.

use std::path::Path;
use std::process::{Command, Stdio};

use super::files::{File, SCRIPT, UNITS};
use crate::output::Failure;

/// The service of the daemon.
pub(super) const GATEWAY: &str = "adit-gateway";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Supervisor {
    Systemd,
    OpenRc,
    /// Neither: nothing is started here.
    Unknown,
}

impl Supervisor {
    pub(super) fn find() -> Self {
        if Path::new("/run/systemd/system").is_dir() {
            Self::Systemd
        } else if Path::new("/run/openrc/softlevel").exists() {
            Self::OpenRc
        } else {
            Self::Unknown
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::OpenRc => "openrc",
            Self::Unknown => "none",
        }
    }

    pub(super) const fn describe(self) -> &'static str {
        match self {
            Self::Systemd => "services: systemd",
            Self::OpenRc => "services: OpenRC",
            Self::Unknown => "services: neither systemd nor OpenRC runs here",
        }
    }

    pub(super) fn files(self) -> Vec<File> {
        match self {
            Self::Systemd => UNITS.to_vec(),
            Self::OpenRc => vec![SCRIPT],
            Self::Unknown => Vec::new(),
        }
    }

    /// The service that carries the packets where the kernel does not, if that is one of its own.
    pub(super) fn dataplane(self, interface: &str) -> Option<String> {
        match self {
            Self::Systemd => Some(format!("adit-wireguard@{interface}")),
            Self::OpenRc | Self::Unknown => None,
        }
    }

    /// The service that carries the connections to names, if that is one of its own.
    pub(super) const fn front(self) -> Option<&'static str> {
        match self {
            Self::Systemd => Some("adit-front"),
            Self::OpenRc | Self::Unknown => None,
        }
    }

    pub(super) fn is_enabled(self, service: &str) -> bool {
        match self {
            Self::Systemd => succeeds("systemctl", &["is-enabled", "--quiet", service]),
            Self::OpenRc => Path::new("/etc/runlevels/default").join(service).exists(),
            Self::Unknown => false,
        }
    }

    pub(super) fn is_active(self, service: &str) -> bool {
        match self {
            Self::Systemd => succeeds("systemctl", &["is-active", "--quiet", service]),
            Self::OpenRc => succeeds("rc-service", &["--quiet", service, "status"]),
            Self::Unknown => false,
        }
    }

    /// Whether it goes by an older file of the service than is there.
    pub(super) fn is_outdated(self, service: &str) -> bool {
        match self {
            Self::Systemd => output_of(
                "systemctl",
                &["show", "--property=NeedDaemonReload", "--value", service],
            )
            .is_some_and(|text| text.trim() == "yes"),
            Self::OpenRc | Self::Unknown => false,
        }
    }

    /// Whether it has to be told that its files are others now.
    pub(super) fn has_to_reload(self) -> bool {
        self == Self::Systemd
    }

    pub(super) fn reload(self) -> Result<(), Failure> {
        match self {
            Self::Systemd => call("systemctl", &["daemon-reload"]),
            Self::OpenRc | Self::Unknown => Ok(()),
        }
    }

    pub(super) fn enable(self, service: &str) -> Result<(), Failure> {
        match self {
            Self::Systemd => call("systemctl", &["enable", "--quiet", service]),
            Self::OpenRc => call("rc-update", &["--quiet", "add", service, "default"]),
            Self::Unknown => Ok(()),
        }
    }

    pub(super) fn start(self, service: &str) -> Result<(), Failure> {
        match self {
            Self::Systemd => call("systemctl", &["start", service]),
            Self::OpenRc => call("rc-service", &[service, "start"]),
            Self::Unknown => Ok(()),
        }
    }

    pub(super) fn restart(self, service: &str) -> Result<(), Failure> {
        match self {
            Self::Systemd => call("systemctl", &["restart", service]),
            Self::OpenRc => call("rc-service", &[service, "restart"]),
            Self::Unknown => Ok(()),
        }
    }
}

/// Whether a program ends with success; one that is not there does not.
pub(super) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = command.output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program that must succeed.
pub(super) fn call(program: &str, arguments: &[&str]) -> Result<(), Failure> {
    let line = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| anyhow::Error::new(error).context(format!("cannot run `{}`", line())))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    Err(Failure::Refused {
        code: "command-failed",
        message: format!("`{}` failed: {}", line(), told.trim()),
        hint: "mend what it names, then run `adit gateway setup` again, which goes on from here"
            .to_owned(),
    })
}
