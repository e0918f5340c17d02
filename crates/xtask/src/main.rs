//! Repository chores, started as `cargo xtask CHORE`.

mod layout;
mod tree;

use std::env;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::tree::Tree;

const USAGE: &str = "\
usage: cargo xtask CHORE

  layout    check the imports between crates, the names of files and what must not be in the repository
";

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["layout"] => check_layout(),
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

fn check_layout() -> Result<ExitCode> {
    let findings = layout::check(&Tree::read(repository()?)?);
    let mut output = io::stdout().lock();
    for finding in &findings {
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
