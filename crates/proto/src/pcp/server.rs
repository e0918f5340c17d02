//! The server's half of PCP: from a datagram to a request that is left to decide, and from the decision to the answer.

mod envelope;
mod mapping;
mod options;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use adit_model::protocol::Protocol;

use self::envelope::Envelope;
pub use self::mapping::Mapping;
use self::options::Options;
use super::wire::{
    Body, ErrorCode, FilterChange, HEADER_LENGTH, Hostname, MAXIMUM_LENGTH, MapBody, Nonce, Opcode,
    PcpOption, PeerBody, PortSet, RESPONSE_BIT, Suggestion, VERSION, address_of, success,
};
use crate::octets::Octets;

/// What a client may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether MAP is answered at all; otherwise NOT_AUTHORIZED (RFC 6887 sections 11 and 7.4).
    pub map: bool,
    /// Whether PEER is answered at all.
    pub peer: bool,
    /// Whether mappings for other hosts may be asked (section 13.1).
    pub third_party: bool,
    /// Mappings of all ports, and of all protocols.
    pub wildcards: Wildcards,
    /// Whether TLS names lead to mappings.
    pub hostnames: bool,
}

/// What becomes of a request for all ports of a protocol, or for all protocols (RFC 6887 section 11.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wildcards {
    /// They cannot be had here: UNSUPP_PROTOCOL.
    Unsupported,
    /// They could, but not by this client: NOT_AUTHORIZED (section 7.4).
    Forbidden,
    /// They are left to decide.
    Allowed,
}

/// What a datagram calls for.
#[derive(Debug)]
pub enum Received {
    /// Nothing is said.
    Silence,
    /// This is said, and nothing changes.
    Answer(Vec<u8>),
    /// This is to be decided, and answered by one of the request's own functions.
    Request(Request),
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A mapping made, renewed or changed.
    Map(MapRequest),
    /// A mapping taken away.
    Delete(DeleteRequest),
    /// An outbound mapping made or kept (RFC 6887 section 12).
    Peer(PeerRequest),
}

/// What of a client's ports a mapping leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// One port, or the first of a set.
    Port(Protocol, NonZeroU16),
    /// All ports of a protocol.
    AllPorts(Protocol),
    /// All that comes in.
    AllProtocols,
}

/// A mapping to be made, renewed or changed (RFC 6887 section 11.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// Who asks: the source of the datagram.
    pub client: IpAddr,
    /// Whom the mapping is for, if not for the client.
    pub third_party: Option<IpAddr>,
    /// Who may change it later.
    pub nonce: Nonce,
    /// What it leads to.
    pub target: Target,
    /// The external address and port that the client would like.
    pub suggestion: Suggestion,
    /// Wished lifetime in seconds, not 0.
    pub lifetime: u32,
    /// Whether anything but what was suggested is of no use: CANNOT_PROVIDE_EXTERNAL then.
    pub prefer_failure: bool,
    /// Changes of who may come in, in order; none leaves them as they are.
    pub filters: Vec<FilterChange>,
    /// How many ports, from that of the target on; already cut at port 65535.
    pub port_set: Option<PortSet>,
    /// TLS names that shall lead here.
    pub hostnames: Vec<Hostname>,
    envelope: Envelope,
}

/// A mapping to be taken away (RFC 6887 section 15.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRequest {
    /// Who asks: the source of the datagram.
    pub client: IpAddr,
    /// Whose mapping it is, if not the client's.
    pub third_party: Option<IpAddr>,
    /// Has to be that of the mapping.
    pub nonce: Nonce,
    /// What the mapping leads to.
    pub target: Target,
    /// What stood in the fields of the suggestion. It is to be ignored, except to tell apart mappings that names share.
    pub external: Suggestion,
    /// The port set that was mapped, if one was.
    pub port_set: Option<PortSet>,
    /// The TLS names of the mapping.
    pub hostnames: Vec<Hostname>,
    envelope: Envelope,
}

/// An outbound mapping to be made or kept (RFC 6887 section 12.3). A lifetime of 0 neither deletes nor shortens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRequest {
    /// Who asks: the source of the datagram.
    pub client: IpAddr,
    /// Whom the mapping is for, if not for the client.
    pub third_party: Option<IpAddr>,
    /// Who may change it later.
    pub nonce: Nonce,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The client's port.
    pub internal_port: NonZeroU16,
    /// The other end.
    pub remote: SocketAddr,
    /// What cannot be had as suggested is CANNOT_PROVIDE_EXTERNAL.
    pub suggestion: Suggestion,
    /// Wished lifetime in seconds.
    pub lifetime: u32,
    envelope: Envelope,
}

/// A mapping as it stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The address that remote hosts see.
    pub external: IpAddr,
    /// The port that they see, or the first of a set; nothing for all ports.
    pub port: Option<NonZeroU16>,
    /// For how many seconds.
    pub lifetime: u32,
    /// How many ports of the port set that was asked for; 1 without one.
    pub ports: u16,
}

