//! `adit wireguard`: the process that carries the packets of one interface.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sys::prctl::set_name;
use nix::unistd::{dup2_stderr, dup2_stdout, setsid};

use crate::journal;

/// What a detached process says when the interface can be configured.
const READY: &str = "ready";

/// Another name of this program.
const NAME: &str = "adit-wireguard";

/// Arguments of `adit wireguard`.
#[derive(Debug, Args)]
pub(crate) struct WireguardArguments {
    /// Stay in the foreground, and log to standard error; otherwise the command ends when the interface can be configured
    #[arg(long, short)]
    foreground: bool,
    /// It is the process behind a command that has not ended yet
    #[arg(long, hide = true, conflicts_with = "foreground")]
    detached: bool,
    /// The interface to make; the process ends when it is deleted
    interface: String,
}

/// `wg-quick` names a program and gives it the interface alone, so under this name the program does what `adit wireguard` does.
pub(crate) fn spelled_out(mut words: Vec<OsString>) -> Vec<OsString> {
    let is_named = words
        .first()
        .is_some_and(|program| Path::new(program).file_name() == Some(OsStr::new(NAME)));
    if is_named {
        words.splice(..1, ["adit".into(), "wireguard".into()]);
    }
    words
}

pub(super) fn run(arguments: &WireguardArguments, verbose: u8) -> Result<ExitCode> {
    let interface = &arguments.interface;
    // It is told apart from the gateway by those who look at processes.
    set_name(c"adit-wireguard").context("set the name of the process")?;
    if arguments.foreground {
        let _limiter = journal::start(verbose);
        adit_wireguard::serve(interface, || {
            tracing::info!(interface, "carrying packets");
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.detached {
        // It may already lead a session of its own.
        let _ = setsid();
        std::env::set_current_dir("/").context("leave the working directory")?;
        adit_wireguard::serve(interface, || {
            // Who started it may have gone; the interface stays all the same.
            let _ = release();
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    detach(interface)
}

/// Starts a process of its own, and waits until it is ready or has said on standard error why it is not.
fn detach(interface: &str) -> Result<ExitCode> {
    // The very program that runs, whatever has taken its place on the disk.
    let mut child = Command::new("/proc/self/exe")
        .arg0("adit")
        .args(["wireguard", "--detached", "--", interface])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start the process for the interface {interface}"))?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output)
            .read_line(&mut line)
            .context("wait for the interface")?;
    }
    if line.trim_end() == READY {
        return Ok(ExitCode::SUCCESS);
    }
    child.wait().context("wait for the interface")?;
    Ok(ExitCode::FAILURE)
}

/// Says that the interface is there, and lets go of the terminal.
fn release() -> io::Result<()> {
    writeln!(io::stdout(), "{READY}")?;
    let nowhere = std::fs::File::options().write(true).open("/dev/null")?;
    dup2_stdout(&nowhere)?;
    dup2_stderr(&nowhere)?;
    Ok(())
}
