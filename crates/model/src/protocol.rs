//! Transport protocols and port ranges.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Transmission Control Protocol, number 6.
    Tcp,
    /// User Datagram Protocol, number 17.
    Udp,
}

impl Protocol {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The name, `tcp` or `udp`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            other => Err(format!("`{other}` is no protocol; use tcp or udp")),
        }
    }
}

/// One transport protocol, or with `None` all that is carried by IP: written as its name, or as `all`.
pub mod or_all {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::Protocol;

    /// What stands for all of them.
    pub const ALL: &str = "all";

    /// The name as users see it.
    pub const fn name(protocol: Option<Protocol>) -> &'static str {
        match protocol {
            Some(protocol) => protocol.name(),
            None => ALL,
        }
    }

    pub fn serialize<S: Serializer>(
        protocol: &Option<Protocol>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(name(*protocol))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Protocol>, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            ALL => Ok(None),
            one => one.parse().map(Some).map_err(D::Error::custom),
        }
    }
}

/// Consecutive ports, both ends included; never empty, never port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// All ports that need no privilege to bind.
    pub const UNPRIVILEGED: Self = Self {
        first: 1024,
        last: 65535,
    };

    /// All ports.
    pub const ALL: Self = Self {
        first: 1,
        last: 65535,
    };

    /// The first of all ranges in their order.
    pub(crate) const FIRST: Self = Self { first: 1, last: 1 };

    /// The last of all ranges in their order.
    pub(crate) const LAST: Self = Self {
        first: u16::MAX,
        last: u16::MAX,
    };

    /// A range, unless it is empty or starts at 0.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || last < first {
            None
        } else {
            Some(Self { first, last })
        }
    }

    /// First port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Last port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether it is one port.
    pub const fn is_single(self) -> bool {
        self.first == self.last
    }

    /// Whether a port lies in it.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether two ranges share a port.
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() {
            write!(formatter, "{}", self.first)
        } else {
            write!(formatter, "{}-{}", self.first, self.last)
        }
    }
}
