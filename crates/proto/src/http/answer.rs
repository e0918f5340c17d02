//! The answers, each of which ends its connection.

/// RFC 9110 §15.5.1: what came is no request.
pub const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
/// RFC 9110 §15.5.20: nobody here has that name.
pub const MISDIRECTED: &[u8] =
    b"HTTP/1.1 421 Misdirected Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
/// RFC 9110 §15.6.3: who has that name does not answer.
pub const UNREACHABLE: &[u8] =
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// The same request over TLS, at `port` (RFC 9110 §15.4.9). `host` and `path` are those of a [`Head`](super::Head), which
/// hold no line ends.
pub fn redirect(host: &str, port: u16, path: &str) -> Vec<u8> {
    let port = match port {
        443 => String::new(),
        port => format!(":{port}"),
    };
    format!(
        "HTTP/1.1 308 Permanent Redirect\r\nLocation: https://{host}{port}{path}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}
