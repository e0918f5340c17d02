//! The programs that carry a tunnel: ours, and those of others that it must get on with.

use std::env;
use std::path::{Path, PathBuf};

use adit_lab::{Host, Process};
use anyhow::{Context as _, Result, ensure};

/// Names another program that is to stand in the place of ours. What the tests ask for is WireGuard, so others pass most
/// of them, and what fails with all of them says more about the test than about the program.
const SUBJECT: &str = "ADIT_DATAPLANE_SUBJECT";

/// Debian's `libfaketime`, the variant for programs with threads.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Adit,
    WireguardGo,
    Boringtun,
    Gotatun,
}

impl Program {
    /// The one that is tested.
    pub(crate) fn subject() -> Self {
        match env::var(SUBJECT).ok().as_deref() {
            None | Some("adit") => Self::Adit,
            Some("wireguard-go") => Self::WireguardGo,
            Some("boringtun") => Self::Boringtun,
            Some("gotatun") => Self::Gotatun,
            Some(other) => panic!(
                "{SUBJECT} is {other:?}: there are adit, wireguard-go, boringtun and gotatun"
            ),
        }
    }

    /// Starts it in the foreground of a host. It has no interface yet when this returns. Its clock runs so many times
    /// as fast, if it asks the C library for the time.
    pub(crate) fn start(self, host: &Host, interface: &str, pace: u32) -> Result<Process> {
        let program = self.path()?;
        let program = program.to_string_lossy().into_owned();
        let words: Vec<&str> = match self {
            Self::Adit => vec![&program, "wireguard", "--foreground", interface],
            Self::WireguardGo => vec![&program, "-f", interface],
            // Connected sockets would only hear the address that a peer had first.
            Self::Boringtun => vec![
                &program,
                "--foreground",
                "--disable-drop-privileges",
                "--disable-connected-udp",
                interface,
            ],
            Self::Gotatun => vec![
                &program,
                "--foreground",
                "--disable-drop-privileges",
                interface,
            ],
        };
        if pace == 1 {
            return host.spawn(words);
        }
        let library = format!("LD_PRELOAD={FAKETIME}");
        let pace = format!("FAKETIME=+0 x{pace}");
        // Every call is answered by the library anew, not from what it remembers of the last ten seconds.
        let faked = ["env", &library, &pace, "FAKETIME_NO_CACHE=1"];
        host.spawn([&faked, &words[..]].concat())
    }

    /// What wg-quick is told, as one word: it is given the interface as its only argument, and leaves a process behind.
    pub(crate) fn for_wg_quick(self, folder: &Path) -> Result<PathBuf> {
        let program = self.path()?;
        if self != Self::Adit {
            return Ok(program);
        }
        let link = folder.join("adit-wireguard");
        std::os::unix::fs::symlink(&program, &link)
            .with_context(|| format!("link {}", link.display()))?;
        Ok(link)
    }

    fn path(self) -> Result<PathBuf> {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/bin");
        let (path, source) = match self {
            Self::Adit => (env!("CARGO_BIN_EXE_adit").into(), "cargo build"),
            Self::WireguardGo => (
                PathBuf::from("/usr/bin/wireguard-go"),
                "scripts/install-packages",
            ),
            Self::Boringtun => (tools.join("boringtun-cli"), "scripts/install-peers"),
            Self::Gotatun => (tools.join("gotatun"), "scripts/install-peers"),
        };
        ensure!(
            path.exists(),
            "{} is not there: run {source}",
            path.display()
        );
        Ok(path)
    }
}
