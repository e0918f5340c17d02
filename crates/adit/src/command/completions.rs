//! `adit completions`: what a shell needs to complete commands.

use clap::Args;
use clap_complete::Shell;

use crate::output::Output;

/// Arguments of `adit completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell
    shell: Shell,
}

pub(super) fn run(output: Output, arguments: &CompletionsArguments) {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut crate::command(), "adit", &mut script);
    output.result(&String::from_utf8_lossy(&script));
}