/// A request that cannot be fulfilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub code: ErrorCode,
    /// For how many seconds it stays so; nothing for what is usual for the code. With a nonce of another mapping it is what
    /// the mapping has left (RFC 6887 section 11.3).
    pub lifetime: Option<u32>,
}

impl From<ErrorCode> for Refused {
    fn from(code: ErrorCode) -> Self {
        Self {
            code,
            lifetime: None,
        }
    }
}

/// Reads a datagram of any version but NAT-PMP's, in the order of RFC 6887 section 8.2.
///
/// `source` is the address that it came from, which the caller knows to be that of a client on the interface that it came in by.
/// `epoch` is in seconds (section 8.5).
pub fn receive(datagram: &[u8], source: IpAddr, policy: &Policy, epoch: u32) -> Received {
    let source = source.to_canonical();
    let mut octets = Octets::new(datagram);
    let Some([version, opcode]) = octets.take() else {
        return Received::Silence;
    };
    if opcode & RESPONSE_BIT != 0 {
        return Received::Silence;
    }
    let envelope = Envelope::new(datagram);
    let refuse = |code: ErrorCode| Received::Answer(envelope.refused(&Refused::from(code), epoch));
    if version != VERSION {
        return refuse(ErrorCode::UnsupportedVersion);
    }
    let Some(header) = Header::decode(&mut octets) else {
        return Received::Silence;
    };
    let known = Opcode::from_number(opcode);
    let least = HEADER_LENGTH + known.map_or(0, Opcode::body_length);
    if datagram.len() > MAXIMUM_LENGTH
        || !datagram.len().is_multiple_of(4)
        || datagram.len() < least
    {
        return refuse(ErrorCode::MalformedRequest);
    }
    if header.client != source {
        return refuse(ErrorCode::AddressMismatch);
    }
    let Some(opcode) = known else {
        return refuse(ErrorCode::UnsupportedOpcode);
    };
    let Some(body) = Body::decode(opcode, &mut octets) else {
        return refuse(ErrorCode::MalformedRequest);
    };
    let reading = Reading {
        source,
        lifetime: header.lifetime,
        policy,
        options: octets.rest(),
        envelope: &envelope,
    };
    let outcome = match body {
        Body::Announce => return announce(&reading, epoch).unwrap_or_else(refuse),
        Body::Map(body) if header.lifetime == 0 => delete(&reading, &body, epoch),
        Body::Map(body) => map(&reading, &body).map(|it| Received::Request(Request::Map(it))),
        Body::Peer(body) => peer(&reading, &body).map(|it| Received::Request(Request::Peer(it))),
    };
    outcome.unwrap_or_else(refuse)
}

/// What tells clients that the server may have lost its state, or has another address now (RFC 6887 section 14.1.3).
pub fn announcement(hostnames: bool, epoch: u32) -> Vec<u8> {
    let mut message = success(&Body::Announce, 0, epoch);
    if hostnames {
        PcpOption::HostnameCapability.encode(&mut message);
    }
    message
}

impl MapRequest {
    /// The host that the mapping leads to.
    pub fn internal(&self) -> IpAddr {
        self.third_party.unwrap_or(self.client)
    }

    /// The answer to a mapping that is there now.
    pub fn granted(&self, granted: &Granted, epoch: u32) -> Vec<u8> {
        let first = match self.target {
            Target::Port(_, port) => Some(port),
            Target::AllPorts(_) | Target::AllProtocols => None,
        };
        self.envelope.granted(granted, first, epoch)
    }

    /// The answer to what cannot be had.
    pub fn refused(&self, refused: &Refused, epoch: u32) -> Vec<u8> {
        self.envelope.refused(refused, epoch)
    }
}

impl DeleteRequest {
    /// The host that the mapping leads to.
    pub fn internal(&self) -> IpAddr {
        self.third_party.unwrap_or(self.client)
    }

    /// The answer when the mapping is gone, or never was.
    pub fn deleted(&self, epoch: u32) -> Vec<u8> {
        self.envelope.deleted(epoch)
    }

    /// The answer when it may not be taken away.
    pub fn refused(&self, refused: &Refused, epoch: u32) -> Vec<u8> {
        self.envelope.refused(refused, epoch)
    }
}

impl PeerRequest {
    /// The host that the mapping is for.
    pub fn internal(&self) -> IpAddr {
        self.third_party.unwrap_or(self.client)
    }

    /// The answer to a mapping that is there now.
    pub fn granted(&self, granted: &Granted, epoch: u32) -> Vec<u8> {
        self.envelope
            .granted(granted, Some(self.internal_port), epoch)
    }

    /// The answer to what cannot be had.
    pub fn refused(&self, refused: &Refused, epoch: u32) -> Vec<u8> {
        self.envelope.refused(refused, epoch)
    }
}

/// What follows version and opcode.
struct Header {
    lifetime: u32,
    client: IpAddr,
}

impl Header {
    fn decode(octets: &mut Octets<'_>) -> Option<Self> {
        octets.take_u16()?;
        Some(Self {
            lifetime: octets.take_u32()?,
            client: address_of(octets.take()?),
        })
    }
}

