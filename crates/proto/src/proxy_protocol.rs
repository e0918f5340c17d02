//! The PROXY protocol, version 2: a header in front of a connection that says between whom it is.
//!
//! The format is haproxy's, `doc/proxy-protocol.txt` §2.2.

use std::net::{IpAddr, SocketAddr};

use crate::octets::Octets;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, of a connection that was made for somebody else.
const PROXY: u8 = 0x21;
const STREAM_OVER_IPV4: u8 = 0x11;
const STREAM_OVER_IPV6: u8 = 0x21;

/// The header for a TCP connection from `source` to `destination`.
pub fn header(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut addresses = Vec::with_capacity(36);
    let kind = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            addresses.extend(source.octets());
            addresses.extend(destination.octets());
            STREAM_OVER_IPV4
        }
        (source, destination) => {
            addresses.extend(mapped(source));
            addresses.extend(mapped(destination));
            STREAM_OVER_IPV6
        }
    };
    addresses.extend(source.port().to_be_bytes());
    addresses.extend(destination.port().to_be_bytes());
    let mut header = Vec::with_capacity(52);
    header.extend(SIGNATURE);
    header.extend([
        PROXY,
        kind,
        0,
        if kind == STREAM_OVER_IPV4 { 12 } else { 36 },
    ]);
    header.extend(addresses);
    header
}

/// The two ends, and what follows the header; nothing if the bytes do not begin with a whole header of a TCP connection.
pub fn read(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr, &[u8])> {
    let mut cursor = Octets::new(bytes);
    let signature: [u8; 12] = cursor.take()?;
    let command = cursor.take_u8()?;
    let kind = cursor.take_u8()?;
    let mut addresses = cursor.take_vector16()?;
    if signature != SIGNATURE || command != PROXY {
        return None;
    }
    let mut address = || -> Option<IpAddr> {
        match kind {
            STREAM_OVER_IPV4 => addresses.take::<4>().map(IpAddr::from),
            STREAM_OVER_IPV6 => addresses.take::<16>().map(IpAddr::from),
            _ => None,
        }
    };
    let (source, destination) = (address()?, address()?);
    let source = SocketAddr::new(source, addresses.take_u16()?);
    let destination = SocketAddr::new(destination, addresses.take_u16()?);
    Some((source, destination, cursor.rest()))
}

const fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_header() {
        let header = header(
            "192.0.2.7:51000".parse().unwrap(),
            "203.0.113.1:443".parse().unwrap(),
        );
        let expected = [
            0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, 0x21, 0x11,
            0x00, 0x0c, 192, 0, 2, 7, 203, 0, 113, 1, 0xc7, 0x38, 0x01, 0xbb,
        ];
        assert_eq!(header, expected);
    }

    #[test]
    fn what_is_written_is_read() {
        let (four, six) = ("192.0.2.7:51000", "[2001:db8::7]:443");
        for (source, destination) in [(four, four), (six, six), (six, four), (four, six)] {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            let mut bytes = header(source, destination);
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), None, "{end}");
            }
            bytes.extend(b"hello");
            let (read_source, read_destination, rest) = read(&bytes).unwrap();
            let canonical = |address: SocketAddr| (address.ip().to_canonical(), address.port());
            assert_eq!(canonical(read_source), canonical(source));
            assert_eq!(canonical(read_destination), canonical(destination));
            assert_eq!(rest, b"hello");
        }
        assert_eq!(read(b"PROXY TCP4 192.0.2.7 203.0.113.1 1 2\r\n"), None);
    }
}
