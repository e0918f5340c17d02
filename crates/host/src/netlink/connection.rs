//! The netlink socket: sequence numbers, acknowledgements, dumps that are repeated until they are whole.

#![warn(clippy::indexing_slicing)]

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::time::timeout;

use super::{Cause, Request};

/// Requests that go out in one datagram. The kernel queues all their acknowledgements before we read the first, so
/// they must fit in the receive buffer.
pub(crate) const BATCH: usize = 100;

const RECEIVE_BUFFER: usize = 1 << 20;
/// Larger than any datagram that the kernel builds: dumps come in pieces of at most 32 KiB, single objects may be larger.
const DATAGRAM: usize = 256 << 10;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const DUMP_ATTEMPTS: u32 = 8;

pub(crate) struct Connection {
    socket: TokioSocket,
    sequence: u32,
    /// The dump that has not come to its end. The kernel refuses another one on the same socket until it has.
    dump: Option<u32>,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

/// Opens a route netlink socket that receives the given multicast groups.
pub(crate) fn open_socket(groups: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    // Past net.core.rmem_max where we may, else as much as it allows.
    if setsockopt(socket.socket_ref(), sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(socket.socket_ref(), sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    }
    socket.socket_mut().bind_auto()?;
    for group in groups {
        socket.socket_mut().add_membership(*group)?;
    }
    Ok(socket)
}

impl Connection {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = open_socket(&[])?;
        // Without strict checking the kernel ignores the filters of a dump.
        socket.socket_ref().set_netlink_get_strict_chk(true)?;
        socket.socket_ref().set_cap_ack(true)?;
        Ok(Self {
            socket,
            sequence: 0,
            dump: None,
            buffer: Vec::with_capacity(DATAGRAM),
        })
    }

    pub(crate) async fn dump(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Cause> {
        for _ in 0..DUMP_ATTEMPTS {
            let attempt = self.dump_once(message.clone());
            match timeout(ANSWER_TIMEOUT, attempt).await {
                Ok(Ok(Some(answers))) => return Ok(answers),
                Ok(Ok(None)) => {}
                Ok(Err(cause)) => return Err(cause),
                Err(_elapsed) => return Err(Cause::NoAnswer),
            }
        }
        Err(Cause::Changing)
    }

    pub(crate) async fn get(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, Cause> {
        fault("get", &message)?;
        let first = self.send(vec![(message, NLM_F_REQUEST)]).await?;
        timeout(ANSWER_TIMEOUT, async {
            loop {
                for answer in self.receive().await? {
                    if answer.header.sequence_number != first {
                        continue;
                    }
                    return match answer.payload {
                        NetlinkPayload::InnerMessage(inner) => Ok(Some(inner)),
                        NetlinkPayload::Error(error) => result_of(error.raw_code()).map(|()| None),
                        _ => Ok(None),
                    };
                }
            }
        })
        .await
        .unwrap_or(Err(Cause::NoAnswer))
    }

    /// Sends one batch. An acknowledgement that got lost is an error of that request alone.
    pub(crate) async fn change(&mut self, batch: Vec<Request>) -> Vec<Result<(), Cause>> {
        let count = batch.len();
        let mut results: Vec<Option<Result<(), Cause>>> = Vec::new();
        results.resize_with(count, || None);
        let sent = match batch.first().map(|(message, _)| fault("change", message)) {
            Some(Err(cause)) => Err(cause),
            Some(Ok(())) | None => self.send(batch).await,
        };
        let failure = match sent {
            Ok(first) => timeout(ANSWER_TIMEOUT, self.collect(first, &mut results))
                .await
                .unwrap_or(Err(Cause::NoAnswer)),
            Err(error) => Err(error),
        };
        adit_fault::passing("netlink/changed");
        // What was not answered for failed for the same reason.
        let again = || match &failure {
            Err(Cause::Socket(error)) => match error.raw_os_error() {
                Some(errno) => Cause::Socket(io::Error::from_raw_os_error(errno)),
                None => Cause::NoAnswer,
            },
            Err(Cause::Kernel(errno)) => Cause::Kernel(*errno),
            Ok(())
            | Err(Cause::NoAnswer | Cause::Changing | Cause::Occupied | Cause::NoInterface(_)) => {
                Cause::NoAnswer
            }
        };
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(|| Err(again())))
            .collect()
    }

    async fn collect(
        &mut self,
        first: u32,
        results: &mut [Option<Result<(), Cause>>],
    ) -> Result<(), Cause> {
        let mut missing = results.len();
        while missing > 0 {
            for answer in self.receive().await? {
                let place = answer.header.sequence_number.wrapping_sub(first) as usize;
                if let NetlinkPayload::Error(error) = &answer.payload
                    && let Some(slot @ None) = results.get_mut(place)
                {
                    *slot = Some(result_of(error.raw_code()));
                    missing -= 1;
                }
            }
        }
        Ok(())
    }

    /// One attempt at a dump; none if the table changed under it or a part of it was lost.
    async fn dump_once(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, Cause> {
        match fault("dump", &message) {
            Err(cause) if cause.errno() == Some(Errno::ENOBUFS) => return Ok(None),
            outcome => outcome?,
        }
        let first = self
            .send(vec![(message, NLM_F_REQUEST | NLM_F_DUMP)])
            .await?;
        self.dump = Some(first);
        let mut answers = Vec::new();
        let mut whole = true;
        loop {
            let messages = match self.receive().await {
                Ok(messages) => messages,
                Err(Cause::Socket(error)) if is_overrun(&error) => {
                    return Ok(None);
                }
                Err(cause) => return Err(cause),
            };
            for answer in messages {
                if answer.header.sequence_number != first {
                    continue;
                }
                whole &= answer.header.flags & NLM_F_DUMP_INTR == 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Done(done) => {
                        return result_of(done.code).map(|()| whole.then_some(answers));
                    }
                    NetlinkPayload::Error(error) => {
                        return result_of(error.raw_code()).map(|()| whole.then_some(answers));
                    }
                    NetlinkPayload::Overrun(_) => return Ok(None),
                    _ => {}
                }
            }
        }
    }

    /// Sends messages in one datagram and returns the sequence number of the first.
    async fn send(&mut self, messages: Vec<Request>) -> Result<u32, Cause> {
        timeout(ANSWER_TIMEOUT, self.finish_dump())
            .await
            .map_err(|_elapsed| Cause::NoAnswer)??;
        // Zero is the sequence number of events.
        let first = self.sequence.wrapping_add(1).max(1);
        let mut datagram = Vec::new();
        self.sequence = first;
        for (message, flags) in messages {
            let mut message = NetlinkMessage::from(message);
            message.header.flags = flags;
            message.header.sequence_number = self.sequence;
            message.finalize();
            let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
            message.serialize(&mut bytes);
            datagram.append(&mut bytes);
            self.sequence = self.sequence.wrapping_add(1);
        }
        let kernel = SocketAddr::new(0, 0);
        timeout(ANSWER_TIMEOUT, self.socket.send_to(&datagram, &kernel))
            .await
            .map_err(|_elapsed| Cause::NoAnswer)??;
        Ok(first)
    }

    /// Reads on to the end of a dump that was given up.
    async fn finish_dump(&mut self) -> Result<(), Cause> {
        while self.dump.is_some() {
            match self.receive().await {
                Err(Cause::Socket(error)) if is_overrun(&error) => {}
                received => {
                    received?;
                }
            }
        }
        Ok(())
    }

    /// The messages of the next datagram.
    async fn receive(&mut self) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, Cause> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer).await?;
        let (messages, is_whole) = decode(&self.buffer);
        for message in &messages {
            let ends = matches!(
                message.payload,
                NetlinkPayload::Done(_) | NetlinkPayload::Error(_)
            );
            if ends && self.dump == Some(message.header.sequence_number) {
                self.dump = None;
            }
        }
        if !is_whole {
            // Cut off: what is missing is lost, as in a buffer that ran over.
            return Err(Cause::Socket(Errno::ENOBUFS.into()));
        }
        Ok(messages)
    }
}