/// A request whose header is read.
struct Reading<'a> {
    source: IpAddr,
    lifetime: u32,
    policy: &'a Policy,
    options: &'a [u8],
    envelope: &'a Envelope,
}

impl Reading<'_> {
    fn options(&self, body: &Body) -> Result<Options, ErrorCode> {
        Options::read(self.options, self.source, self.lifetime, body, self.policy)
    }
}

fn announce(reading: &Reading<'_>, epoch: u32) -> Result<Received, ErrorCode> {
    reading.options(&Body::Announce)?;
    let answer = announcement(reading.policy.hostnames, epoch);
    Ok(Received::Answer(answer))
}

fn map(reading: &Reading<'_>, body: &MapBody) -> Result<MapRequest, ErrorCode> {
    if !reading.policy.map {
        return Err(ErrorCode::NotAuthorized);
    }
    let target = target(body)?.ok_or(ErrorCode::UnsupportedProtocol)?;
    match (target, reading.policy.wildcards) {
        (Target::Port(..), _)
        | (Target::AllPorts(_) | Target::AllProtocols, Wildcards::Allowed) => {}
        (Target::AllPorts(_) | Target::AllProtocols, Wildcards::Unsupported) => {
            return Err(ErrorCode::UnsupportedProtocol);
        }
        (Target::AllPorts(_) | Target::AllProtocols, Wildcards::Forbidden) => {
            return Err(ErrorCode::NotAuthorized);
        }
    }
    let options = reading.options(&Body::Map(*body))?;
    Ok(MapRequest {
        client: reading.source,
        third_party: options.third_party,
        nonce: body.nonce,
        target,
        suggestion: suggestion(body),
        lifetime: reading.lifetime,
        prefer_failure: options.prefer_failure,
        port_set: options.port_set,
        envelope: reading.envelope.with_options(options.processed),
        filters: options.filters,
        hostnames: options.hostnames,
    })
}

fn delete(reading: &Reading<'_>, body: &MapBody, epoch: u32) -> Result<Received, ErrorCode> {
    if !reading.policy.map {
        return Err(ErrorCode::NotAuthorized);
    }
    let target = target(body)?;
    let options = reading.options(&Body::Map(*body))?;
    let envelope = reading.envelope.with_options(options.processed);
    let Some(target) = target else {
        // Nothing of such a protocol can be there, and deleting nothing succeeds.
        return Ok(Received::Answer(envelope.deleted(epoch)));
    };
    Ok(Received::Request(Request::Delete(DeleteRequest {
        client: reading.source,
        third_party: options.third_party,
        nonce: body.nonce,
        target,
        external: suggestion(body),
        port_set: options.port_set,
        hostnames: options.hostnames,
        envelope,
    })))
}

fn peer(reading: &Reading<'_>, body: &PeerBody) -> Result<PeerRequest, ErrorCode> {
    if !reading.policy.peer {
        return Err(ErrorCode::NotAuthorized);
    }
    let malformed = ErrorCode::MalformedRequest;
    let internal_port = NonZeroU16::new(body.map.internal_port).ok_or(malformed)?;
    if body.map.protocol == 0 || body.remote_port == 0 || !is_remote(body.remote, reading.source) {
        return Err(malformed);
    }
    let protocol = protocol(body.map.protocol).ok_or(ErrorCode::UnsupportedProtocol)?;
    let options = reading.options(&Body::Peer(*body))?;
    Ok(PeerRequest {
        client: reading.source,
        third_party: options.third_party,
        nonce: body.map.nonce,
        protocol,
        internal_port,
        remote: SocketAddr::new(body.remote, body.remote_port),
        suggestion: suggestion(&body.map),
        lifetime: reading.lifetime,
        envelope: reading.envelope.with_options(options.processed),
    })
}

/// What a MAP request is for; nothing for a protocol that cannot be mapped.
fn target(body: &MapBody) -> Result<Option<Target>, ErrorCode> {
    match (body.protocol, NonZeroU16::new(body.internal_port)) {
        (0, None) => Ok(Some(Target::AllProtocols)),
        (0, Some(_)) => Err(ErrorCode::MalformedRequest),
        (number, None) => Ok(protocol(number).map(Target::AllPorts)),
        (number, Some(port)) => Ok(protocol(number).map(|it| Target::Port(it, port))),
    }
}

fn protocol(number: u8) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|it| it.number() == number)
}

fn suggestion(body: &MapBody) -> Suggestion {
    Suggestion {
        address: Some(body.external).filter(|it| !it.is_unspecified()),
        port: NonZeroU16::new(body.external_port),
    }
}

/// Whether a host of the Internet can have the address, for a client of this family (RFC 6887 sections 10 and 12.3).
fn is_remote(address: IpAddr, client: IpAddr) -> bool {
    address.is_ipv4() == client.is_ipv4()
        && !address.is_unspecified()
        && !address.is_multicast()
        && !address.is_loopback()
        && address != IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
}

#[cfg(test)]
mod tests;
