//! The files of a repository: those that git tracks, and those that it would.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Text by path, relative to the repository and with `/` between the parts. Of a binary file only the path is kept.
pub(crate) struct Tree {
    files: BTreeMap<String, Option<String>>,
}

impl Tree {
    pub(crate) fn read(repository: &Path) -> Result<Self> {
        // In CI the checkout often belongs to another user than the one who checks it.
        let listing = Command::new("git")
            .args([
                "-c",
                "safe.directory=*",
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(repository)
            .output()
            .context("git ls-files: git is needed to know the files of the repository")?;
        if !listing.status.success() {
            bail!(
                "git ls-files in {}: {}",
                repository.display(),
                String::from_utf8_lossy(&listing.stderr).trim()
            );
        }
        let mut files = BTreeMap::new();
        for path in String::from_utf8(listing.stdout)
            .context("a file name is not UTF-8")?
            .split_terminator('\0')
        {
            let file = repository.join(path);
            match fs::read(&file) {
                Ok(bytes) => files.insert(path.to_owned(), String::from_utf8(bytes).ok()),
                // Deleted and not yet committed, or a symbolic link to a directory.
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) =>
                {
                    continue;
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot read {}", file.display()));
                }
            };
        }
        Ok(Self { files })
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    pub(crate) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter_map(|(path, text)| Some((path.as_str(), text.as_deref()?)))
    }

    pub(crate) fn contains(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// The Rust sources of our crates.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts()
            .filter(|(path, _)| path.starts_with("crates/") && path.ends_with(".rs"))
    }

    /// The directory name under `crates/`, the path and the text of each crate's manifest.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.texts().filter_map(|(path, text)| {
            let name = path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml")?;
            (!name.contains('/')).then_some((name, path, text))
        })
    }
}
