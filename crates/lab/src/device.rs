//! A device that joins with the real `wg-quick` and the configuration text that the gateway wrote.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::host::Host;
use crate::names;
use crate::process;

const LIMIT: Duration = Duration::from_secs(30);

/// `wg-quick` hands DNS servers to resolvconf, which would change the resolver of the whole machine. A function that
/// is exported to bash goes before every program of that name, wherever it is installed, so no mount namespace and no
/// entry in PATH is needed; it writes down what it was told.
const RESOLVCONF: (&str, &str) = (
    "BASH_FUNC_resolvconf%%",
    r#"() { { echo "resolvconf $*"; case "$1" in -a) cat ;; esac; } >>"$ADIT_LAB_RESOLVCONF"; }"#,
);

/// A tunnel that `wg-quick` has set up. Dropping this leaves it up; taking the lab down removes it.
#[derive(Debug)]
pub struct WgQuick {
    host: Host,
    interface: String,
    configuration: PathBuf,
}

impl WgQuick {
    pub fn interface(&self) -> &str {
        &self.interface
    }

    pub fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// What `wg-quick` told resolvconf: its command lines, each followed by its input. Empty without `DNS =`.
    pub fn resolvconf(&self) -> Result<String> {
        let path = resolvconf_path(&self.host)?;
        if !path.exists() {
            return Ok(String::new());
        }
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    pub fn down(self) -> Result<()> {
        run(&self.host, "down", &self.configuration)?;
        fs::remove_file(&self.configuration)
            .with_context(|| format!("remove {}", self.configuration.display()))
    }

    pub(crate) fn up(host: Host, instance: &str, text: &str) -> Result<Self> {
        let interface = names::wireguard_interface("ad", instance, host.name());
        let configuration = host.folder()?.join(format!("{interface}.conf"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&configuration)
            .with_context(|| format!("open {}", configuration.display()))?;
        file.write_all(text.as_bytes())
            .with_context(|| format!("write {}", configuration.display()))?;
        host.registry().record_interface(&interface)?;
        run(&host, "up", &configuration)?;
        Ok(Self {
            host,
            interface,
            configuration,
        })
    }
}

fn run(host: &Host, verb: &str, configuration: &Path) -> Result<()> {
    let mut command = host.command(["wg-quick", verb]);
    command.arg(configuration);
    command.env(RESOLVCONF.0, RESOLVCONF.1);
    command.env("ADIT_LAB_RESOLVCONF", resolvconf_path(host)?);
    let description = format!(
        "{}: wg-quick {verb} {}",
        host.name(),
        configuration.display()
    );
    process::run_successfully(&mut command, &description, "", LIMIT)?;
    Ok(())
}

fn resolvconf_path(host: &Host) -> Result<PathBuf> {
    Ok(host.folder()?.join("resolvconf"))
}
