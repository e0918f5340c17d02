//! Serving the front's socket: one thread for each who talks to it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SocketFlags, accept_with};

use super::{Answer, Envelope, LONGEST_LINE, Request, VERSION, line};
use crate::client::{Client, ClientError};
use crate::front::{Front, Inheritance, State};
use crate::handover;
use crate::table::TableError;

/// Who talks at the same time.
const MOST: usize = 32;
/// What one who was given an answer gets for the next step of a handover.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often one that has handed over, and was left alone, looks for a front.
const RETRY: Duration = Duration::from_millis(200);

/// Why the process has something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// Somebody said so, or a signal did.
    Stop,
    HandedOver,
}

/// Serves the socket until the front is handed over, which `end` tells, too.
pub(crate) fn serve(
    front: &Arc<Front>,
    socket: &Path,
    listener: &Arc<OwnedFd>,
    end: &OwnedFd,
    occasions: &Sender<Occasion>,
) -> io::Result<()> {
    let talking = Arc::new(AtomicUsize::new(0));
    loop {
        let mut wait = [
            PollFd::new(&**listener, PollFlags::IN),
            PollFd::new(end, PollFlags::IN),
        ];
        match poll(&mut wait, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !wait[1].revents().is_empty() {
            return Ok(());
        }
        let stream = match accept_with(&**listener, SocketFlags::CLOEXEC) {
            Ok(stream) => UnixStream::from(stream),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of the control socket");
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if talking.fetch_add(1, Ordering::Relaxed) >= MOST {
            talking.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let talk = Talk {
            front: Arc::clone(front),
            socket: socket.to_owned(),
            listener: Arc::downgrade(listener),
            occasions: occasions.clone(),
        };
        let count = Arc::clone(&talking);
        let spawned = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                if let Err(error) = talk.run(stream) {
                    tracing::debug!(%error, "a connection of the control socket has failed");
                }
                count.fetch_sub(1, Ordering::Relaxed);
            });
        if spawned.is_err() {
            talking.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

struct Talk {
    front: Arc<Front>,
    socket: PathBuf,
    /// It is gone when the front is handed over: who holds it keeps a socket alive that nobody serves.
    listener: Weak<OwnedFd>,
    occasions: Sender<Occasion>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Anybody,
    /// The front that has taken over.
    Successor,
}

/// What becomes of a connection when the caller asks nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    End,
    HandOver,
    Lead,
}

impl Talk {
    fn run(&self, stream: UnixStream) -> io::Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut stream = BufReader::new(stream);
        match self.obey(&mut stream, Caller::Anybody)? {
            Rest::End => Ok(()),
            Rest::HandOver => self.hand_over(stream),
            Rest::Lead => self.lead(stream),
        }
    }

    fn obey(&self, stream: &mut BufReader<UnixStream>, caller: Caller) -> io::Result<Rest> {
        while let Some(request) = receive(stream)? {
            let request = match request {
                Ok(request) => request,
                Err(reason) => {
                    tell(stream, Answer::Refused { reason })?;
                    continue;
                }
            };
            let mut state = self.front.lock();
            if state.is_handed_over() && caller == Caller::Anybody {
                // The next front serves the same socket.
                return Ok(Rest::End);
            }
            let answer = match request {
                Request::Set(table) => {
                    let set = self.front.set(&mut state, table, Inheritance::default());
                    self.answer(&state, set)
                }
                Request::Change(change) => {
                    let changed = self.front.change(&mut state, &change);
                    self.answer(&state, changed)
                }
                Request::Status { names } => {
                    Answer::Status(self.front.fresh_status(&mut state, names))
                }
                Request::Stop {} => {
                    self.front.stop_predecessors(&mut state);
                    drop(state);
                    tell(stream, Answer::Stopping {})?;
                    let _ = self.occasions.send(Occasion::Stop);
                    // Held open until the process ends, which tells the caller that it has.
                    loop {
                        thread::park();
                    }
                }
                Request::TakeOver {} if caller == Caller::Anybody => return Ok(Rest::HandOver),
                Request::Follow {} if caller == Caller::Anybody => return Ok(Rest::Lead),
                Request::TakeOver {}
                | Request::Follow {}
                | Request::Send {}
                | Request::Taken {} => Answer::Refused {
                    reason: "nothing is being handed over".to_owned(),
                },
            };
            drop(state);
            tell(stream, answer)?;
        }
        Ok(Rest::End)
    }

    fn answer(&self, state: &State, done: Result<(), TableError>) -> Answer {
        match done {
            Ok(()) => Answer::Status(self.front.status(state)),
            Err(error) => Answer::Refused {
                reason: error.to_string(),
            },
        }
    }

    /// All the steps of a handover, while nobody changes anything.
    fn hand_over(&self, mut stream: BufReader<UnixStream>) -> io::Result<()> {
        let mut state = self.front.lock();
        let Some(control) = (self.listener.upgrade()).filter(|_| !state.is_handed_over()) else {
            return Ok(());
        };
        stream.get_ref().set_read_timeout(Some(PATIENCE))?;
        let (inventory, leaving) = self.front.prepare_to_leave(&state, control);
        let steps = |stream: &mut BufReader<UnixStream>| {
            tell(stream, Answer::HandOver(inventory))?;
            let Some(Ok(Request::Send {})) = receive(stream)? else {
                return Err(io::Error::other("it was broken off"));
            };
            handover::send(stream.get_ref().as_fd(), &leaving.descriptors())?;
            let Some(Ok(Request::Taken {})) = receive(stream)? else {
                return Err(io::Error::other("it was broken off"));
            };
            Ok(())
        };
        if let Err(error) = steps(&mut stream) {
            tracing::warn!(%error, "the handover has failed: going on");
            self.front.stay(leaving);
            return Err(error);
        }
        self.front.leave(&mut state, leaving);
        drop(state);
        let told = tell(&mut stream, Answer::Stopping {});
        // The process may end with this.
        let _ = self.occasions.send(Occasion::HandedOver);
        told?;
        self.follow(stream)
    }

    /// Does what the front says that has taken over, or whichever serves the socket when that is gone.
    fn follow(&self, mut stream: BufReader<UnixStream>) -> io::Result<()> {
        loop {
            stream.get_ref().set_read_timeout(None)?;
            if let Err(error) = self.obey(&mut stream, Caller::Successor) {
                tracing::debug!(%error, "the next front has broken off");
            }
            drop(stream);
            stream = loop {
                thread::sleep(RETRY);
                match Client::connect(&self.socket).and_then(Client::follow) {
                    Ok(stream) => break stream,
                    Err(ClientError::Unreachable { .. }) => {}
                    Err(error @ (ClientError::Refused { .. } | ClientError::Unexpected { .. })) => {
                        tracing::warn!(%error, "connections go on whatever becomes of their names");
                        return Ok(());
                    }
                }
            };
        }
    }

    fn lead(&self, mut stream: BufReader<UnixStream>) -> io::Result<()> {
        let mut state = self.front.lock();
        if state.is_handed_over() {
            return Ok(());
        }
        tell(&mut stream, Answer::Following {})?;
        let follower = Client::of_follower(&self.socket, stream);
        self.front
            .lead(&mut state, follower)
            .map_err(io::Error::other)
    }
}

/// The next request, or why it is none; nothing at the end.
fn receive(stream: &mut BufReader<UnixStream>) -> io::Result<Option<Result<Request, String>>> {
    let mut text = String::new();
    let mut limited = stream.take(LONGEST_LINE as u64);
    if limited.read_line(&mut text)? == 0 {
        return Ok(None);
    }
    if !text.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let envelope = serde_json::from_str::<Envelope<serde_json::Value>>(&text);
    Ok(Some(match envelope {
        Ok(Envelope { version, .. }) if version != VERSION => Err(format!(
            "this front speaks version {VERSION}, not {version}"
        )),
        Ok(Envelope { content, .. }) => {
            serde_json::from_value(content).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    }))
}

fn tell(stream: &mut BufReader<UnixStream>, answer: Answer) -> io::Result<()> {
    stream.get_mut().write_all(&line(answer)?)
}
