//! From the network to the tunnel: receive, open, join, write.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Forwarding, Handshake, offer};
use crate::clock::Now;
use crate::coalesce::Coalescer;
use crate::device::Opened;
use crate::lock::SharedLock as _;
use crate::socket::{Receiver, Sender, Socket};

/// After an error of a socket; the next receive may do.
const PAUSE: Duration = Duration::from_millis(10);

/// So few packets at a time say that the two threads wait more than they work.
const FEW: usize = 2;

/// How the thread learns of other sockets.
pub(super) struct Network {
    changed: EventFd,
}

struct Workshop {
    receiver: Receiver,
    coalescer: Coalescer,
    sender: Sender,
}

impl Network {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            changed: EventFd::from_flags(flags)?,
        })
    }

    pub(super) fn wake(&self) {
        // It fails when nobody has read what was written long before: then the thread will look anyway.
        let _ = self.changed.write(1);
    }
}

pub(super) fn run(forwarding: &Forwarding, handshakes: &SyncSender<Handshake>) {
    let mut workshop = Workshop {
        receiver: Receiver::default(),
        coalescer: Coalescer::default(),
        sender: Sender::default(),
    };
    loop {
        let _ = forwarding.network.changed.read();
        let sockets = forwarding.sockets.look().clone();
        let both = [Some(&sockets.ipv4), sockets.ipv6.as_ref()];
        let mut is_current = true;
        while is_current {
            let mut waiting = vec![PollFd::new(
                forwarding.network.changed.as_fd(),
                PollFlags::POLLIN,
            )];
            let sockets = both.iter().flatten();
            waiting.extend(sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
            if poll(&mut waiting, PollTimeout::NONE).is_err() {
                continue;
            }
            let mut ready = waiting
                .iter()
                .map(|descriptor| descriptor.any().unwrap_or(true));
            is_current = !ready.next().unwrap_or(true);
            for (socket, _) in both.iter().flatten().zip(ready).filter(|(_, ready)| *ready) {
                if let Err(error) = workshop.carry(forwarding, socket, handshakes) {
                    tracing::warn!(%error, port = socket.port(), "cannot receive");
                    thread::sleep(PAUSE);
                }
            }
        }
    }
}

impl Forwarding {
    /// The host often answers at once: then the answer need not wait until the other thread is awake. When that is at work, it does this.
    fn answer(&self) {
        if let Ok(mut outbound) = self.outbound.try_lock() {
            // An error shows again when the other thread reads.
            let _ = outbound.carry(self, FEW);
        }
    }
}

impl Workshop {
    /// Takes what has come to one socket; the other one has its turn after each batch.
    fn carry(
        &mut self,
        forwarding: &Forwarding,
        socket: &Socket,
        handshakes: &SyncSender<Handshake>,
    ) -> io::Result<()> {
        if socket.receive(&mut self.receiver)? == 0 {
            return Ok(());
        }
        let mut opened = Opened::default();
        let datagrams = self.receiver.datagrams();
        forwarding.device.open(Now::read(), datagrams, &mut opened);
        if !opened.packets.is_empty() {
            let offers = forwarding.tun.offers();
            self.coalescer.coalesce(&opened.packets, offers);
            forwarding.tun.write(&opened.packets, &self.coalescer);
            if opened.packets.len() <= FEW {
                forwarding.answer();
            }
        }
        forwarding.send_by(&mut self.sender, &mut opened.outgoing);
        offer(handshakes, opened.handshakes);
        Ok(())
    }
}
