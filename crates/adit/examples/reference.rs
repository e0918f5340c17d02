//! Writes the reference of all commands as Markdown.

use std::io::{self, Write};

use clap::{Arg, Command};

fn main() -> io::Result<()> {
    let mut command = adit::command();
    command.build();
    let mut out = io::stdout().lock();
    writeln!(out, "# Commands\n")?;
    describe(&mut out, &command, true)
}

fn describe(out: &mut impl Write, command: &Command, is_root: bool) -> io::Result<()> {
    let mut command = command.clone().term_width(100);
    let name = command
        .get_bin_name()
        .unwrap_or_else(|| command.get_name())
        .to_owned();
    writeln!(out, "## {name}\n")?;
    if let Some(about) = command.get_about() {
        writeln!(out, "{about}.\n")?;
    }
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    writeln!(out, "```text\n{usage}\n```\n")?;
    let arguments: Vec<&Arg> = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
        .filter(|argument| is_root || !argument.is_global_set())
        .filter(|argument| is_root || !matches!(argument.get_id().as_str(), "help" | "version"))
        .collect();
    for argument in &arguments {
        line(out, argument)?;
    }
    if !arguments.is_empty() {
        writeln!(out)?;
    }
    let subcommands = command
        .get_subcommands()
        .filter(|subcommand| !subcommand.is_hide_set() && subcommand.get_name() != "help");
    for subcommand in subcommands {
        describe(out, subcommand, false)?;
    }
    Ok(())
}

fn line(out: &mut impl Write, argument: &Arg) -> io::Result<()> {
    let mut names: Vec<String> = argument
        .get_short()
        .map(|short| format!("-{short}"))
        .into_iter()
        .collect();
    names.extend(argument.get_long().map(|long| format!("--{long}")));
    let values: Vec<String> = argument
        .get_value_names()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect();
    let takes_value = argument.get_action().takes_values();
    let name = match (names.is_empty(), takes_value) {
        (true, _) => values.join(" "),
        (false, true) => format!("{} {}", names.join(", "), values.join(" ")),
        (false, false) => names.join(", "),
    };
    let help = argument
        .get_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    write!(out, "- `{name}`: {help}")?;
    let possible: Vec<String> = if takes_value {
        argument.get_possible_values()
    } else {
        Vec::new()
    }
    .iter()
    .filter(|value| !value.is_hide_set())
    .map(|value| match value.get_help() {
        Some(help) => format!("`{}` ({help})", value.get_name()),
        None => format!("`{}`", value.get_name()),
    })
    .collect();
    if !possible.is_empty() {
        write!(out, ": {}", possible.join(", "))?;
    }
    let defaults: Vec<String> = argument
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy().into_owned())
        .collect();
    if takes_value && !argument.is_hide_default_value_set() && !defaults.is_empty() {
        write!(out, " [default: {}]", defaults.join(", "))?;
    }
    writeln!(out)
}
