//! One gateway for each network namespace: of two, each would take the other's table, routes and rules for leftovers.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::{Context, bail};
use tokio::net::UnixStream;

/// Abstract names are those of a network namespace, and go with the process.
const NAME: &str = "adit-gateway";

/// The right to change this network namespace, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    _socket: Option<UnixListener>,
}

impl Claim {
    /// Takes it, unless another gateway of this host has it.
    pub(crate) async fn take() -> anyhow::Result<Self> {
        take(NAME).await
    }
}

async fn take(name: &str) -> anyhow::Result<Claim> {
    let address =
        SocketAddr::from_abstract_name(name).context("cannot name the gateway's claim")?;
    match UnixListener::bind_addr(&address) {
        Ok(socket) => Ok(Claim {
            _socket: Some(socket),
        }),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if let Some(holder) = holder(name).await {
                bail!(
                    "another gateway{holder} runs in this network namespace: stop it first (`systemctl stop adit-gateway`, \
                     or SIGTERM to it)"
                );
            }
            // Anybody may take the name: that must keep no gateway from running.
            tracing::warn!("whether another gateway runs here cannot be told: its name is taken");
            Ok(Claim { _socket: None })
        }
        Err(error) => Err(error).context("cannot claim this network namespace"),
    }
}

/// The process that has the name, if it is one of root or of ours.
async fn holder(name: &str) -> Option<String> {
    let stream = UnixStream::connect(format!("\0{name}")).await.ok()?;
    let credentials = stream.peer_cred().ok()?;
    let is_trusted = [0, own_user()?].contains(&credentials.uid());
    let pid = credentials.pid();
    is_trusted.then(|| pid.map_or_else(String::new, |pid| format!(" (pid {pid})")))
}

fn own_user() -> Option<u32> {
    let process = std::fs::metadata("/proc/self").ok()?;
    Some(process.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_is_refused_for_as_long_as_the_first_lives() {
        let name = format!("adit-claim-{}", std::process::id());
        let first = take(&name).await.unwrap();
        let refusal = take(&name).await.unwrap_err().to_string();
        let pid = format!("(pid {})", std::process::id());
        assert!(refusal.contains(&pid), "{refusal}");
        drop(first);
        take(&name).await.unwrap();
    }
}
