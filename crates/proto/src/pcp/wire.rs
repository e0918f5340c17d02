//! PCP datagrams: header and bodies of the opcodes.

mod option;
mod result;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;

pub use self::option::{
    Filter, FilterChange, Hostname, MalformedOption, PcpOption, PortSet, RawOption, split_options,
};
pub(crate) use self::option::{PORT_SET, push_option};
pub use self::result::ErrorCode;
use crate::octets::Octets;

/// The version that RFC 6887 describes.
pub const VERSION: u8 = 2;

/// No message is longer, in octets (RFC 6887 section 7).
pub const MAXIMUM_LENGTH: usize = 1100;

/// Length of the header of requests and responses, in octets.
pub const HEADER_LENGTH: usize = 24;

/// The bit beside the opcode that tells a response from a request.
pub(crate) const RESPONSE_BIT: u8 = 0x80;

/// What a message is about (RFC 6887 section 19.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// Section 14.1.
    Announce,
    /// Section 11.
    Map,
    /// Section 12.
    Peer,
}

impl Opcode {
    /// The opcode of a number, without the response bit.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Announce),
            1 => Some(Self::Map),
            2 => Some(Self::Peer),
            _ => None,
        }
    }

    /// Its number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::Announce => 0,
            Self::Map => 1,
            Self::Peer => 2,
        }
    }

    /// Length of what follows the header, before the options.
    pub const fn body_length(self) -> usize {
        match self {
            Self::Announce => 0,
            Self::Map => MapBody::LENGTH,
            Self::Peer => PeerBody::LENGTH,
        }
    }
}

/// What proves that a renewal or deletion comes from who asked for the mapping (RFC 6887 section 11.3). Never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 12]);

impl fmt::Debug for Nonce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Nonce(…)")
    }
}

/// The external address and port that a client would like; nothing where it has no wish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suggestion {
    /// The address.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: Option<NonZeroU16>,
}

/// What follows the header of a MAP message (RFC 6887 section 11.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapBody {
    /// Who may change the mapping.
    pub nonce: Nonce,
    /// The IP protocol number; 0 for all.
    pub protocol: u8,
    /// The client's port; 0 for all.
    pub internal_port: u16,
    /// The suggested or assigned port.
    pub external_port: u16,
    /// The suggested or assigned address.
    pub external: IpAddr,
}

impl MapBody {
    const LENGTH: usize = 36;

    fn decode(octets: &mut Octets<'_>) -> Option<Self> {
        let nonce = Nonce(octets.take()?);
        let [protocol, _, _, _] = octets.take()?;
        Some(Self {
            nonce,
            protocol,
            internal_port: octets.take_u16()?,
            external_port: octets.take_u16()?,
            external: address_of(octets.take()?),
        })
    }

    fn encode(&self, message: &mut Vec<u8>) {
        message.extend(self.nonce.0);
        message.extend([self.protocol, 0, 0, 0]);
        message.extend(self.internal_port.to_be_bytes());
        message.extend(self.external_port.to_be_bytes());
        message.extend(octets_of(self.external));
    }
}

/// What follows the header of a PEER message (RFC 6887 section 12.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerBody {
    /// The same as in a MAP message.
    pub map: MapBody,
    /// The remote port.
    pub remote_port: u16,
    /// The remote address.
    pub remote: IpAddr,
}

impl PeerBody {
    const LENGTH: usize = 56;

    fn decode(octets: &mut Octets<'_>) -> Option<Self> {
        let map = MapBody::decode(octets)?;
        let remote_port = octets.take_u16()?;
        octets.take_u16()?;
        Some(Self {
            map,
            remote_port,
            remote: address_of(octets.take()?),
        })
    }

    fn encode(&self, message: &mut Vec<u8>) {
        self.map.encode(message);
        message.extend(self.remote_port.to_be_bytes());
        message.extend([0, 0]);
        message.extend(octets_of(self.remote));
    }
}

/// What a message is about, with what its opcode brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Section 14.1.
    Announce,
    /// Section 11.
    Map(MapBody),
    /// Section 12.
    Peer(PeerBody),
}

impl Body {
    /// Reads the body of an opcode from the start of `octets`; what is left are the options.
    pub(crate) fn decode(opcode: Opcode, octets: &mut Octets<'_>) -> Option<Self> {
        match opcode {
            Opcode::Announce => Some(Self::Announce),
            Opcode::Map => MapBody::decode(octets).map(Self::Map),
            Opcode::Peer => PeerBody::decode(octets).map(Self::Peer),
        }
    }

