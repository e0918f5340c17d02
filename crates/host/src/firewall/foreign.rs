//! Watches the packet filters of others.

mod reading;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use adit_model::foreign::Ruleset;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

#[cfg(feature = "fuzzing")]
pub(crate) use reading::read_message;

use crate::netfilter::{DATAGRAM, Message, SUBSYSTEM_NFTABLES, attribute, messages};

/// Programs write their rules in several transactions: they are read when it was quiet for this long ...
const QUIET: Duration = Duration::from_millis(250);

/// ... or at the latest after this.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it rests after reading, and this many times what the reading took: some programs change their sets all the time,
/// and some have thousands of rules.
const REST: Duration = Duration::from_secs(1);
const REST_RATIO: u32 = 20;
const LONGEST_REST: Duration = Duration::from_secs(3);

/// How long it waits before it tries again what failed.
const PAUSE: Duration = Duration::from_secs(5);

/// What others filter in the network namespace of the calling thread; nothing where they have no base chain.
///
/// # Errors
///
/// The kernel does not tell.
pub fn observe() -> io::Result<Ruleset> {
    reading::read()
}

/// Tells in `known` what others filter, until it is aborted. What they have by other means than nftables is not seen.
pub async fn keep(known: watch::Sender<Arc<Ruleset>>) {
    loop {
        if let Err(error) = follow(&known).await {
            tracing::warn!(%error, "cannot tell what other firewalls drop");
        }
        sleep(PAUSE).await;
    }
}

async fn follow(known: &watch::Sender<Arc<Ruleset>>) -> io::Result<()> {
    // Subscribed before the first look, so that nothing is missed after it.
    let socket = subscribe()?;
    loop {
        let began = Instant::now();
        let ruleset = observe()?;
        let rest = (began.elapsed() * REST_RATIO).clamp(REST, LONGEST_REST);
        known.send_if_modified(|known| {
            let is_news = **known != ruleset;
            if is_news {
                *known = Arc::new(ruleset);
            }
            is_news
        });
        sleep(rest).await;
        while !is_foreign_change(&socket).await? {}
        let settle = async { while timeout(QUIET, is_foreign_change(&socket)).await.is_ok() {} };
        let _ = timeout(PATIENCE, settle).await;
    }
}

fn subscribe() -> io::Result<TokioSocket> {
    const GROUP_NFTABLES: u32 = 7;
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
    socket.socket_mut().add_membership(GROUP_NFTABLES)?;
    Ok(socket)
}

/// Waits for the next events, and tells whether one is about a table that is not ours.
async fn is_foreign_change(socket: &TokioSocket) -> io::Result<bool> {
    let mut datagram = Vec::with_capacity(DATAGRAM);
    match socket.recv(&mut datagram).await {
        Ok(()) => Ok(messages(&datagram).any(is_foreign)),
        // Events were lost, perhaps because so many were our own.
        Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => Ok(true),
        Err(error) => Err(error),
    }
}

/// The table's name is the first attribute of every kind of object; a generation has none.
fn is_foreign(message: Message<'_>) -> bool {
    const NEW_GENERATION: u8 = 15;
    const TABLE_NAME: u16 = 1;
    message.subsystem == SUBSYSTEM_NFTABLES
        && message.kind != NEW_GENERATION
        && !attribute(message.attributes, TABLE_NAME).is_some_and(is_ours)
}

/// Our tables, by their names as the kernel writes them.
fn is_ours(name: &[u8]) -> bool {
    matches!(name, b"adit\0" | b"adit_police\0")
}
