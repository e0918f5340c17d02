//! What a client wants mapped, and what it has.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use adit_model::protocol::Protocol;

use crate::pcp::wire::{Filter, Hostname, Suggestion};
use crate::{nat_pmp, pcp};

/// The caller's number for a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MappingId(pub u64);

/// A mapping as a client wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port of this host, or the first of several.
    pub internal_port: NonZeroU16,
    /// How many ports; fewer may come. NAT-PMP gives one.
    pub ports: u16,
    /// Where it leads to from the outside, if that can be had.
    pub suggestion: Suggestion,
    /// In seconds. Other lifetimes may be given.
    pub lifetime: u32,
    /// The other end of an outbound mapping (PEER); nothing for an inbound one. Only PCP has them.
    pub remote: Option<SocketAddr>,
    /// Whether nothing but the suggestion will do. Only PCP has that.
    pub prefer_failure: bool,
    /// Who may come in; nobody named is everybody. Only PCP has them.
    pub filters: Vec<Filter>,
    /// TLS names that shall lead here. Only some PCP servers have them.
    pub hostnames: Vec<Hostname>,
    /// The host that it is for, if not this one. Only PCP has that, and few servers allow it.
    pub third_party: Option<IpAddr>,
}

impl Wish {
    /// One inbound port for everybody, wherever it leads to from the outside.
    pub const fn new(protocol: Protocol, internal_port: NonZeroU16, lifetime: u32) -> Self {
        Self {
            protocol,
            internal_port,
            ports: 1,
            suggestion: Suggestion {
                address: None,
                port: None,
            },
            lifetime,
            remote: None,
            prefer_failure: false,
            filters: Vec::new(),
            hostnames: Vec::new(),
            third_party: None,
        }
    }

    /// Whether NAT-PMP can say it.
    pub(crate) fn is_plain(&self) -> bool {
        self.remote.is_none()
            && !self.prefer_failure
            && self.filters.is_empty()
            && self.hostnames.is_empty()
            && self.third_party.is_none()
    }
}

/// A mapping as a client has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// What remote hosts see; of several ports the first.
    pub external: SocketAddr,
    /// How many ports.
    pub ports: u16,
    /// For how long from now.
    pub lifetime: Duration,
}

/// Why a client does not have a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A PCP server said so.
    Pcp(pcp::wire::ErrorCode),
    /// A NAT-PMP server said so.
    NatPmp(nat_pmp::wire::ErrorCode),
    /// The server speaks NAT-PMP only, which has no way to ask for it.
    NeedsPcp,
    /// The server does not lead TLS names.
    HostnamesNotOffered,
    /// The server said nothing.
    NoAnswer,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pcp(code) => write!(formatter, "the server refused: {code}"),
            Self::NatPmp(code) => write!(formatter, "the server refused: {code}"),
            Self::NeedsPcp => {
                formatter.write_str("the server speaks NAT-PMP only, which cannot say that")
            }
            Self::HostnamesNotOffered => formatter.write_str("the server does not lead TLS names"),
            Self::NoAnswer => formatter.write_str("the server does not answer"),
        }
    }
}
