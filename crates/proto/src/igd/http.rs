//! As much of HTTP/1.1 as one request and one answer on a connection need, within limits.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

/// Bytes of a start line and headers.
const HEAD: usize = 8 * 1024;
const HEADERS: usize = 64;
/// Bytes of a line that says how long a chunk is, and of all trailers.
const CHUNK_LINE: usize = 256;
const TRAILERS: usize = 1024;

/// Why a message is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HttpError {
    #[error("the message is not HTTP/1")]
    Malformed,
    #[error("the head of the message is larger than allowed")]
    HeadTooLarge,
    #[error("the body of the message is larger than allowed")]
    BodyTooLarge,
    #[error("the body of the message has an encoding that is not spoken here")]
    Encoding,
    #[error("the message ended in the middle")]
    Truncated,
}

/// Which of the two a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    Request { method: String, target: String },
    Response { status: u16 },
}

/// A start line and headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) start: Start,
    /// Names are in lower case.
    headers: Vec<(String, String)>,
}

impl Head {
    /// The one value of a header. What is there twice is an error, because two readers could understand it differently.
    pub(crate) fn single(&self, name: &str) -> Result<Option<&str>, HttpError> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(HttpError::Malformed),
        }
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }

    /// Reads a whole head, of a message or of a datagram of SSDP.
    pub(crate) fn parse(kind: Kind, bytes: &[u8]) -> Result<Option<(Self, usize)>, HttpError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let (start, length) = match kind {
            Kind::Request => {
                let mut request = httparse::Request::new(&mut headers);
                let httparse::Status::Complete(length) = request.parse(bytes).map_err(malformed)?
                else {
                    return Ok(None);
                };
                let (Some(method), Some(target)) = (request.method, request.path) else {
                    return Err(HttpError::Malformed);
                };
                let start = Start::Request {
                    method: method.to_owned(),
                    target: target.to_owned(),
                };
                (start, length)
            }
            Kind::Response => {
                let mut response = httparse::Response::new(&mut headers);
                let httparse::Status::Complete(length) =
                    response.parse(bytes).map_err(malformed)?
                else {
                    return Ok(None);
                };
                let status = response.code.ok_or(HttpError::Malformed)?;
                (Start::Response { status }, length)
            }
        };
        let headers = headers
            .iter()
            .take_while(|header| **header != httparse::EMPTY_HEADER)
            .map(|header| {
                let value = str::from_utf8(header.value).map_err(|_| HttpError::Malformed)?;
                Ok((header.name.to_ascii_lowercase(), value.trim().to_owned()))
            })
            .collect::<Result<_, _>>()?;
        Ok(Some((Self { start, headers }, length)))
    }
}

fn malformed(error: httparse::Error) -> HttpError {
    match error {
        httparse::Error::TooManyHeaders => HttpError::HeadTooLarge,
        httparse::Error::HeaderName
        | httparse::Error::HeaderValue
        | httparse::Error::NewLine
        | httparse::Error::Status
        | httparse::Error::Token
        | httparse::Error::Version => HttpError::Malformed,
    }
}

/// A message while it comes in.
#[derive(Debug)]
pub(crate) struct Receiver {
    kind: Kind,
    most: usize,
    /// What is not understood yet.
    pending: VecDeque<u8>,
    head: Option<Head>,
    length: Length,
    body: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Known(usize),
    Chunked(Chunk),
    UntilEnd,
    Complete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Line,
    Data(usize),
    /// The line end after the data.
    End,
    /// Bytes of trailers so far, and of the line that is being read.
    Trailers {
        total: usize,
        line: usize,
    },
}

impl Receiver {
    /// `most` bytes of body are taken.
    pub(crate) fn new(kind: Kind, most: usize) -> Self {
        Self {
            kind,
            most,
            pending: VecDeque::new(),
            head: None,
            length: Length::Known(0),
            body: Vec::new(),
        }
    }

