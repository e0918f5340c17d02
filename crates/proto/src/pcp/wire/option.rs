//! Options (RFC 6887 sections 7.3 and 13, RFC 7753), and two of the private range for TLS names.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;

use ipnet::IpNet;

use super::{address_of, octets_of};
use crate::octets::Octets;

/// Codes below have to be understood by a server (RFC 6887 section 7.3).
const FIRST_OPTIONAL: u8 = 128;

const THIRD_PARTY: u8 = 1;
const PREFER_FAILURE: u8 = 2;
const FILTER: u8 = 3;
pub(crate) const PORT_SET: u8 = 130;
const HOSTNAME: u8 = 224;
const CAPABILITY: u8 = 225;

/// What the capability option of a server that knows the hostname option holds.
const CAPABILITY_DATA: [u8; 4] = [0x53, 0x39, 0x3b, 0x01];

/// Remote hosts that a mapping admits (RFC 6887 section 13.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Their addresses; host bits are zero.
    pub prefix: IpNet,
    /// Their port; nothing for all.
    pub port: Option<NonZeroU16>,
}

/// What one filter option does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterChange {
    /// All filters that were there go.
    Clear,
    /// One more remote is admitted.
    Add(Filter),
}

/// Consecutive ports in one mapping (RFC 7753).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSet {
    /// How many, as the datagram has it: 0xffff asks for as many as there are.
    pub size: u16,
    /// The first internal port, which is that of the mapping.
    pub first_internal: u16,
    /// Whether the first external port shall be odd or even as the internal one is.
    pub parity: bool,
}

/// A TLS name that shall lead to the mapping: A-labels, a lone `*` allowed as the first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(String);

impl Hostname {
    /// A name as the option may carry it.
    pub fn new(name: &str) -> Option<Self> {
        let plain = name.strip_prefix("*.").unwrap_or(name);
        let fits = (1..=255).contains(&name.len()) && plain.split('.').all(is_label);
        fits.then(|| Self(name.to_owned()))
    }

    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label(label: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&label.len())
        && label.bytes().all(inside)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// An option of a message (RFC 6887 section 7.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PcpOption {
    /// The mapping is for another host than the one that asks (section 13.1).
    ThirdParty(IpAddr),
    /// Rather nothing than another external address and port (section 13.2).
    PreferFailure,
    /// Who may come in (section 13.3).
    Filter(FilterChange),
    /// RFC 7753.
    PortSet(PortSet),
    /// Private-use option 224.
    Hostname(Hostname),
    /// Private-use option 225: the server knows option 224.
    HostnameCapability,
    /// One that is not known here.
    Unknown(u8),
}

/// Option contents that do not mean anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the contents of the PCP option {0} are malformed")]
pub struct MalformedOption(pub u8);

/// An option with its contents unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawOption<'a> {
    /// Its code.
    pub code: u8,
    /// Its data, without padding.
    pub data: &'a [u8],
}

impl RawOption<'_> {
    /// Whether a server may not pass over it.
    pub const fn is_mandatory(self) -> bool {
        self.code < FIRST_OPTIONAL
    }
}

impl PcpOption {
    /// Reads the contents of an option.
    pub fn decode(raw: RawOption<'_>) -> Result<Self, MalformedOption> {
        let malformed = MalformedOption(raw.code);
        match raw.code {
            THIRD_PARTY => {
                let octets: [u8; 16] = raw.data.try_into().map_err(|_| malformed)?;
                Ok(Self::ThirdParty(address_of(octets)))
            }
            PREFER_FAILURE if raw.data.is_empty() => Ok(Self::PreferFailure),
            PREFER_FAILURE => Err(malformed),
            FILTER => decode_filter(raw.data).map(Self::Filter).ok_or(malformed),
            PORT_SET => decode_port_set(raw.data)
                .map(Self::PortSet)
                .ok_or(malformed),
            HOSTNAME => std::str::from_utf8(raw.data)
                .ok()
                .and_then(Hostname::new)
                .map(Self::Hostname)
                .ok_or(malformed),
            CAPABILITY if raw.data == CAPABILITY_DATA => Ok(Self::HostnameCapability),
            other => Ok(Self::Unknown(other)),
        }
    }

