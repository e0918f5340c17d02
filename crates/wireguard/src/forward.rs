//! The threads that carry packets between the tunnel and the network.

mod network;
mod sockets;
mod tunnel;

use std::io;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::Duration;

use crate::clock::Now;
use crate::device::{Device, HandshakeMessage};
use crate::endpoint::Endpoint;
use crate::lock::{Lock as _, SharedLock as _};
use crate::outgoing::Outgoing;
use crate::socket::{Sender, SocketError};
use crate::tun::Tun;
use network::Network;
use sockets::Sockets;
use tunnel::Outbound;

/// Handshake messages that wait: half a second of a flood, while the thread that answers them may not run. What comes when there are
/// more is lost, and tried again by who sent it.
const HANDSHAKES: usize = 8192;
/// Packets may set a timer at any moment without waking who watches them.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const SHORTEST_WAIT: Duration = Duration::from_millis(50);

type Handshake = (HandshakeMessage, Endpoint);

#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("cannot begin the work between tunnel and network: {0}")]
    Thread(#[from] io::Error),
}

/// An interface at work. It goes on until the process ends.
pub(crate) struct Forwarding {
    device: Arc<Device>,
    tun: Tun,
    sockets: RwLock<Sockets>,
    /// Held while sockets are exchanged: of two who do so at once, each would leave the other's half.
    exchange: Mutex<()>,
    network: Network,
    /// Each of both threads may carry what the host sends, one at a time.
    outbound: Mutex<Outbound>,
}

impl Forwarding {
    /// Begins to carry packets, on a port of the system's choice. Something is sent to `ended` when the interface is gone.
    pub(crate) fn start(
        device: Arc<Device>,
        tun: Tun,
        ended: mpsc::Sender<()>,
    ) -> Result<Arc<Self>, ForwardError> {
        let sockets = Sockets::bind(0, 0)?;
        device.set_listen_port(sockets.port());
        let forwarding = Arc::new(Self {
            device,
            tun,
            sockets: RwLock::new(sockets),
            exchange: Mutex::new(()),
            network: Network::new()?,
            outbound: Mutex::default(),
        });
        let (handshakes, waiting) = mpsc::sync_channel(HANDSHAKES);
        forwarding.spawn("tunnel", move |forwarding| {
            tunnel::run(forwarding);
            // Nobody waits for it any more if the process is about to end.
            let _ = ended.send(());
        })?;
        forwarding.spawn("network", move |forwarding| {
            network::run(forwarding, &handshakes);
        })?;
        forwarding.spawn("handshakes", move |forwarding| {
            forwarding.compute(&waiting);
        })?;
        forwarding.spawn("timers", Self::watch)?;
        Ok(forwarding)
    }

    /// Listens on another port; 0 is one of the system's choice. If that cannot be, the port before stays.
    pub(crate) fn bind(&self, port: u16) -> Result<(), SocketError> {
        let _exchange = self.exchange.hold();
        let mark = self.mark();
        let sockets = Sockets::bind(port, mark)?;
        self.device.set_listen_port(sockets.port());
        *self.sockets.change() = sockets;
        self.network.wake();
        Ok(())
    }

    pub(crate) fn port(&self) -> u16 {
        self.sockets.look().port()
    }

    pub(crate) fn set_mark(&self, mark: u32) -> io::Result<()> {
        let _exchange = self.exchange.hold();
        self.sockets.change().set_mark(mark)
    }

    pub(crate) fn mark(&self) -> u32 {
        self.sockets.look().mark()
    }

    pub(crate) fn send(&self, outgoing: &mut Outgoing) {
        self.send_by(&mut Sender::default(), outgoing);
    }

    /// What cannot be sent is lost, as on any way.
    fn send_by(&self, sender: &mut Sender, outgoing: &mut Outgoing) {
        for (mut endpoint, datagram) in outgoing.drain() {
            self.transmit(sender, &mut endpoint, &datagram, datagram.len());
        }
    }

    fn transmit(&self, sender: &mut Sender, endpoint: &mut Endpoint, bytes: &[u8], length: usize) {
        let socket = self.sockets.look().of(endpoint.address);
        if let Some(socket) = socket
            && let Err(error) = sender.send(&socket, endpoint, bytes, length)
        {
            tracing::debug!(to = %endpoint.address, %error, "cannot send");
        }
    }

    fn compute(&self, waiting: &Receiver<Handshake>) {
        let mut sender = Sender::default();
        let mut outgoing = Outgoing::default();
        while let Ok((message, endpoint)) = waiting.recv() {
            self.device
                .handle_handshake(Now::read(), &message, endpoint, &mut outgoing);
            self.send_by(&mut sender, &mut outgoing);
        }
    }

    fn watch(&self) {
        let mut sender = Sender::default();
        let mut outgoing = Outgoing::default();
        loop {
            if let Some(mtu) = self.tun.mtu().ok().and_then(|mtu| mtu.try_into().ok()) {
                self.device.set_mtu(mtu);
            }
            let now = Now::read();
            let next = self.device.handle_timeout(now, &mut outgoing);
            self.send_by(&mut sender, &mut outgoing);
            let wait = next.map_or(LONGEST_WAIT, |next| next.saturating_sub(now.monotonic));
            thread::sleep(wait.clamp(SHORTEST_WAIT, LONGEST_WAIT));
        }
    }

    fn spawn(
        self: &Arc<Self>,
        name: &str,
        work: impl FnOnce(&Self) + Send + 'static,
    ) -> io::Result<()> {
        let forwarding = Arc::clone(self);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(&forwarding))
            .map(drop)
    }
}

fn offer(handshakes: &SyncSender<Handshake>, waiting: Vec<Handshake>) {
    for handshake in waiting {
        if handshakes.try_send(handshake).is_err() {
            return;
        }
    }
}
