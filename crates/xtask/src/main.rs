//! Repository chores, started as `cargo xtask CHORE`.

mod docs;
mod example;
mod layout;
mod manual;
mod openapi;
mod tree;

use std::env;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::tree::Tree;

const USAGE: &str = "\
usage: cargo xtask CHORE

  layout    check the imports between crates, the names of files and what must not be in the repository
  docs      write the generated documents; with --check, tell which are out of date
  manual    write the man pages and the completions of shells to target/manual, for packages
";

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["layout"] => report(&layout::check(&Tree::read(repository()?)?)),
        ["docs"] => report(&docs::generate(repository()?, false)?),
        ["docs", "--check"] => report(&docs::generate(repository()?, true)?),
        ["manual"] => report(&manual::generate(repository()?)?),
        ["--help" | "-h" | "help"] => {
            io::stdout().write_all(USAGE.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            io::stderr().write_all(USAGE.as_bytes())?;
            Ok(ExitCode::from(2))
        }
    }
}

fn report<T: Display>(findings: &[T]) -> Result<ExitCode> {
    let mut output = io::stdout().lock();
    for finding in findings {
        writeln!(output, "{finding}")?;
    }
    Ok(if findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn repository() -> Result<&'static Path> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .ancestors()
        .nth(2)
        .context("this crate is not at crates/xtask of the repository")
}