    /// The opcode.
    pub const fn opcode(&self) -> Opcode {
        match self {
            Self::Announce => Opcode::Announce,
            Self::Map(_) => Opcode::Map,
            Self::Peer(_) => Opcode::Peer,
        }
    }

    fn encode(&self, message: &mut Vec<u8>) {
        match self {
            Self::Announce => {}
            Self::Map(map) => map.encode(message),
            Self::Peer(peer) => peer.encode(message),
        }
    }
}

/// A request as a client sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestMessage {
    /// The client's address, as it knows it.
    pub client: IpAddr,
    /// Wished lifetime in seconds.
    pub lifetime: u32,
    /// What is asked.
    pub body: Body,
    /// In the order in which they are processed.
    pub options: Vec<PcpOption>,
}

impl RequestMessage {
    /// The datagram (RFC 6887 section 7.1).
    pub fn encode(&self) -> Vec<u8> {
        let mut message = vec![VERSION, self.body.opcode().number(), 0, 0];
        message.extend(self.lifetime.to_be_bytes());
        message.extend(octets_of(self.client));
        self.body.encode(&mut message);
        for option in &self.options {
            option.encode(&mut message);
        }
        message
    }
}

/// A response as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseMessage {
    /// The server speaks another version: this one (RFC 6887 section 9).
    OtherVersion {
        /// The nearest version that it speaks; 0 is NAT-PMP.
        version: u8,
        /// For how long that stays so, in seconds.
        lifetime: u32,
    },
    /// An answer of this version.
    Answer(Answer),
}

/// A response of version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What went wrong, if something did.
    pub error: Option<ErrorCode>,
    /// Of the mapping or of the error, in seconds.
    pub lifetime: u32,
    /// The server's epoch, in seconds.
    pub epoch: u32,
    /// What was asked and assigned.
    pub body: Body,
    /// Those that could be read; a client passes over the others (RFC 6887 section 7.3).
    pub options: Vec<PcpOption>,
}

impl ResponseMessage {
    /// Reads what a server sent; nothing when a client shall drop it (RFC 6887 section 8.3).
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let mut octets = Octets::new(datagram);
        let [version, opcode, _, result] = octets.take()?;
        let error = ErrorCode::from_number(result);
        // A NAT-PMP server says opcode 0 to other versions, without the bit (RFC 6886 section 3.5).
        if opcode & RESPONSE_BIT == 0 && version != 0 {
            return None;
        }
        if version != VERSION || error == Some(ErrorCode::UnsupportedVersion) {
            // NAT-PMP has the epoch where PCP has the lifetime (RFC 6886 section 3.5).
            let lifetime = match version {
                0 => ErrorCode::UnsupportedVersion.usual_lifetime(),
                _ => octets.take_u32()?,
            };
            let known = error == Some(ErrorCode::UnsupportedVersion);
            return known.then_some(Self::OtherVersion { version, lifetime });
        }
        if !(HEADER_LENGTH..=MAXIMUM_LENGTH).contains(&datagram.len())
            || !datagram.len().is_multiple_of(4)
        {
            return None;
        }
        let opcode = Opcode::from_number(opcode & !RESPONSE_BIT)?;
        let lifetime = octets.take_u32()?;
        let epoch = octets.take_u32()?;
        octets.take_slice(12)?;
        let body = Body::decode(opcode, &mut octets)?;
        let options = split_options(octets.rest())
            .unwrap_or_default()
            .into_iter()
            .filter_map(|raw| PcpOption::decode(raw).ok())
            .collect();
        Some(Self::Answer(Answer {
            error,
            lifetime,
            epoch,
            body,
            options,
        }))
    }
}

/// A success response, without options (RFC 6887 section 7.2).
pub(crate) fn success(body: &Body, lifetime: u32, epoch: u32) -> Vec<u8> {
    let opcode = body.opcode().number() | RESPONSE_BIT;
    let mut message = vec![VERSION, opcode, 0, 0];
    message.extend(lifetime.to_be_bytes());
    message.extend(epoch.to_be_bytes());
    message.extend([0; 12]);
    body.encode(&mut message);
    message
}

/// An address as 128 bits: IPv4 is written as IPv4-mapped (RFC 6887 section 5).
pub(crate) fn octets_of(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The address of 128 bits.
pub(crate) fn address_of(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).to_canonical()
}
