//! Server-sent events as they arrive (WHATWG HTML section 9.2).

use std::collections::VecDeque;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::types::event::Event;

/// The gateway sends something every 15 s; after so long the connection is dead.
const SILENCE: Duration = Duration::from_secs(60);
/// An event is not longer than this.
const LARGEST_EVENT: usize = 16 << 20;

/// The events of a gateway.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    parser: Parser,
    _connection: Connection,
}

/// An event, and the id to go on after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// What happened.
    pub event: Event,
    /// The event as the gateway wrote it.
    pub text: String,
}

/// Ends with the stream that came over it.
#[derive(Debug)]
pub(super) struct Connection(JoinHandle<()>);

impl Connection {
    pub(super) const fn new(task: JoinHandle<()>) -> Self {
        Self(task)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl EventStream {
    pub(super) fn new(body: Incoming, connection: Connection) -> Self {
        Self {
            body,
            parser: Parser::default(),
            _connection: connection,
        }
    }

    /// The next event; none at the end, also when the connection breaks or goes silent. Events that this version does
    /// not know are left out.
    pub async fn next(&mut self) -> Option<Received> {
        loop {
            if let Some(text) = self.parser.next() {
                if let Ok(event) = serde_json::from_str(&text) {
                    return Some(Received { event, text });
                }
                continue;
            }
            let frame = timeout(SILENCE, self.body.frame()).await.ok()??.ok()?;
            if let Ok(data) = frame.into_data()
                && !self.parser.take(&data)
            {
                return None;
            }
        }
    }
}

/// Makes texts of bytes; of the fields it needs the data alone.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    data: Option<String>,
    ready: VecDeque<String>,
}

impl Parser {
    /// False when an event is longer than any can be.
    fn take(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.end_line(&String::from_utf8_lossy(&line));
            } else {
                self.line.push(*byte);
            }
        }
        self.line.len() + self.data.as_ref().map_or(0, String::len) <= LARGEST_EVENT
    }

    fn end_line(&mut self, line: &str) {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            self.ready.extend(self.data.take());
        } else if let Some(value) = line.strip_prefix("data:") {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            }
        }
    }

    fn next(&mut self) -> Option<String> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_the_bytes_arrive() {
        let text = b"event: edits\nid: 4\ndata: {\"a\":\ndata: 1}\n\n:\n\nid: 5\n\ndata:b\r\n\r\n";
        for size in 1..text.len() {
            let mut parser = Parser::default();
            for part in text.chunks(size) {
                assert!(parser.take(part));
            }
            let found: Vec<String> = std::iter::from_fn(|| parser.next()).collect();
            assert_eq!(found, ["{\"a\":\n1}", "b"], "{size}");
        }
    }
}
