//! The head of a request out of a stream.

use super::{HttpError, LIMIT};
use crate::tls::host_name;

/// More fields than clients send.
const FIELDS: usize = 128;

/// Where a request wants to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The host's name in lower case without port, or an address as it was written. HTTP/1.0 may have none.
    pub host: Option<String>,
    /// From the first slash on, with the query. `*` and what else is no path is `/`.
    pub path: String,
}

/// Collects what a client sends until the head of its request is whole. What was received stays untouched, to be handed on.
#[derive(Debug, Default)]
pub struct HeadReader {
    received: Vec<u8>,
}

impl HeadReader {
    /// How many bytes it would take.
    pub fn room(&self) -> usize {
        LIMIT.saturating_sub(self.received.len())
    }

    /// Takes what came next, [`Self::room`] bytes at most; says what the client wants when it has said all of it.
    ///
    /// # Errors
    /// What was received can be no head, or none within [`LIMIT`]. The reader is of no further use then.
    pub fn handle_input(&mut self, bytes: &[u8]) -> Result<Option<Head>, HttpError> {
        if bytes.len() > self.room() {
            return Err(HttpError::TooLong);
        }
        // An empty line may have begun in what was there before.
        let from = self.received.len().saturating_sub(2);
        self.keep(bytes);
        if self.begins_with_empty_lines() {
            return Err(HttpError::Malformed);
        }
        let is_whole = has_empty_line(self.received.get(from..).unwrap_or_default());
        let is_first = from == 0;
        if is_whole || is_first {
            // What is no HTTP is known at once.
            return self.parse();
        }
        if self.room() == 0 {
            return Err(HttpError::TooLong);
        }
        Ok(None)
    }

    /// Everything that was received, from the first byte.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// Bytes of memory that it holds.
    pub fn size(&self) -> usize {
        self.received.capacity()
    }

    /// Grows in few steps, and never beyond [`LIMIT`].
    fn keep(&mut self, bytes: &[u8]) {
        let needed = self.received.len() + bytes.len();
        if needed > self.received.capacity() {
            let wanted = needed.max(2 * self.received.capacity()).min(LIMIT);
            self.received.reserve_exact(wanted - self.received.len());
        }
        self.received.extend_from_slice(bytes);
    }

    /// RFC 9112 §2.2 has servers ignore one empty line in front of a request. More would each look like an end, and have all that
    /// came before read once more.
    fn begins_with_empty_lines(&self) -> bool {
        let received = self.received.as_slice();
        let rest = received
            .strip_prefix(b"\r\n")
            .or_else(|| received.strip_prefix(b"\n"));
        matches!(rest, Some([b'\r' | b'\n', ..]))
    }

    fn parse(&self) -> Result<Option<Head>, HttpError> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(&self.received) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) if self.room() == 0 => return Err(HttpError::TooLong),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(HttpError::Malformed),
        }
        let target = request.path.unwrap_or("/");
        let mut hosts = request
            .headers
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case("host"))
            .map(|field| field.value);
        let host = hosts.next();
        // RFC 9112 §3.2: one, unless the version knows none.
        if hosts.next().is_some() || (host.is_none() && request.version == Some(1)) {
            return Err(HttpError::Host);
        }
        let (authority, path) = match split_absolute(target) {
            // RFC 9112 §3.2.2: it wins over the field.
            Some((authority, path)) => (Some(authority.as_bytes()), path),
            None => (host, target),
        };
        let host = match authority {
            None | Some(b"") => None,
            Some(authority) => Some(host_of(authority).ok_or(HttpError::Host)?),
        };
        let path = if path.starts_with('/') { path } else { "/" };
        Ok(Some(Head {
            host,
            path: path.to_owned(),
        }))
    }
}

