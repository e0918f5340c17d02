//! The adit command: arguments, and what is done with them.

mod background;
mod command;
mod envelope;
mod expiry;
mod journal;
mod output;
mod remote;
mod target;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::command::Arguments;
use crate::output::Output;

/// The description of the whole command line.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Does what a command line says.
pub fn run(words: Vec<OsString>) -> ExitCode {
    let words = command::wireguard::spelled_out(words);
    // An error in the arguments is told in the form that they ask for, wherever the option stands.
    let json = words
        .iter()
        .take_while(|word| *word != "--")
        .any(|word| word == "--json");
    match Arguments::try_parse_from(words) {
        Ok(arguments) => command::run(arguments),
        Err(error) => Output::new(json).usage(&error),
    }
}
