//! NAT-PMP datagrams: requests, answers, result codes.

use std::fmt;
use std::net::Ipv4Addr;

use adit_model::protocol::Protocol;

use crate::octets::Octets;

/// The version on the wire.
pub const VERSION: u8 = 0;

/// What the opcode of an answer has more than that of its request.
pub(crate) const RESPONSE_BIT: u8 = 0x80;

/// Octets of the longest answer.
const LONGEST: usize = 16;

const EXTERNAL_ADDRESS: u8 = 0;
const MAP_UDP: u8 = 1;
const MAP_TCP: u8 = 2;

/// Why a request fails (RFC 6886 section 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The version is not spoken here.
    UnsupportedVersion,
    /// Disabled, or refused to this client.
    Refused,
    /// The server has no external address.
    NetworkFailure,
    /// No port is left.
    OutOfResources,
    /// The opcode is not known.
    UnsupportedOpcode,
    /// A code that the document does not know; a failure like the others.
    Other(u16),
}

impl ErrorCode {
    /// The error of a result code; nothing for success.
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            0 => return None,
            1 => Self::UnsupportedVersion,
            2 => Self::Refused,
            3 => Self::NetworkFailure,
            4 => Self::OutOfResources,
            5 => Self::UnsupportedOpcode,
            other => Self::Other(other),
        })
    }

    /// Its number on the wire.
    pub const fn number(self) -> u16 {
        match self {
            Self::UnsupportedVersion => 1,
            Self::Refused => 2,
            Self::NetworkFailure => 3,
            Self::OutOfResources => 4,
            Self::UnsupportedOpcode => 5,
            Self::Other(number) => number,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::UnsupportedVersion => "unsupported version",
            Self::Refused => "not authorized or refused",
            Self::NetworkFailure => "network failure",
            Self::OutOfResources => "out of resources",
            Self::UnsupportedOpcode => "unsupported opcode",
            Self::Other(number) => return write!(formatter, "result code {number}"),
        };
        formatter.write_str(name)
    }
}

/// What a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestMessage {
    /// Section 3.2.
    ExternalAddress,
    /// Section 3.3.
    Map(MapFields),
}

/// The fields of a request for a mapping, and of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFields {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The client's port.
    pub internal_port: u16,
    /// The port that is wished or given; 0 without a wish, and when deleting.
    pub external_port: u16,
    /// In seconds; 0 deletes.
    pub lifetime: u32,
}

impl RequestMessage {
    /// Reads what follows version and opcode; nothing when it is too short or the opcode is unknown.
    pub(crate) fn decode(opcode: u8, octets: &mut Octets<'_>) -> Option<Self> {
        if opcode == EXTERNAL_ADDRESS {
            return Some(Self::ExternalAddress);
        }
        let protocol = protocol_of(opcode)?;
        octets.take_u16()?;
        MapFields::decode(protocol, octets).map(Self::Map)
    }

    /// Whether there is such a request.
    pub(crate) fn is_opcode(opcode: u8) -> bool {
        opcode == EXTERNAL_ADDRESS || protocol_of(opcode).is_some()
    }

    /// The datagram.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::ExternalAddress => vec![VERSION, EXTERNAL_ADDRESS],
            Self::Map(fields) => {
                let mut message = vec![VERSION, opcode_of(fields.protocol), 0, 0];
                fields.encode(&mut message);
                message
            }
        }
    }
}

/// What a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseMessage {
    /// What went wrong, if something did.
    pub error: Option<ErrorCode>,
    /// The server's epoch, in seconds (RFC 6886 section 3.6).
    pub epoch: u32,
    /// What was asked.
    pub body: ResponseBody,
}

/// What an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseBody {
    /// The external address; unspecified in an error.
    ExternalAddress(Ipv4Addr),
    /// A mapping.
    Map(MapFields),
    /// An error that says nothing else.
    Nothing,
}

impl ResponseMessage {
    /// Reads what a server sent; nothing when it is no answer.
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let mut octets = Octets::new(datagram);
        let [version, opcode] = octets.take()?;
        let error = ErrorCode::from_number(octets.take_u16()?);
        if version != VERSION {
            return None;
        }
        let epoch = octets.take_u32();
        let body = Self::decode_body(opcode, &mut octets);
        match (body, epoch, error) {
            (Some(body), Some(epoch), _) => Some(Self { error, epoch, body }),
            (_, epoch, Some(_)) => Some(Self {
                error,
                epoch: epoch.unwrap_or(0),
                body: ResponseBody::Nothing,
            }),
            (None, _, None) | (Some(_), None, None) => None,
        }
    }

    /// The datagram (RFC 6886 sections 3.2 and 3.3).
    pub fn encode(&self) -> Vec<u8> {
        let opcode = match self.body {
            ResponseBody::ExternalAddress(_) | ResponseBody::Nothing => EXTERNAL_ADDRESS,
            ResponseBody::Map(fields) => opcode_of(fields.protocol),
        };
        let mut message = Vec::with_capacity(LONGEST);
        message.extend([VERSION, opcode | RESPONSE_BIT]);
        message.extend(self.error.map_or(0, ErrorCode::number).to_be_bytes());
        message.extend(self.epoch.to_be_bytes());
        match self.body {
            ResponseBody::ExternalAddress(address) => message.extend(address.octets()),
            ResponseBody::Map(fields) => fields.encode(&mut message),
            ResponseBody::Nothing => {}
        }
        message
    }

    fn decode_body(opcode: u8, octets: &mut Octets<'_>) -> Option<ResponseBody> {
        let opcode = opcode.checked_sub(RESPONSE_BIT)?;
        if opcode == EXTERNAL_ADDRESS {
            return octets
                .take::<4>()
                .map(|it| ResponseBody::ExternalAddress(it.into()));
        }
        MapFields::decode(protocol_of(opcode)?, octets).map(ResponseBody::Map)
    }
}

impl MapFields {
    fn decode(protocol: Protocol, octets: &mut Octets<'_>) -> Option<Self> {
        Some(Self {
            protocol,
            internal_port: octets.take_u16()?,
            external_port: octets.take_u16()?,
            lifetime: octets.take_u32()?,
        })
    }

    fn encode(&self, message: &mut Vec<u8>) {
        message.extend(self.internal_port.to_be_bytes());
        message.extend(self.external_port.to_be_bytes());
        message.extend(self.lifetime.to_be_bytes());
    }
}

fn protocol_of(opcode: u8) -> Option<Protocol> {
    Protocol::ALL
        .into_iter()
        .find(|protocol| opcode_of(*protocol) == opcode)
}

const fn opcode_of(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Udp => MAP_UDP,
        Protocol::Tcp => MAP_TCP,
    }
}