    pub(crate) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.head.is_some() && self.length == Length::Complete
    }

    /// Takes bytes. What comes after the message is dropped.
    pub(crate) fn handle_input(&mut self, mut bytes: &[u8]) -> Result<(), HttpError> {
        if self.head.is_none() {
            bytes = self.read_head(bytes)?;
        }
        if self.head.is_some() {
            self.read_body(bytes)?;
        }
        Ok(())
    }

    /// The other side sends no more.
    pub(crate) fn handle_end(&mut self) -> Result<(), HttpError> {
        match (self.head.is_some(), self.length) {
            (true, Length::UntilEnd | Length::Complete) => {
                self.length = Length::Complete;
                Ok(())
            }
            (false, _) | (true, Length::Known(_) | Length::Chunked(_)) => Err(HttpError::Truncated),
        }
    }

    /// Returns what is behind the head. The head is parsed only when its end is there, so that bytes that trickle in do
    /// not have it parsed each time.
    fn read_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], HttpError> {
        for (number, byte) in bytes.iter().enumerate() {
            self.pending.push_back(*byte);
            if *byte != b'\n' {
                continue;
            }
            let mut backwards = self.pending.iter().rev().skip(1);
            let ends = match (backwards.next(), backwards.next()) {
                (Some(b'\n'), _) | (Some(b'\r'), Some(b'\n')) => true,
                (_, _) => false,
            };
            if !ends {
                continue;
            }
            // An empty line before the message is nothing yet.
            if self
                .pending
                .iter()
                .all(|byte| matches!(byte, b'\r' | b'\n'))
            {
                continue;
            }
            if self.pending.len() > HEAD {
                return Err(HttpError::HeadTooLarge);
            }
            let parsed = Head::parse(self.kind, self.pending.make_contiguous())?;
            let (head, _) = parsed.ok_or(HttpError::Malformed)?;
            self.length = self.body_length(&head)?;
            self.head = Some(head);
            self.pending.clear();
            return Ok(bytes.get(number + 1..).unwrap_or_default());
        }
        if self.pending.len() > HEAD {
            return Err(HttpError::HeadTooLarge);
        }
        Ok(&[])
    }

    /// RFC 9112 §6.3, without what only a proxy has to bear with.
    fn body_length(&self, head: &Head) -> Result<Length, HttpError> {
        let length = head.single("content-length")?;
        match (head.single("transfer-encoding")?, length) {
            (Some(_), Some(_)) => Err(HttpError::Malformed),
            (Some(encoding), None) if encoding.eq_ignore_ascii_case("chunked") => {
                Ok(Length::Chunked(Chunk::Line))
            }
            (Some(_), None) => Err(HttpError::Encoding),
            (None, Some(length)) => {
                if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(HttpError::Malformed);
                }
                let length = length.parse().map_err(|_| HttpError::BodyTooLarge)?;
                match length {
                    0 => Ok(Length::Complete),
                    length if length <= self.most => Ok(Length::Known(length)),
                    _ => Err(HttpError::BodyTooLarge),
                }
            }
            (None, None) => match self.kind {
                Kind::Request => Ok(Length::Complete),
                Kind::Response => Ok(Length::UntilEnd),
            },
        }
    }

    fn read_body(&mut self, bytes: &[u8]) -> Result<(), HttpError> {
        match self.length {
            Length::Complete => {}
            Length::Known(length) => {
                let missing = length.saturating_sub(self.body.len());
                self.body
                    .extend_from_slice(bytes.get(..missing).unwrap_or(bytes));
                if self.body.len() >= length {
                    self.length = Length::Complete;
                }
            }
            Length::UntilEnd => {
                if self.body.len() + bytes.len() > self.most {
                    return Err(HttpError::BodyTooLarge);
                }
                self.body.extend_from_slice(bytes);
            }
            Length::Chunked(mut chunk) => {
                for byte in bytes {
                    match self.read_chunked(chunk, *byte)? {
                        Some(next) => chunk = next,
                        None => {
                            self.length = Length::Complete;
                            return Ok(());
                        }
                    }
                }
                self.length = Length::Chunked(chunk);
            }
        }
        Ok(())
    }

    /// Takes one byte of a chunked body (RFC 9112 §7.1). `None` is the end.
    fn read_chunked(&mut self, chunk: Chunk, byte: u8) -> Result<Option<Chunk>, HttpError> {
        let next = match chunk {
            Chunk::Line => {
                self.pending.push_back(byte);
                if self.pending.len() > CHUNK_LINE {
                    return Err(HttpError::Malformed);
                }
                if byte != b'\n' {
                    return Ok(Some(Chunk::Line));
                }
                let parsed = httparse::parse_chunk_size(self.pending.make_contiguous());
                let Ok(httparse::Status::Complete((_, size))) = parsed else {
                    return Err(HttpError::Malformed);
                };
                self.pending.clear();
                let room = self.most.saturating_sub(self.body.len());
                match usize::try_from(size) {
                    Ok(0) => Chunk::Trailers { total: 0, line: 0 },
                    Ok(size) if size <= room => Chunk::Data(size),
                    Ok(_) | Err(_) => return Err(HttpError::BodyTooLarge),
                }
            }
            Chunk::Data(left) => {
                self.body.push(byte);
                match left.saturating_sub(1) {
                    0 => Chunk::End,
                    left => Chunk::Data(left),
                }
            }
            Chunk::End => match byte {
                b'\r' => Chunk::End,
                b'\n' => Chunk::Line,
                _ => return Err(HttpError::Malformed),
            },
            Chunk::Trailers { total, .. } if total >= TRAILERS => {
                return Err(HttpError::HeadTooLarge);
            }
            Chunk::Trailers { total, line } => {
                let line = match byte {
                    b'\n' if line == 0 => return Ok(None),
                    b'\n' => 0,
                    b'\r' => line,
                    _ => line + 1,
                };
                Chunk::Trailers {
                    total: total + 1,
                    line,
                }
            }
        };
        Ok(Some(next))
    }
}

