//! The server's half of NAT-PMP: from a datagram to a request that is left to decide, and from the decision to the answer.

use std::net::Ipv4Addr;
use std::num::{NonZeroU16, NonZeroU32};

use adit_model::protocol::Protocol;

use super::wire::{
    ErrorCode, MapFields, RESPONSE_BIT, RequestMessage, ResponseBody, ResponseMessage, VERSION,
};
use crate::octets::{Octets, overwrite};

/// No longer request is sent back, in octets.
const LONGEST_COPY: usize = 1100;

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

/// What a client wants. It is for itself: there is no way to ask for another host (RFC 6886 section 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The address that its mappings have.
    ExternalAddress(ExternalAddressRequest),
    /// A mapping made or renewed.
    Map(MapRequest),
    /// A mapping taken away.
    Delete(DeleteRequest),
    /// All its mappings of a protocol taken away.
    DeleteAll(DeleteAllRequest),
}

/// Asks for the external address (RFC 6886 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExternalAddressRequest {
    /// Who asks.
    pub client: Ipv4Addr,
}

/// A mapping to be made or renewed (RFC 6886 section 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// Who asks, and whom the mapping leads to.
    pub client: Ipv4Addr,
    /// The transport protocol. The other one's port of the same number stays away from other clients.
    pub protocol: Protocol,
    /// The client's port.
    pub internal_port: NonZeroU16,
    /// The port that the client would like. A mapping that is there keeps its own.
    pub suggested: Option<NonZeroU16>,
    /// Wished lifetime in seconds; no more shall be given.
    pub lifetime: NonZeroU32,
}

/// A mapping to be taken away (RFC 6886 section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteRequest {
    /// Whose mapping it is.
    pub client: Ipv4Addr,
    /// Its protocol.
    pub protocol: Protocol,
    /// The client's port.
    pub internal_port: NonZeroU16,
}

/// All mappings of a protocol to be taken away, as many as can (RFC 6886 section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteAllRequest {
    /// Whose mappings they are.
    pub client: Ipv4Addr,
    /// Their protocol.
    pub protocol: Protocol,
}

/// A mapping as it stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The port that remote hosts see.
    pub port: NonZeroU16,
    /// For how many seconds.
    pub lifetime: u32,
}

/// Reads a datagram of version 0. `map` tells whether this client may have mappings; `epoch` is in seconds (RFC 6886 section 3.6).
pub fn receive(datagram: &[u8], client: Ipv4Addr, map: bool, epoch: u32) -> Received {
    let mut octets = Octets::new(datagram);
    let Some([_version, opcode]) = octets.take() else {
        return Received::Silence;
    };
    if opcode & RESPONSE_BIT != 0 {
        return Received::Silence;
    }
    if !RequestMessage::is_opcode(opcode) {
        return Received::Answer(unsupported(datagram, opcode));
    }
    match RequestMessage::decode(opcode, &mut octets) {
        // Too short: the document does not say what is to be done.
        None => Received::Silence,
        Some(RequestMessage::ExternalAddress) => {
            let request = ExternalAddressRequest { client };
            Received::Request(Request::ExternalAddress(request))
        }
        Some(RequestMessage::Map(fields)) => match request(&fields, client).filter(|_| map) {
            Some(request) => Received::Request(request),
            None => Received::Answer(map_answer(
                Err(ErrorCode::Refused),
                fields.protocol,
                fields.internal_port,
                epoch,
            )),
        },
    }
}

/// What tells clients that the address changed, or that mappings may be lost (RFC 6886 section 3.2.1).
pub fn announcement(address: Ipv4Addr, epoch: u32) -> Vec<u8> {
    address_answer(Ok(address), epoch)
}

impl ExternalAddressRequest {
    /// The answer with the address.
    pub fn granted(&self, address: Ipv4Addr, epoch: u32) -> Vec<u8> {
        address_answer(Ok(address), epoch)
    }

