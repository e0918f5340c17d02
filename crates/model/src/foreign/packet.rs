//! A packet of which not every bit is known.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::protocol::Protocol;

/// One packet, or all those that agree in what is known.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Whether it is IPv6.
    pub is_ipv6: bool,
    /// The interface that it came in by, with its index where that is known; none for what this host sends.
    pub input: Option<(String, Option<u32>)>,
    /// The interface that it leaves by; none for what this host gets.
    pub output: Option<(String, Option<u32>)>,
    /// Where it is from.
    pub source: Place,
    /// Where it goes.
    pub destination: Place,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Its source port; none: any.
    pub source_port: Option<u16>,
    /// Its destination port; none: any.
    pub destination_port: Option<u16>,
    /// What is known of its connection.
    pub tracking: Tracking,
    /// Whether the destination of its connection was translated.
    pub is_forward: bool,
}

/// An address, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Some public address.
    Internet,
    /// Some address of this network, which may be a single one.
    Network(IpNet),
}

/// What is known of a packet's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// It begins one.
    New,
    /// It belongs to one, in the direction in which that began.
    Established,
    /// It answers one.
    Answer,
    /// It is not looked up yet.
    Unknown,
}

/// A byte of which some bits are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Byte {
    pub(super) value: u8,
    pub(super) known: u8,
}

/// Bytes that a rule compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) bytes: Vec<Byte>,
    /// Whether they are, masked, some public address.
    pub(super) is_internet: bool,
}

impl Value {
    pub(super) fn unknown(length: usize) -> Self {
        Self {
            bytes: vec![Byte::default(); length],
            is_internet: false,
        }
    }

    pub(super) fn known(bytes: &[u8]) -> Self {
        let known = |value: &u8| Byte {
            value: *value,
            known: 0xff,
        };
        Self {
            bytes: bytes.iter().map(known).collect(),
            is_internet: false,
        }
    }
}

// `NFT_META_*`
const META_PROTOCOL: u32 = 1;
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;

// `NFT_CT_*`
const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const CT_STATUS: u32 = 2;

// `NFT_PAYLOAD_*_HEADER`
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

/// Bits of `ct state`.
const ESTABLISHED: u32 = 2;
const NEW: u32 = 8;

/// `IPS_DST_NAT`, and what a packet that is no forward has not.
const TRANSLATED: u8 = 0x20;

/// Bytes of an interface's name, ended by zeros.
const NAME: usize = 16;

/// Bytes that a load of unknown length may fill.
const WORD: usize = 4;

impl Packet {
    pub(super) fn meta(&self, key: u32) -> Value {
        match key {
            META_PROTOCOL => {
                let ethertype: u16 = if self.is_ipv6 { 0x86dd } else { 0x0800 };
                padded(&ethertype.to_be_bytes())
            }
            META_IIF => index(self.input.as_ref()),
            META_OIF => index(self.output.as_ref()),
            META_IIFNAME => name(self.input.as_ref()),
            META_OIFNAME => name(self.output.as_ref()),
            META_NFPROTO => padded(&[if self.is_ipv6 { 10 } else { 2 }]),
            META_L4PROTO => padded(&[self.protocol.number()]),
            _ => Value::unknown(NAME),
        }
    }

    pub(super) fn connection(&self, key: u32) -> Value {
        let Some(states) = self.states() else {
            return Value::unknown(4 * WORD);
        };
        match key {
            CT_STATE => Value::known(&states.to_ne_bytes()),
            CT_DIRECTION => padded(&[u8::from(self.tracking == Tracking::Answer)]),
            CT_STATUS => {
                let mut status = Value::unknown(WORD);
                let lowest = if cfg!(target_endian = "little") { 0 } else { 3 };
                if let Some(byte) = status.bytes.get_mut(lowest) {
                    let value = if self.is_forward { TRANSLATED } else { 0 };
                    let known = TRANSLATED;
                    *byte = Byte { value, known };
                }
                status
            }
            _ => Value::unknown(4 * WORD),
        }
    }

    /// The bit of `ct state`.
    pub(super) fn states(&self) -> Option<u32> {
        match self.tracking {
            Tracking::New => Some(NEW),
            Tracking::Established | Tracking::Answer => Some(ESTABLISHED),
            Tracking::Unknown => None,
        }
    }

    pub(super) fn payload(&self, base: u32, offset: usize, length: usize) -> Value {
        let (header, source, destination) = match base {
            NETWORK if self.is_ipv6 => (self.network(), 8, 24),
            NETWORK => (self.network(), 12, 16),
            TRANSPORT => (self.transport(), usize::MAX, usize::MAX),
            _ => return Value::unknown(length),
        };
        let bytes = (offset..offset.saturating_add(length))
            .map(|place| header.get(place).copied().unwrap_or_default())
            .collect();
        let place = if offset == source {
            Some(self.source)
        } else {
            (offset == destination).then_some(self.destination)
        };
        let size = if self.is_ipv6 { 16 } else { 4 };
        let mut value = Value {
            bytes,
            is_internet: place == Some(Place::Internet) && length <= size,
        };
        pad(&mut value.bytes);
        value
    }

    fn network(&self) -> Vec<Byte> {
        let addresses = address(self.source, self.is_ipv6)
            .into_iter()
            .chain(address(self.destination, self.is_ipv6));
        let protocol = Value::known(&[self.protocol.number()]).bytes;
        let unknown = |length| Value::unknown(length).bytes;
        if self.is_ipv6 {
            let head = unknown(6).into_iter().chain(protocol).chain(unknown(1));
            head.chain(addresses).collect()
        } else {
            let head = unknown(9).into_iter().chain(protocol).chain(unknown(2));
            head.chain(addresses).collect()
        }
    }

    fn transport(&self) -> Vec<Byte> {
        [self.source_port, self.destination_port]
            .into_iter()
            .flat_map(|port| match port {
                Some(port) => Value::known(&port.to_be_bytes()).bytes,
                None => Value::unknown(2).bytes,
            })
            .collect()
    }
}

fn address(place: Place, is_ipv6: bool) -> Vec<Byte> {
    let net = match place {
        Place::Internet => return Value::unknown(if is_ipv6 { 16 } else { 4 }).bytes,
        Place::Network(net) => net,
    };
    let (address, mask) = match (net.addr(), net.netmask()) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => {
            (address.octets().to_vec(), mask.octets().to_vec())
        }
        (address, mask) => (octets(address), octets(mask)),
    };
    let bytes = address.iter().zip(&mask);
    bytes
        .map(|(value, known)| Byte {
            value: value & known,
            known: *known,
        })
        .collect()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn name(interface: Option<&(String, Option<u32>)>) -> Value {
    let mut bytes = interface.map_or_else(Vec::new, |(name, _)| name.clone().into_bytes());
    bytes.resize(NAME, 0);
    Value::known(&bytes)
}

fn index(interface: Option<&(String, Option<u32>)>) -> Value {
    match interface {
        Some((_, Some(index))) => Value::known(&index.to_ne_bytes()),
        Some((_, None)) => Value::unknown(WORD),
        None => Value::known(&0u32.to_ne_bytes()),
    }
}

/// The kernel fills the rest of a word with zeros.
fn padded(bytes: &[u8]) -> Value {
    let mut value = Value::known(bytes);
    pad(&mut value.bytes);
    value
}

fn pad(bytes: &mut Vec<Byte>) {
    let zero = Byte {
        value: 0,
        known: 0xff,
    };
    bytes.resize(bytes.len().next_multiple_of(WORD), zero);
}