/// Whether a `Host` or an authority is this address, with any port or none. A name is never: a page from elsewhere could
/// have it resolve to us.
pub(crate) fn is_literal(authority: &str, address: IpAddr) -> bool {
    let host = host_of(authority);
    host.is_some_and(|host| host == address.to_canonical())
}

/// The address in `ADDRESS`, `ADDRESS:PORT`, `[ADDRESS]` and `[ADDRESS]:PORT`.
fn host_of(authority: &str) -> Option<IpAddr> {
    if let Ok(address) = authority.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    let bare = authority.strip_suffix(':').unwrap_or(authority);
    match bare.strip_prefix('[') {
        Some(rest) => Some(IpAddr::V6(rest.strip_suffix(']')?.parse().ok()?)),
        None => Some(IpAddr::V4(bare.parse().ok()?)),
    }
}

/// Writes a head. Values come from us or have been read as what cannot contain a line end.
pub(crate) fn write_head(start: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{start}\r\n");
    for (name, value) in headers {
        head.push_str(name);
        head.push_str(": ");
        head.push_str(value);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::{Head, HttpError, Kind, Receiver, Start, is_literal};

    fn receive(kind: Kind, bytes: &[u8], piece: usize) -> Result<Receiver, HttpError> {
        let mut receiver = Receiver::new(kind, 64);
        for piece in bytes.chunks(piece) {
            receiver.handle_input(piece)?;
        }
        Ok(receiver)
    }

    #[test]
    fn a_message_in_any_pieces() {
        for (text, body) in [
            (
                "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello rest",
                "hello",
            ),
            ("POST /x HTTP/1.0\nContent-Length: 5\n\nhello", "hello"),
            (
                "\r\n\r\nPOST /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
                "hello",
            ),
            (
                "POST /x HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nA: b\r\n\r\n",
                "hello",
            ),
            ("GET /x HTTP/1.1\r\n\r\n", ""),
        ] {
            for piece in 1..text.len() + 1 {
                let receiver = receive(Kind::Request, text.as_bytes(), piece).unwrap();
                assert!(receiver.is_complete(), "{text:?} by {piece}");
                assert_eq!(receiver.body(), body.as_bytes());
                let Some(Head {
                    start: Start::Request { target, .. },
                    ..
                }) = receiver.head()
                else {
                    panic!("no request");
                };
                assert_eq!(target, "/x");
            }
        }
    }

    #[test]
    fn an_answer_may_end_with_its_connection() {
        let text = b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\n<a/>";
        let mut receiver = receive(Kind::Response, text, 7).unwrap();
        assert!(!receiver.is_complete());
        receiver.handle_end().unwrap();
        assert!(receiver.is_complete());
        assert_eq!(receiver.body(), b"<a/>");
        let mut cut = receive(
            Kind::Response,
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<a",
            9,
        )
        .unwrap();
        assert_eq!(cut.handle_end(), Err(HttpError::Truncated));
    }

    #[test]
    fn what_is_refused() {
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
        let long = format!("GET / HTTP/1.1\r\na: {}", "b".repeat(9000));
        let line = format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;{}",
            "x".repeat(300)
        );
        for (text, error) in [
            (many.as_str(), HttpError::HeadTooLarge),
            (&long, HttpError::HeadTooLarge),
            (&line, HttpError::Malformed),
            (
                "POST / HTTP/1.1\r\nContent-Length: 65\r\n\r\n",
                HttpError::BodyTooLarge,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
                HttpError::BodyTooLarge,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n",
                HttpError::Malformed,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
                HttpError::Malformed,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                HttpError::Malformed,
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                HttpError::Encoding,
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n41\r\n",
                HttpError::BodyTooLarge,
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
                HttpError::Malformed,
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab",
                HttpError::Malformed,
            ),
            ("HELLO\r\n\r\n", HttpError::Malformed),
            ("GET / HTTP/1.1\r\na b: c\r\n\r\n", HttpError::Malformed),
        ] {
            let refused = receive(Kind::Request, text.as_bytes(), 1000).map(|_| ());
            assert_eq!(refused, Err(error), "{text:.60}");
        }
    }

    #[test]
    fn only_our_address_is_our_name() {
        let ours = "10.59.0.1".parse().unwrap();
        for host in ["10.59.0.1", "10.59.0.1:80", "10.59.0.1:5000", "10.59.0.1:"] {
            assert!(is_literal(host, ours), "{host}");
        }
        for host in [
            "",
            "10.59.0.2",
            "gateway",
            "10.59.0.1.example",
            "010.59.0.1",
            "10.59.0.1:99999",
            "10.59.0.1:x",
            "user@10.59.0.1",
            "[10.59.0.1]",
            "[::1]",
        ] {
            assert!(!is_literal(host, ours), "{host}");
        }
        let ours = "fd00::1".parse().unwrap();
        for host in ["[fd00::1]", "[fd00::1]:80", "[FD00:0:0::1]:5"] {
            assert!(is_literal(host, ours), "{host}");
        }
        for host in ["fd00::1", "[fd00::2]", "[fd00::1", "[fd00::1]x"] {
            assert!(!is_literal(host, ours), "{host}");
        }
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(bytes in prop::collection::vec(any::<u8>(), 0..80), piece in 1_usize..20) {
            let mut text = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            text.extend(bytes);
            let whole = receive(Kind::Request, &text, 1000).map(|receiver| receiver.body().to_vec());
            let cut = receive(Kind::Request, &text, piece).map(|receiver| receiver.body().to_vec());
            prop_assert_eq!(whole, cut);
        }
    }
}
