//! How the daemon is started: options of the command line over those of the configuration file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use adit_host::wireguard::Starter;
use anyhow::{Context, bail};
use serde::Deserialize;

use crate::certificate::Files;

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "/etc/adit/gateway.toml";

/// Where metrics are served unless said: the port that exporters for WireGuard have made known.
const METRICS: &str = "127.0.0.1:9586";

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
    /// Where the API is served over TCP; nowhere.
    pub listen: Option<SocketAddr>,
    /// Who starts a userspace WireGuard where the kernel has none.
    pub starter: Starter,
}

/// The same, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) state_dir: PathBuf,
    pub(crate) runtime_dir: PathBuf,
    pub(crate) interface: String,
    pub(crate) listen: Option<Listen>,
    /// Where metrics are served; none: on the administrator's socket only.
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) starter: Starter,
}

/// How the API is served over TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) address: SocketAddr,
    /// None: none that somebody brought.
    pub(crate) files: Option<Files>,
    /// What this gateway is called, besides its addresses.
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct File {
    state_dir: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    interface: Option<String>,
    #[serde(default)]
    api: Api,
    #[serde(default)]
    metrics: MetricsSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Api {
    listen: Option<SocketAddr>,
    tls_certificate: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    #[serde(default)]
    names: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricsSection {
    listen: Option<String>,
}

impl MetricsSection {
    fn settle(self) -> anyhow::Result<Option<SocketAddr>> {
        let text = self.listen.as_deref().unwrap_or(METRICS);
        if text == "off" {
            return Ok(None);
        }
        text.parse().map(Some).with_context(|| {
            format!(
                "`listen = \"{text}\"` below `[metrics]` is no address with a port: write it as {METRICS}, or `off`"
            )
        })
    }
}

impl RunOptions {
    pub(crate) fn settle(self) -> anyhow::Result<Settled> {
        let file = match &self.config {
            Some(path) => read(path)?,
            None if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE))?,
            None => File::default(),
        };
        self.settle_over(file)
    }

    /// The same, over what a configuration file says.
    pub(crate) fn settle_over(self, file: File) -> anyhow::Result<Settled> {
        let interface = self
            .interface
            .or(file.interface)
            .unwrap_or_else(|| "adit0".to_owned());
        check_interface(&interface)?;
        let listen = self.listen.or(file.api.listen);
        let listen = listen.map(|address| file.api.settle(address)).transpose()?;
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
            listen,
            metrics: file.metrics.settle()?,
            starter: self.starter,
        })
    }
}

impl Api {
    fn settle(self, address: SocketAddr) -> anyhow::Result<Listen> {
        let files = match (self.tls_certificate, self.tls_key) {
            (Some(certificate), Some(key)) => Some(Files { certificate, key }),
            (None, None) => None,
            (Some(_), None) => bail!(
                "`tls-certificate` in the [api] part of the configuration needs the `tls-key` that belongs to it"
            ),
            (None, Some(_)) => bail!(
                "`tls-key` in the [api] part of the configuration needs the `tls-certificate` that belongs to it"
            ),
        };
        for name in &self.names {
            check_host_name(name)?;
        }
        Ok(Listen {
            address,
            files,
            names: self.names,
        })
    }
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    toml::from_str(&text).with_context(|| {
        format!(
            "the configuration {} is not valid; it may hold state-dir, runtime-dir, interface and a part [api] with listen, tls-certificate, tls-key and names, and a part [metrics] with listen",
            path.display()
        )
    })
}

/// A name as it stands in a URL: no port, no scheme, no wildcard.
fn check_host_name(name: &str) -> anyhow::Result<()> {
    let good = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if name.len() > 253 || !name.split('.').all(good) {
        bail!(
            "`{name}` under `names` in the [api] part of the configuration is no host name: write it as in gw.example.com"
        );
    }
    Ok(())
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

        assert_eq!(settled.metrics, Some(METRICS.parse().unwrap()));

        for (listen, expected) in [
            ("off", Some(None)),
            ("[::1]:9000", Some(Some("[::1]:9000"))),
            ("9000", None),
            ("localhost:9000", None),
        ] {
            std::fs::write(&path, format!("[metrics]\nlisten = \"{listen}\"\n")).unwrap();
            let settled = options.clone().settle();
            let found = settled.map(|settled| settled.metrics.map(|it| it.to_string()));
            match expected {
                Some(expected) => assert_eq!(found.unwrap().as_deref(), expected),
                None => assert!(found.unwrap_err().to_string().contains(listen)),
            }
        }

        std::fs::write(&path, "interfaces = 3\n").unwrap();
        let error = format!("{:#}", options.settle().unwrap_err());
        assert!(
            error.contains("gateway.toml") && error.contains("interfaces"),
            "{error}"
        );
    }

    #[test]
    fn the_api_is_served_over_tcp_when_that_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gateway.toml");
        let settle = |text: &str, listen: Option<&str>| {
            std::fs::write(&path, text).unwrap();
            let options = RunOptions {
                config: Some(path.clone()),
                listen: listen.map(|text| text.parse().unwrap()),
                ..RunOptions::default()
            };
            options.settle()
        };
        assert_eq!(settle("", None).unwrap().listen, None);
        let names = "[api]\nnames = [\"gw.example.com\"]\n";
        assert_eq!(settle(names, None).unwrap().listen, None);
        let listen = settle(names, Some("[::1]:8443")).unwrap().listen.unwrap();
        assert_eq!(listen.address, "[::1]:8443".parse().unwrap());
        assert_eq!(listen.names, ["gw.example.com"]);
        assert_eq!(listen.files, None);

        for (text, part) in [
            ("listen = \"8443\"", "listen"),
            ("listen = \"[::]:1\"\ntls-key = \"/k\"", "`tls-certificate`"),
            ("listen = \"[::]:1\"\ntls-certificate = \"/c\"", "`tls-key`"),
            (
                "listen = \"[::]:1\"\nnames = [\"https://a\"]",
                "`https://a`",
            ),
        ] {
            let error = format!(
                "{:#}",
                settle(&format!("[api]\n{text}\n"), None).unwrap_err()
            );
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_interface_name_cannot_carry_nftables_text() {
        for bad in ["", "a b", "a\"b", "abcdefghijklmnop", "a/b", "..", "-x"] {
            assert!(check_interface(bad).is_err(), "{bad}");
        }
        assert!(check_interface("adit0").is_ok());
    }
}
