//! Telling a front what to do.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::control::{Answer, Envelope, LONGEST_LINE, Request, VERSION, line};
use crate::handover::{self, Inventory};
use crate::status::Status;
use crate::table::{Change, Table};

const PATIENCE: Duration = Duration::from_secs(10);
/// What a front gets that carries its last connections: others wait for it.
const PATIENCE_WITH_THE_LAST: Duration = Duration::from_secs(2);

/// A connection to the front behind a socket. It blocks, ten seconds at most.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    stream: BufReader<UnixStream>,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No process serves the socket, or it ended meanwhile.
    #[error("the front at {socket} cannot be reached: {source}")]
    Unreachable { socket: PathBuf, source: io::Error },
    #[error("the front at {socket} refuses: {reason}")]
    Refused { socket: PathBuf, reason: String },
    #[error("the front at {socket} gives another answer than was asked for: {reason}")]
    Unexpected { socket: PathBuf, reason: String },
}

impl Client {
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable {
            socket: socket.to_owned(),
            source,
        };
        let stream = UnixStream::connect(socket).map_err(unreachable)?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
            .map_err(unreachable)?;
        Ok(Self {
            socket: socket.to_owned(),
            stream: BufReader::new(stream),
        })
    }

    /// Puts a table in force. When this returns it is: new connections are led by it, and listeners that could not be opened
    /// are told in the status.
    pub fn set(&mut self, table: &Table) -> Result<Status, ClientError> {
        self.ask_status(Request::Set(table.clone()))
    }

    /// Changes the table in force, as [`Self::set`] does with a whole one. It is refused unless the table has the revision
    /// that the change is from.
    pub fn change(&mut self, change: &Change) -> Result<Status, ClientError> {
        self.ask_status(Request::Change(change.clone()))
    }

    /// All but the names.
    pub fn status(&mut self) -> Result<Status, ClientError> {
        self.ask_status(Request::Status { names: false })
    }

    /// With the names.
    pub fn status_with_names(&mut self) -> Result<Status, ClientError> {
        self.ask_status(Request::Status { names: true })
    }

    /// Ends the process and all of its connections; returns when its sockets are closed.
    pub fn stop(&mut self) -> Result<(), ClientError> {
        match self.ask(Request::Stop {})? {
            Answer::Stopping {} => {}
            answer => return Err(self.unexpected(&answer)),
        }
        // The process ends, and the connection with it.
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => {
                Err(self.unreachable(error))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// What the front leaves, and the descriptors of it; it goes on until [`Self::let_go`] unless the connection ends.
    pub(crate) fn take_over(&mut self) -> Result<(Inventory, Vec<OwnedFd>), ClientError> {
        let inventory = match self.ask(Request::TakeOver {})? {
            Answer::HandOver(inventory) => inventory,
            answer => return Err(self.unexpected(&answer)),
        };
        let descriptors = line(Request::Send {})
            .map_err(io::Error::from)
            .and_then(|request| self.stream.get_mut().write_all(&request))
            .and_then(|()| handover::receive(self.stream.get_ref(), inventory.count()))
            .map_err(|error| self.unreachable(error))?;
        Ok((inventory, descriptors))
    }

    /// Says that this process goes on with what it was left.
    pub(crate) fn let_go(&mut self) -> Result<(), ClientError> {
        match self.ask(Request::Taken {})? {
            Answer::Stopping {} => Ok(()),
            answer => Err(self.unexpected(&answer)),
        }
    }

    /// Lets the front ask this process, which carries its last connections.
    pub(crate) fn follow(mut self) -> Result<BufReader<UnixStream>, ClientError> {
        match self.ask(Request::Follow {})? {
            Answer::Following {} => Ok(self.stream),
            answer => Err(self.unexpected(&answer)),
        }
    }

    /// Of one that follows.
    pub(crate) fn of_follower(socket: &Path, stream: BufReader<UnixStream>) -> Self {
        Self {
            socket: socket.to_owned(),
            stream,
        }
    }

    pub(crate) fn socket(&self) -> io::Result<OwnedFd> {
        self.stream.get_ref().try_clone().map(OwnedFd::from)
    }

    pub(crate) fn be_less_patient(&self) -> Result<(), ClientError> {
        let (stream, patience) = (self.stream.get_ref(), Some(PATIENCE_WITH_THE_LAST));
        let set = stream.set_read_timeout(patience);
        set.and_then(|()| stream.set_write_timeout(patience))
            .map_err(|error| self.unreachable(error))
    }

    fn ask_status(&mut self, request: Request) -> Result<Status, ClientError> {
        match self.ask(request)? {
            Answer::Status(status) => Ok(status),
            answer => Err(self.unexpected(&answer)),
        }
    }

    fn ask(&mut self, request: Request) -> Result<Answer, ClientError> {
        let request = line(request).map_err(|error| self.unreachable(error.into()))?;
        let mut answer = String::new();
        let told = self.stream.get_mut().write_all(&request);
        told.and_then(|()| {
            let mut limited = (&mut self.stream).take(LONGEST_LINE as u64);
            limited.read_line(&mut answer)
        })
        .map_err(|error| self.unreachable(error))?;
        if !answer.ends_with('\n') {
            return Err(self.unreachable(io::ErrorKind::UnexpectedEof.into()));
        }
        let unexpected = |reason| ClientError::Unexpected {
            socket: self.socket.clone(),
            reason,
        };
        let answer: Envelope<Answer> =
            serde_json::from_str(&answer).map_err(|error| unexpected(error.to_string()))?;
        if answer.version != VERSION {
            let version = answer.version;
            return Err(unexpected(format!(
                "it speaks version {version}, this is version {VERSION}"
            )));
        }
        match answer.content {
            Answer::Refused { reason } => Err(ClientError::Refused {
                socket: self.socket.clone(),
                reason,
            }),
            answer @ (Answer::Status(_)
            | Answer::Stopping {}
            | Answer::HandOver(_)
            | Answer::Following {}) => Ok(answer),
        }
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        ClientError::Unreachable {
            socket: self.socket.clone(),
            source,
        }
    }

    fn unexpected(&self, answer: &Answer) -> ClientError {
        ClientError::Unexpected {
            socket: self.socket.clone(),
            reason: format!("{answer:?}"),
        }
    }
}
