//! The userspace WireGuard process: starting it so that it outlives us, and finding the one that is there.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::{PATIENCE, Userspace, WireGuardError};

/// A userspace WireGuard. It is given the name of the interface as its last argument, brings it up, opens the UAPI socket
/// and goes to the background by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The program's file, or its name in `PATH`.
    pub path: PathBuf,
    /// What it is given before the name of the interface.
    pub arguments: Vec<String>,
}

impl Program {
    /// How it is called in messages.
    fn name(&self) -> String {
        let file = self.path.file_name().unwrap_or(self.path.as_os_str());
        let words = [file.to_string_lossy().into_owned()];
        words
            .iter()
            .chain(&self.arguments)
            .cloned()
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// The process that serves an interface.
#[derive(Debug)]
pub(super) struct Process {
    /// `wireguard-go` or `adit`.
    pub(super) implementation: &'static str,
    /// Whether it lives in our network namespace.
    pub(super) is_here: bool,
    id: u32,
}

/// Starts a program for an interface, in a session of its own, and waits until its socket answers.
pub(super) async fn start(program: &Program, interface: &str) -> Result<(), WireGuardError> {
    let failed = |source| WireGuardError::Io {
        operation: "start what carries",
        interface: interface.to_owned(),
        source,
    };
    let mut command = Command::new(&program.path);
    command
        .args(&program.arguments)
        .arg(interface)
        .current_dir("/")
        .env_remove("WG_PROCESS_FOREGROUND")
        .env_remove("WG_TUN_FD")
        .env_remove("WG_UAPI_FD")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    #[expect(
        unsafe_code,
        reason = "setsid is async-signal-safe, and nothing else runs between fork and exec"
    )]
    // SAFETY: the closure makes one system call and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from));
    }
    adit_fault::point("wireguard/start").map_err(failed)?;
    let mut launcher = match command.spawn() {
        Ok(launcher) => launcher,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(WireGuardError::Missing {
                interface: interface.to_owned(),
            });
        }
        Err(error) => return Err(failed(error)),
    };
    // It goes to the background by itself: the launcher ends when the interface and the socket are there.
    let status = timeout(PATIENCE, launcher.wait())
        .await
        .map_err(|_| WireGuardError::Timeout {
            operation: "start",
            interface: interface.to_owned(),
        })?
        .map_err(failed)?;
    adit_fault::passing("wireguard/start/done");
    if !status.success() {
        return Err(WireGuardError::Start {
            program: program.name(),
            interface: interface.to_owned(),
            status: status.to_string(),
        });
    }
    // The launcher opens the socket, the process behind it sets the MTU to its own idea once more and then answers:
    // an answer means that nothing else will come from it.
    let userspace = Userspace::new(interface, "");
    let deadline = Instant::now() + PATIENCE;
    loop {
        match userspace.observe().await {
            Err(error) if error.is_gone() && Instant::now() < deadline => {
                sleep(Duration::from_millis(10)).await;
            }
            outcome => return outcome.map(drop),
        }
    }
}

/// Looks for the process that serves an interface by its command line: the credentials of a UAPI socket are those of
/// the launcher, which has ended. One of our own network namespace wins over others of that name.
pub(super) fn find(interface: &str) -> Option<Process> {
    let here = fs::read_link("/proc/thread-self/ns/net").ok();
    let mut found: Option<Process> = None;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Some(implementation) = implementation(&path, interface) else {
            continue;
        };
        let Ok(namespace) = fs::read_link(path.join("ns/net")) else {
            continue;
        };
        let is_here = here.as_ref() == Some(&namespace);
        if is_here || found.is_none() {
            found = Some(Process {
                implementation,
                is_here,
                id,
            });
        }
        if is_here {
            break;
        }
    }
    found
}

/// Stops the unit that the process of an interface belongs to, if it is one of ours: it would start the process anew.
/// Without the permission to do so the interface is removed all the same, and the unit's next process stays idle.
pub(super) async fn stop_unit(interface: &str) {
    let Some(process) = find(interface).filter(|process| process.is_here) else {
        return;
    };
    let unit = format!("adit-wireguard@{interface}.service");
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", process.id)).unwrap_or_default();
    if !groups
        .lines()
        .any(|group| group.rsplit('/').next() == Some(&unit))
    {
        return;
    }
    let mut command = Command::new("systemctl");
    command.args(["stop", &unit]).stdin(Stdio::null());
    let outcome = timeout(PATIENCE, command.kill_on_drop(true).output()).await;
    let trouble = match outcome {
        Ok(Ok(output)) if output.status.success() => return,
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "systemctl does not answer".to_owned(),
    };
    tracing::warn!(unit, trouble, "cannot stop the unit of the dataplane");
}

fn implementation(process: &Path, interface: &str) -> Option<&'static str> {
    let command_line = fs::read(process.join("cmdline")).ok()?;
    let arguments: Vec<&str> = command_line
        .split(|byte| *byte == 0)
        .filter_map(|argument| std::str::from_utf8(argument).ok())
        .filter(|argument| !argument.is_empty())
        .collect();
    let program = Path::new(*arguments.first()?).file_name()?;
    if *arguments.last()? != interface {
        return None;
    }
    if program == OsStr::new("wireguard-go") {
        Some("wireguard-go")
    } else if arguments.get(1) == Some(&"wireguard") {
        Some("adit")
    } else {
        None
    }
}
