//! `adit completions`: what a shell needs to complete commands.

use std::io;

use clap::Args;
use clap_complete::Shell;

/// Arguments of `adit completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell
    shell: Shell,
}

pub(super) fn run(arguments: &CompletionsArguments) {
    let mut command = crate::command();
    clap_complete::generate(arguments.shell, &mut command, "adit", &mut io::stdout());
}
