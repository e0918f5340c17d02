//! Serving the front's socket: one thread for each who talks to it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SocketFlags, accept_with};

use super::{Answer, Envelope, LONGEST_LINE, Request, VERSION, line};
use crate::front::{Front, Inheritance, State};
use crate::handover;
use crate::table::TableError;

/// Who talks at the same time.
const MOST: usize = 32;
/// What one who was given an answer gets for the next step of a handover.
const PATIENCE: Duration = Duration::from_secs(10);

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
            listener: Arc::clone(listener),
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
    listener: Arc<OwnedFd>,
    occasions: Sender<Occasion>,
}

impl Talk {
    fn run(&self, stream: UnixStream) -> io::Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut stream = BufReader::new(stream);
        while let Some(request) = receive(&mut stream)? {
            let request = match request {
                Ok(request) => request,
                Err(reason) => {
                    tell(&mut stream, Answer::Refused { reason })?;
                    continue;
                }
            };
            match request {
                Request::Set(table) => {
                    let mut state = self.front.lock();
                    if state.is_handed_over() {
                        // The next front serves the same socket.
                        return Ok(());
                    }
                    let set = self.front.set(&mut state, table, Inheritance::default());
                    let answer = self.answer(&state, set);
                    drop(state);
                    tell(&mut stream, answer)?;
                }
                Request::Change(change) => {
                    let mut state = self.front.lock();
                    if state.is_handed_over() {
                        return Ok(());
                    }
                    let changed = self.front.change(&mut state, &change);
                    let answer = self.answer(&state, changed);
                    drop(state);
                    tell(&mut stream, answer)?;
                }
                Request::Status { names } => {
                    let state = self.front.lock();
                    if state.is_handed_over() {
                        return Ok(());
                    }
                    let mut status = self.front.status(&state);
                    if names {
                        status.names = Front::names(&state);
                    }
                    drop(state);
                    tell(&mut stream, Answer::Status(status))?;
                }
                Request::Stop {} => {
                    tell(&mut stream, Answer::Stopping {})?;
                    let _ = self.occasions.send(Occasion::Stop);
                    // Held open until the process ends, which tells the caller that it has.
                    loop {
                        thread::park();
                    }
                }
                Request::TakeOver {} => return self.hand_over(stream),
                Request::Send {} | Request::Taken {} => {
                    let reason = "nothing is being handed over".to_owned();
                    tell(&mut stream, Answer::Refused { reason })?;
                }
            }
        }
        Ok(())
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
        if state.is_handed_over() {
            return Ok(());
        }
        stream.get_ref().set_read_timeout(Some(PATIENCE))?;
        let control = Arc::clone(&self.listener);
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
        told
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
