//! Processes that go on when the command that started them has ended: they carry packets or connections, and outlive the
//! daemon that needs them.

use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};
use nix::unistd::{dup2_stderr, dup2_stdout, setsid};

/// What a detached process says when it is ready.
const READY: &str = "ready";

/// Runs this program with other words as a process of its own, which calls [`enter`] and [`release`], and waits until it is
/// ready or has said on standard error why it is not.
pub(crate) fn detach(words: &[&OsStr]) -> Result<ExitCode> {
    // The very program that runs, whatever has taken its place on the disk.
    let mut child = Command::new("/proc/self/exe")
        .arg0("adit")
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the process in the background")?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output)
            .read_line(&mut line)
            .context("wait for the process in the background")?;
    }
    if line.trim_end() == READY {
        return Ok(ExitCode::SUCCESS);
    }
    child
        .wait()
        .context("wait for the process in the background")?;
    Ok(ExitCode::FAILURE)
}

/// Becomes a process that keeps nothing of who started it but its output.
pub(crate) fn enter() -> Result<()> {
    // It may already lead a session of its own.
    let _ = setsid();
    std::env::set_current_dir("/").context("leave the working directory")
}

/// Says that the process is ready, and lets go of the terminal.
pub(crate) fn release() -> io::Result<()> {
    writeln!(io::stdout(), "{READY}")?;
    let nowhere = std::fs::File::options().write(true).open("/dev/null")?;
    dup2_stdout(&nowhere)?;
    dup2_stderr(&nowhere)?;
    Ok(())
}
