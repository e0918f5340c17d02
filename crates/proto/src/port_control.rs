//! What PCP and NAT-PMP share: one UDP socket, told apart by the first octet, and one epoch.

pub mod client;
mod epoch;
pub mod notifier;
pub mod wish;

use std::net::{IpAddr, SocketAddr};

pub use self::epoch::{Epoch, SavedEpoch};
use crate::{nat_pmp, pcp};

/// Where servers listen.
pub const SERVER_PORT: u16 = 5351;

/// Where clients listen for announcements to all.
pub const CLIENT_PORT: u16 = 5350;

/// A buffer for a datagram has to be at least this long, so that one that is too long is seen to be (RFC 6887 section 8.2).
pub const BUFFER_LENGTH: usize = pcp::wire::MAXIMUM_LENGTH + 4;

/// A datagram to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// Its octets.
    pub datagram: Vec<u8>,
}

/// What a client may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// By PCP; `map` is for NAT-PMP, too.
    pub pcp: pcp::server::Policy,
    /// Whether NAT-PMP is spoken. Otherwise its clients are told that this server knows only PCP (RFC 6887 appendix A).
    pub nat_pmp: bool,
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
    /// By PCP.
    Pcp(pcp::server::Request),
    /// By NAT-PMP.
    NatPmp(nat_pmp::server::Request),
}

/// Reads a datagram that came to the socket from a client.
///
/// `source` is the address that it came from, which the caller knows to be that of a client on the interface that it came in by.
/// `epoch` is in seconds (RFC 6887 section 8.5, RFC 6886 section 3.6).
pub fn receive(datagram: &[u8], source: IpAddr, policy: &Policy, epoch: u32) -> Received {
    match (datagram.first(), source.to_canonical()) {
        (Some(&nat_pmp::wire::VERSION), IpAddr::V4(client)) if policy.nat_pmp => {
            match nat_pmp::server::receive(datagram, client, policy.pcp.map, epoch) {
                nat_pmp::server::Received::Silence => Received::Silence,
                nat_pmp::server::Received::Answer(answer) => Received::Answer(answer),
                nat_pmp::server::Received::Request(request) => {
                    Received::Request(Request::NatPmp(request))
                }
            }
        }
        (_, source) => match pcp::server::receive(datagram, source, &policy.pcp, epoch) {
            pcp::server::Received::Silence => Received::Silence,
            pcp::server::Received::Answer(answer) => Received::Answer(answer),
            pcp::server::Received::Request(request) => Received::Request(Request::Pcp(request)),
        },
    }
}
