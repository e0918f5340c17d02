//! Packets that no ordinary socket sends: with any source, port or bit.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use adit_lab::Host;
use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_RAW: i32 = 255;

/// A complete IP packet and where it goes.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    bytes: Vec<u8>,
    destination: IpAddr,
}

/// Puts packets on one interface as they are.
#[derive(Debug)]
pub(crate) struct Injector {
    ipv4: Socket,
    ipv6: Socket,
}

impl Injector {
    pub(crate) fn new(host: &Host, interface: &str) -> Result<Self> {
        let open = |domain| -> io::Result<Socket> {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))?;
            socket.bind_device(Some(interface.as_bytes()))?;
            Ok(socket)
        };
        let (ipv4, ipv6) = host
            .enter(|| (open(Domain::IPV4), open(Domain::IPV6)))
            .with_context(|| format!("{}: raw sockets on {interface}", host.name()))?;
        let ipv4 = ipv4.context("raw IPv4 socket")?;
        ipv4.set_header_included_v4(true)?;
        Ok(Self {
            ipv4,
            ipv6: ipv6.context("raw IPv6 socket")?,
        })
    }

    pub(crate) fn send(&self, packet: &Packet) -> Result<()> {
        let (socket, address) = match packet.destination {
            IpAddr::V4(address) => (&self.ipv4, SocketAddrV4::new(address, 0).into()),
            IpAddr::V6(address) => (&self.ipv6, SocketAddrV6::new(address, 0, 0, 0).into()),
        };
        socket
            .send_to(&packet.bytes, &address)
            .with_context(|| format!("raw packet to {}", packet.destination))?;
        Ok(())
    }
}

pub(crate) fn udp4(source: SocketAddrV4, destination: SocketAddrV4, payload: &[u8]) -> Packet {
    let segment = udp_segment(source.port(), destination.port(), payload);
    packet4(*source.ip(), *destination.ip(), IPPROTO_UDP, 6, segment)
}

pub(crate) fn udp6(source: SocketAddrV6, destination: SocketAddrV6, payload: &[u8]) -> Packet {
    let mut segment = udp_segment(source.port(), destination.port(), payload);
    let pseudo = [source.ip().octets(), destination.ip().octets()].concat();
    put_checksum(&mut segment, &pseudo, IPPROTO_UDP, 6);
    packet6(*source.ip(), *destination.ip(), IPPROTO_UDP, &segment)
}

/// The first packet of a TCP connection.
pub(crate) fn syn4(source: SocketAddrV4, destination: SocketAddrV4) -> Packet {
    let mut segment = Vec::new();
    segment.extend(source.port().to_be_bytes());
    segment.extend(destination.port().to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    packet4(*source.ip(), *destination.ip(), IPPROTO_TCP, 16, segment)
}

fn udp_segment(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let mut segment = Vec::new();
    for field in [source, destination, length, 0] {
        segment.extend(field.to_be_bytes());
    }
    segment.extend(payload);
    segment
}

/// The kernel fills in the checksum of the IPv4 header.
fn packet4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    checksum_at: usize,
    mut segment: Vec<u8>,
) -> Packet {
    let pseudo = [source.octets(), destination.octets()].concat();
    put_checksum(&mut segment, &pseudo, protocol, checksum_at);
    let length = u16::try_from(20 + segment.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![0x45, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    bytes.extend(pseudo);
    bytes.extend(segment);
    Packet {
        bytes,
        destination: destination.into(),
    }
}

fn packet6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, segment: &[u8]) -> Packet {
    let length = u16::try_from(segment.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([protocol, 64]);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend(segment);
    Packet {
        bytes,
        destination: destination.into(),
    }
}

/// RFC 768, RFC 9293 section 3.1, RFC 8200 section 8.1.
fn put_checksum(segment: &mut [u8], addresses: &[u8], protocol: u8, at: usize) {
    let length = u32::try_from(segment.len()).unwrap_or(u32::MAX);
    let mut sum = u64::from(length) + u64::from(protocol);
    for bytes in [addresses, &*segment] {
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or_default();
            sum += u64::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let folded = !u16::try_from(sum).unwrap_or_default();
    let checksum = if folded == 0 { 0xffff } else { folded };
    segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}
