//! The process: it takes over from the one before, and lives until it is told to end or the next has taken over from it.

use std::io::{self, BufReader};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use rustix::event::{EventfdFlags, eventfd};

use crate::client::{Client, ClientError};
use crate::control::server::{self, Occasion};
use crate::front::{Front, Inheritance};
use crate::table::{Table, TableError};
use crate::worker::MOST_WORKERS;

/// How often listeners that could not be opened are tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often one that has handed over looks whether its last connection has ended.
const LOOK: Duration = Duration::from_millis(100);
/// Files that are wanted, where the system lets a process have as many.
const FILES: u64 = 1 << 19;
/// Files that are no connections'.
const OTHER_FILES: u32 = 256;

/// Why there is no front.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot {operation} {socket}: {source}")]
    Setup {
        operation: &'static str,
        socket: PathBuf,
        source: io::Error,
    },
    /// Another serves the socket; it goes on.
    #[error("cannot take over: {0}")]
    TakeOver(#[from] ClientError),
    #[error("cannot take over the table: {0}")]
    Table(#[from] TableError),
}

/// Serves a socket, with what another front has there if one does. `ready` is called when it can be told what to do; this
/// returns when a signal or a caller ends it, or when the next front has taken over and the last connection has ended.
pub fn serve(socket: &Path, ready: impl FnOnce()) -> Result<(), ServeError> {
    let failed = |operation| {
        move |source| ServeError::Setup {
            operation,
            socket: socket.to_owned(),
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
        .map_err(|errno| failed("await signals for")(errno.into()))?;
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let workers =
        thread::available_parallelism().map_or(1, |count| count.get().min(MOST_WORKERS as usize));
    let front = Front::start(workers, files_for_connections())
        .map_err(failed("start the threads behind"))?;
    let front = Arc::new(front);

    let (listener, before) = claim(socket, &front, failed)?;
    let listener = Arc::new(listener);
    let (sender, occasions) = mpsc::channel();
    let end = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let end = Arc::new(end.map_err(|errno| failed("serve")(errno.into()))?);
    let control = {
        let (front, listener, end) = (Arc::clone(&front), Arc::clone(&listener), Arc::clone(&end));
        let (sender, socket) = (sender.clone(), socket.to_owned());
        thread::Builder::new()
            .name("control-socket".to_owned())
            .spawn(move || {
                if let Err(error) = server::serve(&front, &socket, &listener, &end, &sender) {
                    tracing::error!(%error, "the control socket has failed");
                    let _ = sender.send(Occasion::Stop);
                }
            })
            .map_err(failed("serve"))?
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let _ = signals.wait();
            let _ = sender.send(Occasion::Stop);
        })
        .map_err(failed("await signals for"))?;
    if let Some(Before { mut last, earlier }) = before {
        last.let_go()?;
        for client in earlier.into_iter().chain([last]) {
            if let Err(error) = front.lead(&mut front.lock(), client) {
                // It may have had nothing more to carry.
                tracing::debug!(%error, "a front before this one is gone");
            }
        }
    }
    notify();
    ready();

    let occasion = loop {
        match occasions.recv_timeout(RETRY) {
            Ok(occasion) => break occasion,
            Err(RecvTimeoutError::Timeout) => front.retry(),
            Err(RecvTimeoutError::Disconnected) => break Occasion::Stop,
        }
    };
    match occasion {
        Occasion::Stop => {
            // So that the next need not wonder who is behind it.
            let _ = std::fs::remove_file(socket);
        }
        Occasion::HandedOver => {
            let _ = rustix::io::write(&end, &1_u64.to_ne_bytes());
            let _ = control.join();
            drop(listener);
            tracing::info!(
                open = front.open(),
                "handed over; ending with the last connection"
            );
            while front.open() > 0 && occasions.recv_timeout(LOOK).is_err() {}
        }
    }
    Ok(())
}

/// The fronts that have handed over.
struct Before {
    /// It waits for a word.
    last: Client,
    earlier: Vec<Client>,
}

/// The control socket: of the front that is there, or a new one.
fn claim<F: FnOnce(io::Error) -> ServeError>(
    socket: &Path,
    front: &Front,
    failed: impl Fn(&'static str) -> F,
) -> Result<(OwnedFd, Option<Before>), ServeError> {
    let mut last = match Client::connect(socket) {
        Ok(client) => client,
        Err(ClientError::Unreachable { source, .. }) if is_nobody(&source) => {
            if source.kind() == io::ErrorKind::ConnectionRefused {
                // One that was killed has left it.
                std::fs::remove_file(socket).map_err(failed("remove"))?;
            }
            let listener = UnixListener::bind(socket).map_err(failed("listen at"))?;
            listener
                .set_nonblocking(true)
                .map_err(failed("listen at"))?;
            return Ok((listener.into(), None));
        }
        Err(error) => return Err(error.into()),
    };
    let (inventory, descriptors) = last.take_over()?;
    let mut descriptors = descriptors.into_iter();
    let Some(listener) = descriptors.next() else {
        return Err(failed("take over")(io::ErrorKind::UnexpectedEof.into()));
    };
    let mut inheritance = Inheritance::new(&inventory, descriptors);
    let earlier = std::mem::take(&mut inheritance.predecessors).into_iter();
    let earlier = earlier.map(|stream| {
        let stream = BufReader::new(UnixStream::from(stream));
        Client::of_follower(socket, stream)
    });
    let earlier = earlier.collect();
    let table: Table = inventory.table;
    front.set(&mut front.lock(), table, inheritance)?;
    Ok((listener, Some(Before { last, earlier })))
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// How many files connections may have, which is what the system lets this process have.
fn files_for_connections() -> u32 {
    let files = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => {
            let wanted = FILES.max(hard);
            // Root may have more than its limit.
            let is_raised = setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok();
            if is_raised {
                wanted
            } else if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
                hard
            } else {
                soft
            }
        }
        Err(_) => 1024,
    };
    // Half of the numbers is more than any process has, and sums stay in them.
    let files = u32::try_from(files).unwrap_or(u32::MAX).min(1 << 31);
    files.saturating_sub(OTHER_FILES)
}

/// Tells the service manager that this is the main process of the unit, and ready (sd_notify(3)).
fn notify() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let text = format!("MAINPID={}\nREADY=1\n", std::process::id());
    let told = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address));
    if let Err(error) = told {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
