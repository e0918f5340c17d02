//! One gateway for each network namespace: of two, each would take the other's table, routes and rules for leftovers.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::{Context, bail};
use tokio::net::UnixStream;
use tokio::time::{Duration, Instant, sleep};

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

/// How long what is left of a gateway that was killed may still have the name: a thread that ends, or a child that it had just begun.
const REMAINS: Duration = Duration::from_secs(2);

const PAUSE: Duration = Duration::from_millis(20);

async fn take(name: &str) -> anyhow::Result<Claim> {
    let address =
        SocketAddr::from_abstract_name(name).context("cannot name the gateway's claim")?;
    let deadline = Instant::now() + REMAINS;
    loop {
        let bound = UnixListener::bind_addr(&address);
        let is_taken = bound
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::AddrInUse);
        if is_taken
            && Instant::now() < deadline
            && holder(name).await.is_some_and(|holder| !holder.is_alive())
        {
            sleep(PAUSE).await;
            continue;
        }
        return settle(name, bound).await;
    }
}

async fn settle(name: &str, bound: io::Result<UnixListener>) -> anyhow::Result<Claim> {
    match bound {
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

/// The process that has the name.
struct Holder {
    pid: Option<i32>,
}

impl Holder {
    /// Whether it runs, as far as can be seen: one that was killed may be there as a zombie.
    fn is_alive(&self) -> bool {
        let Some(pid) = self.pid else {
            return true;
        };
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            // The name, in parentheses, may hold anything; the state follows it (proc_pid_stat(5)).
            Ok(stat) => !stat
                .rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
            Err(error) => error.kind() != ErrorKind::NotFound,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(formatter, " (pid {pid})"),
            None => Ok(()),
        }
    }
}

/// The process that has the name, if it is one of root or of ours.
async fn holder(name: &str) -> Option<Holder> {
    let stream = UnixStream::connect(format!("\0{name}")).await.ok()?;
    let credentials = stream.peer_cred().ok()?;
    let is_trusted = [0, own_user()?].contains(&credentials.uid());
    is_trusted.then(|| Holder {
        pid: credentials.pid(),
    })
}

fn own_user() -> Option<u32> {
    let process = fs::metadata("/proc/self").ok()?;
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

    /// A descriptor of the socket that outlives its process, as in a child between fork and exec.
    #[tokio::test]
    async fn remains_of_one_that_was_killed_are_waited_for() {
        let name = format!("adit-claim-remains-{}", std::process::id());
        // The process that listens ends; the one behind it keeps the socket for a moment.
        let script = "import os, socket, sys, time\n\
             listener = socket.socket(socket.AF_UNIX); listener.bind(chr(0) + sys.argv[1]); listener.listen()\n\
             os.fork() and os._exit(0)\n\
             time.sleep(0.7)";
        let status = std::process::Command::new("python3")
            .args(["-c", script, &name])
            .status()
            .unwrap();
        assert!(status.success());
        let began = Instant::now();
        take(&name).await.unwrap();
        assert!(began.elapsed() > Duration::from_millis(300), "it was free");
    }
}
