//! The process that carries one interface: it lives until the interface is deleted, or a signal ends it.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};

use crate::device::Device;
use crate::forward::{ForwardError, Forwarding};
use crate::tun::{Tun, TunError};
use crate::uapi::{Interface, Server};

/// What an Ethernet of 1500 bytes carries when the outer packet is IPv6.
const MTU: u32 = 1420;
/// What the kernel gives a new interface.
const UNSET_MTU: u32 = 1500;

/// Why an interface cannot be carried.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Tun(#[from] TunError),
    #[error(transparent)]
    Forward(#[from] ForwardError),
    #[error(
        "another process carries an interface {interface}, here or in another network namespace: stop it, or choose another name"
    )]
    Taken { interface: String },
    #[error("cannot {operation} of the interface {interface}: {source}")]
    Setup {
        operation: &'static str,
        interface: String,
        source: io::Error,
    },
}

/// Makes the interface and carries its packets. `ready` is called when it can be configured; the interface goes when this ends.
pub fn serve(interface: &str, ready: impl FnOnce()) -> Result<(), ServeError> {
    let failed = |operation| {
        move |source| ServeError::Setup {
            operation,
            interface: interface.to_owned(),
            source,
        }
    };
    // Every thread begins with the signals blocked; one of them waits for them.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals
        .thread_block()
        .map_err(|errno| failed("await signals")(errno.into()))?;
    umask(Mode::S_IRWXG | Mode::S_IRWXO);

    let tun = Tun::open(interface)?;
    let mtu = tun.mtu().map_err(failed("read the MTU"))?;
    if mtu == UNSET_MTU {
        tun.set_mtu(MTU).map_err(failed("set the MTU"))?;
    }
    let server = Server::claim(interface).map_err(|error| {
        if error.kind() == io::ErrorKind::AddrInUse {
            let interface = interface.to_owned();
            ServeError::Taken { interface }
        } else {
            failed("make the configuration socket")(error)
        }
    })?;
    let server = Arc::new(server);
    let (ended, end) = mpsc::channel();
    let outcome = start(&server, tun, ended, &signals, failed);
    if outcome.is_ok() {
        ready();
        // An error says that all who could end it are gone.
        let _ = end.recv();
    }
    server.remove();
    outcome
}

fn start<F: FnOnce(io::Error) -> ServeError>(
    server: &Arc<Server>,
    tun: Tun,
    ended: mpsc::Sender<()>,
    signals: &SigSet,
    failed: impl Fn(&'static str) -> F,
) -> Result<(), ServeError> {
    let device = Arc::new(Device::new(MTU as usize));
    let forwarding = Forwarding::start(Arc::clone(&device), tun, ended.clone())?;
    let interface = Interface { device, forwarding };
    let (server, by_server) = (Arc::clone(server), ended.clone());
    thread::Builder::new()
        .name(String::from("configuration"))
        .spawn(move || {
            let error = server.serve(&interface);
            tracing::error!(%error, "the configuration socket has failed");
            let _ = by_server.send(());
        })
        .map_err(failed("begin the configuration"))?;
    let signals = *signals;
    thread::Builder::new()
        .name(String::from("signals"))
        .spawn(move || {
            let _ = signals.wait();
            let _ = ended.send(());
        })
        .map_err(failed("await signals"))?;
    Ok(())
}
