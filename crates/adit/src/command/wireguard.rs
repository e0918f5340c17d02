//! `adit wireguard`: the process that carries the packets of one interface.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sys::prctl::set_name;

use crate::{background, journal};

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
        background::enter()?;
        adit_wireguard::serve(interface, || {
            // Who started it may have gone; the interface stays all the same.
            let _ = background::release();
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    background::detach(&["wireguard", "--detached", "--", interface].map(OsStr::new))
}
