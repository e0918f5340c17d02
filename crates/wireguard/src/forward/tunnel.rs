//! From the tunnel to the network: read, cut, seal, send.

mod bundle;

use std::io;
use std::os::fd::AsFd as _;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Forwarding;
use crate::clock::Now;
use crate::lock::Lock as _;
use crate::outgoing::Outgoing;
use crate::segment::Segments;
use crate::socket::Sender;
use crate::tun::LONGEST_PACKET;
use crate::vnet::Header;
use bundle::Bundle;

/// After an error that is none of those that are known.
const PAUSE: Duration = Duration::from_millis(10);

/// Carries packets, with what is used again for each of them.
pub(super) struct Outbound {
    packet: Box<[u8]>,
    workshop: Workshop,
}

#[derive(Default)]
struct Workshop {
    bundle: Bundle,
    outgoing: Outgoing,
    sender: Sender,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            packet: vec![0; LONGEST_PACKET].into(),
            workshop: Workshop::default(),
        }
    }
}

/// Goes on until the interface is gone.
pub(super) fn run(forwarding: &Forwarding) {
    loop {
        let outcome = forwarding.outbound.hold().carry(forwarding, usize::MAX);
        match outcome {
            Ok(()) => {
                let mut waiting = [PollFd::new(forwarding.tun.as_fd(), PollFlags::POLLIN)];
                // An error shows again when it is read.
                let _ = poll(&mut waiting, PollTimeout::NONE);
            }
            Err(error) if error.raw_os_error() == Some(Errno::EBADFD as i32) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot read from the tunnel");
                thread::sleep(PAUSE);
            }
        }
    }
}

impl Outbound {
    /// Carries what waits, at most so many packets of the host. Nothing is kept for what may come.
    pub(super) fn carry(&mut self, forwarding: &Forwarding, most: usize) -> io::Result<()> {
        let outcome = self.take(forwarding, most);
        self.workshop.dispatch(forwarding);
        outcome
    }

    fn take(&mut self, forwarding: &Forwarding, most: usize) -> io::Result<()> {
        for _ in 0..most {
            let Some((header, length)) = forwarding.tun.read(&mut self.packet)? else {
                break;
            };
            if let Some(packet) = self.packet.get(..length) {
                self.workshop.take(forwarding, &header, packet);
            }
        }
        Ok(())
    }
}

impl Workshop {
    fn take(&mut self, forwarding: &Forwarding, header: &Header, packet: &[u8]) {
        let Ok(mut segments) = Segments::new(header, packet) else {
            return;
        };
        let mtu = forwarding.device.mtu();
        if !self.bundle.is_for(packet, mtu) {
            self.dispatch(forwarding);
            self.bundle.begin(packet, mtu);
        }
        while segments.remaining() > 0 {
            if !self.bundle.takes(segments.next_length()) {
                self.dispatch(forwarding);
                self.bundle.begin(packet, mtu);
            }
            if !self.bundle.add(&mut segments) {
                return;
            }
        }
    }

    fn dispatch(&mut self, forwarding: &Forwarding) {
        let bundle = &mut self.bundle;
        if bundle.is_empty() {
            return;
        }
        let endpoint = forwarding.device.seal(
            Now::read(),
            bundle.mtu(),
            &mut bundle.buffer,
            &bundle.slots,
            &mut self.outgoing,
        );
        if let Some(mut endpoint) = endpoint {
            let (datagrams, length) = bundle.datagrams();
            forwarding.transmit(&mut self.sender, &mut endpoint, datagrams, length);
        }
        bundle.clear();
        forwarding.send_by(&mut self.sender, &mut self.outgoing);
    }
}
