//! How the daemon is started: options of the command line over those of the configuration file.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "/etc/adit/gateway.toml";

/// What the command line says; what it leaves out comes from the configuration file, else from the defaults.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Where state, key and records live; `/var/lib/adit`.
    pub state_dir: Option<PathBuf>,
    /// Where the socket is; `/run/adit`.
    pub runtime_dir: Option<PathBuf>,
    /// The configuration file; `/etc/adit/gateway.toml`, if it is there.
    pub config: Option<PathBuf>,
    /// Name of the tunnel interface; `adit0`.
    pub interface: Option<String>,
}

/// The same, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) state_dir: PathBuf,
    pub(crate) runtime_dir: PathBuf,
    pub(crate) interface: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    state_dir: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    interface: Option<String>,
}

impl RunOptions {
    pub(crate) fn settle(self) -> anyhow::Result<Settled> {
        let file = match &self.config {
            Some(path) => read(path)?,
            None if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE))?,
            None => File::default(),
        };
        let interface = self
            .interface
            .or(file.interface)
            .unwrap_or_else(|| "adit0".to_owned());
        check_interface(&interface)?;
        Ok(Settled {
            state_dir: self
                .state_dir
                .or(file.state_dir)
                .unwrap_or_else(|| "/var/lib/adit".into()),
            runtime_dir: self
                .runtime_dir
                .or(file.runtime_dir)
                .unwrap_or_else(|| "/run/adit".into()),
            interface,
        })
    }
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    toml::from_str(&text).with_context(|| {
        format!(
            "the configuration {} is not valid; it may hold state-dir, runtime-dir and interface",
            path.display()
        )
    })
}

/// The kernel's rule for interface names, and ours besides: it becomes part of nftables text and of paths.
pub(crate) fn check_interface(name: &str) -> anyhow::Result<()> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty()
        || name.len() > 15
        || !name.bytes().all(good)
        || name.starts_with('.')
        || name.starts_with('-')
    {
        bail!(
            "`{name}` cannot be an interface name: use 1 to 15 letters, digits, `-`, `_` and `.`"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_the_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gateway.toml");
        std::fs::write(&path, "interface = \"wan9\"\nstate-dir = \"/a\"\n").unwrap();
        let options = RunOptions {
            config: Some(path.clone()),
            state_dir: Some("/b".into()),
            ..RunOptions::default()
        };
        let settled = options.clone().settle().unwrap();
        assert_eq!(settled.interface, "wan9");
        assert_eq!(settled.state_dir, Path::new("/b"));
        assert_eq!(settled.runtime_dir, Path::new("/run/adit"));

        std::fs::write(&path, "interfaces = 3\n").unwrap();
        let error = format!("{:#}", options.settle().unwrap_err());
        assert!(
            error.contains("gateway.toml") && error.contains("interfaces"),
            "{error}"
        );
    }

    #[test]
    fn an_interface_name_cannot_carry_nftables_text() {
        for bad in ["", "a b", "a\"b", "abcdefghijklmnop", "a/b", "..", "-x"] {
            assert!(check_interface(bad).is_err(), "{bad}");
        }
        assert!(check_interface("adit0").is_ok());
    }
}