    /// The answer when there is none.
    pub fn refused(&self, code: ErrorCode, epoch: u32) -> Vec<u8> {
        address_answer(Err(code), epoch)
    }
}

impl MapRequest {
    /// The answer to a mapping that is there now.
    pub fn granted(&self, granted: &Granted, epoch: u32) -> Vec<u8> {
        map_answer(
            Ok(Some(*granted)),
            self.protocol,
            self.internal_port.get(),
            epoch,
        )
    }

    /// The answer to what cannot be had.
    pub fn refused(&self, code: ErrorCode, epoch: u32) -> Vec<u8> {
        map_answer(Err(code), self.protocol, self.internal_port.get(), epoch)
    }
}

impl DeleteRequest {
    /// The answer when the mapping is gone, or never was.
    pub fn deleted(&self, epoch: u32) -> Vec<u8> {
        map_answer(Ok(None), self.protocol, self.internal_port.get(), epoch)
    }

    /// The answer when it has to stay: an administrator made it.
    pub fn refused(&self, code: ErrorCode, epoch: u32) -> Vec<u8> {
        map_answer(Err(code), self.protocol, self.internal_port.get(), epoch)
    }
}

impl DeleteAllRequest {
    /// The answer when all are gone.
    pub fn deleted(&self, epoch: u32) -> Vec<u8> {
        map_answer(Ok(None), self.protocol, 0, epoch)
    }

    /// The answer when some have to stay.
    pub fn refused(&self, code: ErrorCode, epoch: u32) -> Vec<u8> {
        map_answer(Err(code), self.protocol, 0, epoch)
    }
}

/// What is asked for; nothing when it makes no sense.
fn request(fields: &MapFields, client: Ipv4Addr) -> Option<Request> {
    let protocol = fields.protocol;
    let port = NonZeroU16::new(fields.internal_port);
    match (port, NonZeroU32::new(fields.lifetime)) {
        (Some(internal_port), Some(lifetime)) => Some(Request::Map(MapRequest {
            client,
            protocol,
            internal_port,
            suggested: NonZeroU16::new(fields.external_port),
            lifetime,
        })),
        (Some(internal_port), None) => Some(Request::Delete(DeleteRequest {
            client,
            protocol,
            internal_port,
        })),
        (None, None) if fields.external_port == 0 => {
            Some(Request::DeleteAll(DeleteAllRequest { client, protocol }))
        }
        (None, None | Some(_)) => None,
    }
}

fn address_answer(outcome: Result<Ipv4Addr, ErrorCode>, epoch: u32) -> Vec<u8> {
    let message = ResponseMessage {
        error: outcome.err(),
        epoch,
        body: ResponseBody::ExternalAddress(outcome.unwrap_or(Ipv4Addr::UNSPECIFIED)),
    };
    message.encode()
}

/// An answer about a mapping; port and lifetime are 0 when it failed or was taken away.
fn map_answer(
    outcome: Result<Option<Granted>, ErrorCode>,
    protocol: Protocol,
    internal_port: u16,
    epoch: u32,
) -> Vec<u8> {
    let granted = outcome.unwrap_or_default();
    let fields = MapFields {
        protocol,
        internal_port,
        external_port: granted.map_or(0, |it| it.port.get()),
        lifetime: granted.map_or(0, |it| it.lifetime),
    };
    let message = ResponseMessage {
        error: outcome.err(),
        epoch,
        body: ResponseBody::Map(fields),
    };
    message.encode()
}

/// The whole request comes back (RFC 6886 section 3.5).
fn unsupported(datagram: &[u8], opcode: u8) -> Vec<u8> {
    let copy = datagram.get(..LONGEST_COPY).unwrap_or(datagram);
    let mut message = copy.to_vec();
    message.resize(message.len().max(4), 0);
    let [high, low] = ErrorCode::UnsupportedOpcode.number().to_be_bytes();
    overwrite(
        &mut message,
        0,
        &[VERSION, opcode | RESPONSE_BIT, high, low],
    );
    message
}

#[cfg(test)]
mod tests;