/// `http://HOST/PATH`
fn split_absolute(target: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") {
        return None;
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

/// RFC 9110 §7.2: a host, and perhaps a port.
fn host_of(authority: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(authority)
        .ok()?
        .trim_matches([' ', '\t']);
    if let Some(literal) = text.strip_prefix('[') {
        let (address, _) = literal.split_once(']')?;
        let address: std::net::Ipv6Addr = address.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    let name = text.split_once(':').map_or(text, |(name, _)| name);
    host_name(name.as_bytes())
}

fn has_empty_line(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Option<Head>, HttpError> {
        HeadReader::default().handle_input(text.as_bytes())
    }

    fn read_bytewise(text: &str) -> Result<Option<Head>, HttpError> {
        let mut reader = HeadReader::default();
        let mut reads = text.bytes().map(|byte| reader.handle_input(&[byte]));
        reads.find(|read| *read != Ok(None)).unwrap_or(Ok(None))
    }

    fn head(host: Option<&str>, path: &str) -> Result<Option<Head>, HttpError> {
        Ok(Some(Head {
            host: host.map(str::to_owned),
            path: path.to_owned(),
        }))
    }

    #[test]
    fn the_host_is_read_however_it_is_written() {
        for (text, expected) in [
            (
                "GET /a?b=c HTTP/1.1\r\nAccept: */*\r\nhOST:  Blog.Example.org:80 \r\n\r\nbody",
                head(Some("blog.example.org"), "/a?b=c"),
            ),
            ("GET / HTTP/1.0\r\n\r\n", head(None, "/")),
            (
                "GET / HTTP/1.1\nHost: a.example\n\n",
                head(Some("a.example"), "/"),
            ),
            (
                "GET http://B.example:80/x HTTP/1.1\r\nHost: a.example\r\n\r\n",
                head(Some("b.example"), "/x"),
            ),
            (
                "OPTIONS * HTTP/1.1\r\nHost: [2001:DB8::1]:80\r\n\r\n",
                head(Some("[2001:db8::1]"), "/"),
            ),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", head(None, "/")),
            ("GET / HTTP/1.1\r\n\r\n", Err(HttpError::Host)),
            (
                "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
                Err(HttpError::Host),
            ),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Err(HttpError::Host)),
            (
                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                Err(HttpError::Malformed),
            ),
            ("\u{16}\u{3}\u{1}", Err(HttpError::Malformed)),
            ("GET / HTTP/1.1\r\nHost: a.ex", Ok(None)),
        ] {
            assert_eq!(read(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_head_that_is_cut_at_every_byte_is_read_at_its_last() {
        let text = b"GET /x HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\n\r\n";
        for cut in 1..text.len() {
            let mut reader = HeadReader::default();
            assert_eq!(reader.handle_input(&text[..cut]), Ok(None), "{cut}");
            let read = reader.handle_input(&text[cut..]);
            assert_eq!(read, head(Some("a.example"), "/x"), "{cut}");
        }
    }

    #[test]
    fn no_more_than_the_limit_is_held() {
        let mut reader = HeadReader::default();
        let start = b"GET / HTTP/1.1\r\nHost: a.example\r\nX: ";
        assert_eq!(reader.handle_input(start), Ok(None));
        let rest = vec![b'a'; reader.room() - 1];
        assert_eq!(reader.handle_input(&rest), Ok(None));
        assert_eq!(reader.handle_input(b"a"), Err(HttpError::TooLong));
        assert!(reader.size() <= LIMIT);
    }

    #[test]
    fn the_redirect_names_other_ports() {
        let text =
            |port| String::from_utf8(super::super::redirect("a.example", port, "/x?y")).unwrap();
        assert!(text(443).contains("\r\nLocation: https://a.example/x?y\r\n"));
        assert!(text(8443).contains("\r\nLocation: https://a.example:8443/x?y\r\n"));
    }

    #[test]
    fn one_empty_line_in_front_is_passed_over_and_a_second_refused() {
        for start in ["\n", "\r\n"] {
            let request = "GET / HTTP/1.0\n\n";
            for read in [read, read_bytewise] {
                assert_eq!(read(&[start, request].concat()), head(None, "/"));
                for more in ["\n", "\r\n"] {
                    let text = [start, more, request].concat();
                    assert_eq!(read(&text), Err(HttpError::Malformed), "{text:?}");
                }
            }
        }
    }

    proptest! {
        // All that is there is read again whenever an empty line comes, so none may come without an end of it.
        #[test]
        fn an_empty_line_is_the_end_one_way_or_another(
            text in "[\r\n]{0,3}(G|GET| |/|HTTP/1\\.[01]|Host|:|[\r\n]){0,40}",
        ) {
            let mut reader = HeadReader::default();
            for byte in text.bytes() {
                if reader.handle_input(&[byte]) != Ok(None) {
                    break;
                }
                let received = reader.received();
                let began = received.iter().position(|byte| !b"\r\n".contains(byte));
                let empty_lines = match began {
                    Some(began) => has_empty_line(&received[began..]),
                    None => received.len() > 2,
                };
                prop_assert!(!empty_lines, "{received:?}");
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = HeadReader::default();
            if reader.handle_input(b"GET / HTTP/1.1\r\nHost: a") == Ok(None) {
                let _ = reader.handle_input(&bytes);
            }
        }
    }
}
