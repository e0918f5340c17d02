//! Tells when someone else changes the table, within milliseconds.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use super::{FirewallError, Journal, generation_in};
use crate::netfilter::{DATAGRAM, Message, SUBSYSTEM_NFTABLES, attribute, messages};

/// Events of the table, without those of our own transactions.
pub struct Watch {
    socket: TokioSocket,
    journal: Arc<Journal>,
    /// Whether the transaction that is being told touches our table.
    touched: bool,
    /// Generations in which our table was touched, not yet looked at.
    pending: VecDeque<u32>,
    /// The last events.
    datagram: Vec<u8>,
}

impl Watch {
    pub(super) fn open(journal: Arc<Journal>) -> Result<Self, FirewallError> {
        let socket = subscribe().map_err(failed("subscribe to changes of the ruleset"))?;
        Ok(Self {
            socket,
            journal,
            touched: false,
            pending: VecDeque::new(),
            datagram: Vec::with_capacity(DATAGRAM),
        })
    }

    /// Returns when someone else has changed the table, or may have. It may be dropped and called again.
    ///
    /// A transaction of another program that falls within one of ours can make both look foreign: look before healing.
    pub async fn changed(&mut self) -> Result<(), FirewallError> {
        loop {
            while let Some(generation) = self.pending.front().copied() {
                // Waits until a transaction of ours that is under way is known.
                let own = self.journal.0.lock().await.contains(&generation);
                self.pending.pop_front();
                if !own {
                    self.pending.clear();
                    return Ok(());
                }
            }
            self.datagram.clear();
            let received = self.socket.recv(&mut self.datagram).await;
            match received.and_then(|()| adit_fault::point("nft/event")) {
                Ok(()) => {
                    for message in messages(&self.datagram) {
                        take(message, &mut self.touched, &mut self.pending);
                    }
                }
                // Events were lost, and with them perhaps the end of a transaction.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    self.touched = false;
                    self.pending.clear();
                    return Ok(());
                }
                Err(error) => return Err(failed("read changes of the ruleset")(error)),
            }
        }
    }
}

/// The kernel tells every object of a transaction, and last the generation that it made.
fn take(message: Message<'_>, touched: &mut bool, pending: &mut VecDeque<u32>) {
    const NEW_GENERATION: u8 = 15;
    if message.subsystem != SUBSYSTEM_NFTABLES {
        return;
    }
    if message.kind != NEW_GENERATION {
        *touched |= is_ours(message);
    } else if std::mem::take(touched) {
        pending.extend(generation_in(message.attributes));
    }
}

/// Events of a table with ten thousand elements have to fit.
const RECEIVE_BUFFER: usize = 32 << 20;

fn subscribe() -> io::Result<TokioSocket> {
    const GROUP_NFTABLES: u32 = 7;
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    if setsockopt(socket.socket_ref(), sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(socket.socket_ref(), sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    }
    socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
    socket.socket_mut().add_membership(GROUP_NFTABLES)?;
    Ok(socket)
}

/// The table's name is the first attribute of every kind of object.
pub(crate) fn is_ours(message: Message<'_>) -> bool {
    const FAMILY_INET: u8 = 1;
    const TABLE_NAME: u16 = 1;
    message.family == FAMILY_INET && attribute(message.attributes, TABLE_NAME) == Some(b"adit\0")
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> FirewallError {
    move |cause| FirewallError::Netlink { operation, cause }
}
