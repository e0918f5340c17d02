//! Result codes, and how long they hold.

use std::fmt;

/// Why a request fails (RFC 6887 section 7.4), and two codes of the hostname option in the vendors' range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The version is not spoken here; the message carries the nearest that is.
    UnsupportedVersion,
    /// Disabled for this client, or the nonce is another mapping's.
    NotAuthorized,
    /// The request could not be read.
    MalformedRequest,
    /// The opcode is not known.
    UnsupportedOpcode,
    /// An option that has to be understood is not known, or not allowed.
    UnsupportedOption,
    /// An option could not be read, or makes no sense in this request.
    MalformedOption,
    /// The network of the server is away.
    NetworkFailure,
    /// The server has nothing left to give, for now.
    NoResources,
    /// The transport protocol cannot be mapped.
    UnsupportedProtocol,
    /// The client has as many mappings as it may.
    QuotaExceeded,
    /// The external address and port that the request insists on cannot be had.
    CannotProvideExternal,
    /// The header names another client than the source of the datagram: a NAT is between.
    AddressMismatch,
    /// More filters than the server keeps.
    ExcessiveRemotePeers,
    /// Another device has the hostname.
    HostnameTaken,
    /// Hostnames are not offered.
    HostnameUnsupported,
    /// A code that no document at hand knows.
    Other(u8),
}

impl ErrorCode {
    /// The error of a result code; nothing for success.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => return None,
            1 => Self::UnsupportedVersion,
            2 => Self::NotAuthorized,
            3 => Self::MalformedRequest,
            4 => Self::UnsupportedOpcode,
            5 => Self::UnsupportedOption,
            6 => Self::MalformedOption,
            7 => Self::NetworkFailure,
            8 => Self::NoResources,
            9 => Self::UnsupportedProtocol,
            10 => Self::QuotaExceeded,
            11 => Self::CannotProvideExternal,
            12 => Self::AddressMismatch,
            13 => Self::ExcessiveRemotePeers,
            192 => Self::HostnameTaken,
            193 => Self::HostnameUnsupported,
            other => Self::Other(other),
        })
    }

    /// Its number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::UnsupportedVersion => 1,
            Self::NotAuthorized => 2,
            Self::MalformedRequest => 3,
            Self::UnsupportedOpcode => 4,
            Self::UnsupportedOption => 5,
            Self::MalformedOption => 6,
            Self::NetworkFailure => 7,
            Self::NoResources => 8,
            Self::UnsupportedProtocol => 9,
            Self::QuotaExceeded => 10,
            Self::CannotProvideExternal => 11,
            Self::AddressMismatch => 12,
            Self::ExcessiveRemotePeers => 13,
            Self::HostnameTaken => 192,
            Self::HostnameUnsupported => 193,
            Self::Other(number) => number,
        }
    }

    /// How long a client shall not ask again, in seconds: half a minute for what passes by itself, half an hour for the rest
    /// (RFC 6887 section 7.4).
    pub const fn usual_lifetime(self) -> u32 {
        const SHORT: u32 = 30;
        const LONG: u32 = 30 * 60;
        match self {
            Self::NetworkFailure
            | Self::NoResources
            | Self::QuotaExceeded
            | Self::CannotProvideExternal
            | Self::HostnameTaken => SHORT,
            Self::UnsupportedVersion
            | Self::NotAuthorized
            | Self::MalformedRequest
            | Self::UnsupportedOpcode
            | Self::UnsupportedOption
            | Self::MalformedOption
            | Self::UnsupportedProtocol
            | Self::AddressMismatch
            | Self::ExcessiveRemotePeers
            | Self::HostnameUnsupported
            | Self::Other(_) => LONG,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::UnsupportedVersion => "UNSUPP_VERSION",
            Self::NotAuthorized => "NOT_AUTHORIZED",
            Self::MalformedRequest => "MALFORMED_REQUEST",
            Self::UnsupportedOpcode => "UNSUPP_OPCODE",
            Self::UnsupportedOption => "UNSUPP_OPTION",
            Self::MalformedOption => "MALFORMED_OPTION",
            Self::NetworkFailure => "NETWORK_FAILURE",
            Self::NoResources => "NO_RESOURCES",
            Self::UnsupportedProtocol => "UNSUPP_PROTOCOL",
            Self::QuotaExceeded => "USER_EX_QUOTA",
            Self::CannotProvideExternal => "CANNOT_PROVIDE_EXTERNAL",
            Self::AddressMismatch => "ADDRESS_MISMATCH",
            Self::ExcessiveRemotePeers => "EXCESSIVE_REMOTE_PEERS",
            Self::HostnameTaken => "hostname taken",
            Self::HostnameUnsupported => "hostnames not offered",
            Self::Other(number) => return write!(formatter, "result code {number}"),
        };
        formatter.write_str(name)
    }
}