/// The messages of a datagram, and whether that is all of it. One that cannot be decoded is passed over: it is of a kind,
/// or carries an attribute, that is newer than this program.
pub(crate) fn decode(datagram: &[u8]) -> (Vec<NetlinkMessage<RouteNetlinkMessage>>, bool) {
    let mut messages = Vec::new();
    let mut rest = datagram;
    while let Ok(frame) = NetlinkBuffer::new_checked(rest) {
        let length = frame.length() as usize;
        let Some(bytes) = rest.get(..length) else {
            break;
        };
        match NetlinkMessage::deserialize(bytes) {
            Ok(message) => messages.push(message),
            Err(error) => {
                tracing::debug!(%error, kind = frame.message_type(), "netlink message passed over");
            }
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    (messages, rest.is_empty())
}

/// The point before a request, by what is asked for.
fn fault(verb: &str, message: &RouteNetlinkMessage) -> Result<(), Cause> {
    let object = match message {
        RouteNetlinkMessage::NewLink(_) => "new-link",
        RouteNetlinkMessage::SetLink(_) => "set-link",
        RouteNetlinkMessage::DelLink(_) => "delete-link",
        RouteNetlinkMessage::GetLink(_) => "link",
        RouteNetlinkMessage::NewAddress(_) => "new-address",
        RouteNetlinkMessage::DelAddress(_) => "delete-address",
        RouteNetlinkMessage::GetAddress(_) => "address",
        RouteNetlinkMessage::NewRoute(_) => "new-route",
        RouteNetlinkMessage::DelRoute(_) => "delete-route",
        RouteNetlinkMessage::GetRoute(_) => "route",
        RouteNetlinkMessage::NewRule(_) => "new-rule",
        RouteNetlinkMessage::DelRule(_) => "delete-rule",
        RouteNetlinkMessage::GetRule(_) => "rule",
        RouteNetlinkMessage::NewNeighbour(_) => "new-neighbor",
        RouteNetlinkMessage::DelNeighbour(_) => "delete-neighbor",
        RouteNetlinkMessage::GetNeighbour(_) => "neighbor",
        _ => "other",
    };
    adit_fault::point(format_args!("netlink/{verb}/{object}")).map_err(|error| {
        match error.raw_os_error() {
            Some(errno) => Cause::Kernel(Errno::from_raw(errno)),
            None => Cause::Socket(error),
        }
    })
}

fn is_overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOBUFS as i32)
}

fn result_of(code: i32) -> Result<(), Cause> {
    match code {
        0 => Ok(()),
        code => Err(Cause::Kernel(Errno::from_raw(code.saturating_abs()))),
    }
}
