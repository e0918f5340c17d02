//! `adit front`: the process that leads connections to devices by the names that they ask for.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sys::prctl::set_name;

use crate::{background, journal};

/// Arguments of `adit front`.
#[derive(Debug, Args)]
pub(crate) struct FrontArguments {
    /// Stay in the foreground, and log to standard error; otherwise the command ends when the front can be told what to do
    #[arg(long, short)]
    foreground: bool,
    /// It is the process behind a command that has not ended yet
    #[arg(long, hide = true, conflicts_with = "foreground")]
    detached: bool,
    /// Where it is told what leads where; one that serves there already hands its listeners over, and ends with its last
    /// connection
    socket: PathBuf,
}

pub(super) fn run(arguments: &FrontArguments, verbose: u8) -> Result<ExitCode> {
    // It is told apart from the gateway by those who look at processes.
    set_name(c"adit-front").context("set the name of the process")?;
    let socket = std::path::absolute(&arguments.socket).context("find the socket")?;
    if arguments.foreground {
        let _limiter = journal::start(verbose);
        adit_front::serve(&socket, || {
            tracing::info!(socket = %socket.display(), "leading connections");
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.detached {
        background::enter()?;
        adit_front::serve(&socket, || {
            // Who started it may have gone; the front stays all the same.
            let _ = background::release();
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let [front, detached, end] = ["front", "--detached", "--"].map(OsStr::new);
    background::detach(&[front, detached, end, socket.as_os_str()])
}
