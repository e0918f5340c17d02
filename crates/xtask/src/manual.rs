//! The man pages and the completions of shells, which packages bring along.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::example;

const FOLDER: &str = "target/manual";

/// What has to be there, for a package to find it.
const EXPECTED: [&str; 6] = [
    "man/adit.1",
    "man/adit-gateway-run.1",
    "man/adit-device-add.1",
    "completions/adit.bash",
    "completions/_adit",
    "completions/adit.fish",
];

/// Writes them anew, and tells what is missing of them.
pub(crate) fn generate(repository: &Path) -> Result<Vec<String>> {
    let folder = repository.join(FOLDER);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {FOLDER}"))?;
    }
    let status = example::command(repository, "manual")?
        .arg(&folder)
        .status()
        .context("cannot run the example `manual`")?;
    if !status.success() {
        bail!("{FOLDER} cannot be generated: {status}");
    }
    Ok(EXPECTED
        .into_iter()
        .filter(|name| !folder.join(name).is_file())
        .map(|name| format!("{FOLDER}/{name}: is missing"))
        .collect())
}
