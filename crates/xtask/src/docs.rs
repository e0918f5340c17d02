//! Documents that are generated from the code: written, or checked to be current.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The command reference, printed by an example of the `adit` crate that walks the command line's own definition.
const REFERENCE: &str = "docs/commands.md";

/// Writes what is generated; with `check` only compares, and tells what is out of date.
pub(crate) fn generate(repository: &Path, check: bool) -> Result<Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "run",
            "--quiet",
            "--locked",
            "--package",
            "adit",
            "--example",
            "reference",
        ])
        .current_dir(repository)
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!(
            "the command reference cannot be generated:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let path = repository.join(REFERENCE);
    let current = std::fs::read(&path).unwrap_or_default();
    if current == output.stdout {
        return Ok(Vec::new());
    }
    if check {
        return Ok(vec![format!(
            "{REFERENCE}: out of date; run `cargo xtask docs` and commit it"
        )]);
    }
    std::fs::write(&path, &output.stdout).with_context(|| format!("cannot write {REFERENCE}"))?;
    Ok(Vec::new())
}
