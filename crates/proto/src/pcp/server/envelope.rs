//! What of a request comes back in its answer.

use std::num::NonZeroU16;

use super::super::wire::{
    ErrorCode, HEADER_LENGTH, MAXIMUM_LENGTH, PORT_SET, RESPONSE_BIT, VERSION, octets_of,
    push_option,
};
use super::{Granted, Refused};
use crate::octets::overwrite;

const OPCODE: usize = 1;
const LIFETIME: usize = 4;
const EPOCH: usize = 8;
const RESERVED: usize = 12;
const RESERVED_LENGTH: usize = 12;

/// Reserved octets of the bodies: behind the protocol, and in PEER behind the remote port.
const MAP_RESERVED: usize = 37;
const PEER_RESERVED: usize = 62;
const INTERNAL_PORT: usize = 40;
const EXTERNAL_PORT: usize = 42;
const EXTERNAL: usize = 44;
const MAP_END: usize = 60;
const PEER_END: usize = 80;
const PEER_OPCODE: u8 = 2;

/// The octets of a request, and the options of it that were processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    request: Box<[u8]>,
    processed: Vec<Processed>,
}

/// An option that comes back in a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Processed {
    pub(super) code: u8,
    pub(super) data: Box<[u8]>,
}

impl Envelope {
    pub(super) fn new(datagram: &[u8]) -> Self {
        let kept = datagram.get(..MAXIMUM_LENGTH).unwrap_or(datagram);
        Self {
            request: kept.into(),
            processed: Vec::new(),
        }
    }

    pub(super) fn with_options(&self, processed: Vec<Processed>) -> Self {
        Self {
            request: self.request.clone(),
            processed,
        }
    }

    /// The whole request with another header (RFC 6887 sections 7.2 and 8.2).
    pub(super) fn refused(&self, refused: &Refused, epoch: u32) -> Vec<u8> {
        let lifetime = refused
            .lifetime
            .unwrap_or_else(|| refused.code.usual_lifetime());
        let mut message = self.request.to_vec();
        // A request of another version may be shorter than the fields that the answer has.
        message.resize(message.len().next_multiple_of(4).max(HEADER_LENGTH), 0);
        set_header(&mut message, refused.code.number(), lifetime, epoch);
        // What could not be read leaves the end of the client's address there.
        let unread = match refused.code {
            ErrorCode::UnsupportedVersion
            | ErrorCode::MalformedRequest
            | ErrorCode::UnsupportedOpcode
            | ErrorCode::MalformedOption => true,
            ErrorCode::NotAuthorized
            | ErrorCode::UnsupportedOption
            | ErrorCode::NetworkFailure
            | ErrorCode::NoResources
            | ErrorCode::UnsupportedProtocol
            | ErrorCode::QuotaExceeded
            | ErrorCode::CannotProvideExternal
            | ErrorCode::AddressMismatch
            | ErrorCode::ExcessiveRemotePeers
            | ErrorCode::HostnameTaken
            | ErrorCode::HostnameUnsupported
            | ErrorCode::Other(_) => false,
        };
        if !unread {
            overwrite(&mut message, RESERVED, &[0; RESERVED_LENGTH]);
        }
        message
    }

    /// A mapping whose internal ports begin at `first` (RFC 6887 sections 11.3 and 12.3, RFC 7753 section 4.2).
    pub(super) fn granted(
        &self,
        granted: &Granted,
        first: Option<NonZeroU16>,
        epoch: u32,
    ) -> Vec<u8> {
        let mut message = self.start(granted.lifetime, epoch);
        let first = first.map_or(0, NonZeroU16::get);
        let port = granted.port.map_or(0, NonZeroU16::get);
        overwrite(&mut message, INTERNAL_PORT, &first.to_be_bytes());
        overwrite(&mut message, EXTERNAL_PORT, &port.to_be_bytes());
        overwrite(&mut message, EXTERNAL, &octets_of(granted.external));
        for option in &self.processed {
            if option.code != PORT_SET {
                push_option(&mut message, option.code, &option.data);
            } else if granted.ports > 1 {
                let [size_high, size_low] = granted.ports.to_be_bytes();
                let [port_high, port_low] = first.to_be_bytes();
                let flags = option.data.last().copied().unwrap_or(0) & 1;
                let data = [size_high, size_low, port_high, port_low, flags];
                push_option(&mut message, PORT_SET, &data);
            }
        }
        message
    }

    /// A mapping that is gone; the external fields are copied (RFC 6887 section 15.1).
    pub(super) fn deleted(&self, epoch: u32) -> Vec<u8> {
        let mut message = self.start(0, epoch);
        for option in &self.processed {
            push_option(&mut message, option.code, &option.data);
        }
        message
    }

    /// Header and body of a success, as far as they are copied.
    fn start(&self, lifetime: u32, epoch: u32) -> Vec<u8> {
        let is_peer = self.request.get(OPCODE) == Some(&PEER_OPCODE);
        let end = if is_peer { PEER_END } else { MAP_END };
        let mut message = self.request.get(..end).unwrap_or_default().to_vec();
        set_header(&mut message, 0, lifetime, epoch);
        overwrite(&mut message, RESERVED, &[0; RESERVED_LENGTH]);
        overwrite(&mut message, MAP_RESERVED, &[0; 3]);
        if is_peer {
            overwrite(&mut message, PEER_RESERVED, &[0; 2]);
        }
        message
    }
}

fn set_header(message: &mut [u8], result: u8, lifetime: u32, epoch: u32) {
    let opcode = message.get(OPCODE).copied().unwrap_or(0) | RESPONSE_BIT;
    overwrite(message, 0, &[VERSION, opcode, 0, result]);
    overwrite(message, LIFETIME, &lifetime.to_be_bytes());
    overwrite(message, EPOCH, &epoch.to_be_bytes());
}