    /// Appends the option to a message, padded.
    pub fn encode(&self, message: &mut Vec<u8>) {
        match self {
            Self::ThirdParty(address) => {
                push_option(message, THIRD_PARTY, &octets_of(*address));
            }
            Self::PreferFailure => push_option(message, PREFER_FAILURE, &[]),
            Self::Filter(change) => push_option(message, FILTER, &encode_filter(*change)),
            Self::PortSet(set) => {
                let [size_high, size_low] = set.size.to_be_bytes();
                let [port_high, port_low] = set.first_internal.to_be_bytes();
                let data = [size_high, size_low, port_high, port_low, set.parity.into()];
                push_option(message, PORT_SET, &data);
            }
            Self::Hostname(name) => push_option(message, HOSTNAME, name.as_str().as_bytes()),
            Self::HostnameCapability => push_option(message, CAPABILITY, &CAPABILITY_DATA),
            Self::Unknown(code) => push_option(message, *code, &[]),
        }
    }
}

/// The options of a message, unread; nothing when a length leads past the end.
pub fn split_options(octets: &[u8]) -> Option<Vec<RawOption<'_>>> {
    let mut options = Vec::new();
    let mut octets = Octets::new(octets);
    while !octets.rest().is_empty() {
        let [code, _reserved] = octets.take()?;
        let length = usize::from(octets.take_u16()?);
        let data = octets.take_slice(length)?;
        octets.take_slice(length.next_multiple_of(4) - length)?;
        options.push(RawOption { code, data });
    }
    Some(options)
}

/// Appends an option, zero-padded to four octets.
pub(crate) fn push_option(message: &mut Vec<u8>, code: u8, data: &[u8]) {
    // What does not fit into the length field fits into no message either.
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
    message.extend([code, 0]);
    message.extend(length.to_be_bytes());
    message.extend(data);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn decode_filter(data: &[u8]) -> Option<FilterChange> {
    let mut octets = Octets::new(data);
    let [_reserved, length] = octets.take()?;
    let port = octets.take_u16()?;
    let address = address_of(octets.take()?);
    if !octets.rest().is_empty() {
        return None;
    }
    if length == 0 {
        return Some(FilterChange::Clear);
    }
    let length = match address {
        IpAddr::V4(_) => length.checked_sub(96)?,
        IpAddr::V6(_) => length,
    };
    let prefix = IpNet::new(address, length).ok()?.trunc();
    Some(FilterChange::Add(Filter {
        prefix,
        port: NonZeroU16::new(port),
    }))
}

fn encode_filter(change: FilterChange) -> [u8; 20] {
    let (length, port, address) = match change {
        FilterChange::Clear => (0, None, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        FilterChange::Add(Filter { prefix, port }) => {
            let length = match prefix {
                IpNet::V4(prefix) => prefix.prefix_len() + 96,
                IpNet::V6(prefix) => prefix.prefix_len(),
            };
            (length, port, prefix.addr())
        }
    };
    let [port_high, port_low] = port.map_or(0, NonZeroU16::get).to_be_bytes();
    let mut data = [0; 20];
    let (head, tail) = data.split_at_mut(4);
    head.copy_from_slice(&[0, length, port_high, port_low]);
    tail.copy_from_slice(&octets_of(address));
    data
}

fn decode_port_set(data: &[u8]) -> Option<PortSet> {
    let mut octets = Octets::new(data);
    let size = octets.take_u16()?;
    let first_internal = octets.take_u16()?;
    let flags = octets.take_u8()?;
    octets.rest().is_empty().then_some(PortSet {
        size,
        first_internal,
        parity: flags & 1 == 1,
    })
}
