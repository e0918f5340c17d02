//! Packet filters of others on this host, and what becomes of a packet in them.
//!
//! The rules are the kernel's own expressions, so it does not matter which program wrote them. Of a packet only some bits are
//! known, and some expressions are not understood; then both ways are followed, and the answer says all that may happen.

mod evaluation;
mod packet;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

pub use packet::{Packet, Place, Tracking};

/// What others have in the kernel: every chain that a packet of ours may come to, and the sets that their rules name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The chains.
    pub chains: BTreeMap<Name, Chain>,
    /// The sets and maps.
    pub sets: BTreeMap<Name, Set>,
}

/// A chain or a set of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Its table.
    pub table: Table,
    /// Its own name.
    pub name: String,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// Which packets come to it.
    pub family: Family,
    /// Its name.
    pub name: String,
}

/// Which packets come to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets come to it from the kernel; none for one that is only jumped to.
    pub base: Option<Base>,
    /// Its rules in order.
    pub rules: Vec<Vec<Expression>>,
}

/// How a chain hangs in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// At which point.
    pub hook: Hook,
    /// In which order with others; lower is earlier.
    pub priority: i32,
    /// Whether it drops what no rule decided.
    pub drops: bool,
}

/// Where packets are filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// All that arrive.
    Prerouting,
    /// Those for this host.
    Input,
    /// Those that it forwards.
    Forward,
    /// Those that it sends.
    Output,
    /// All that leave.
    Postrouting,
}

/// A place in the registers, in bytes.
pub type Register = usize;

/// One step of a rule; numbers are those of `linux/netfilter/nf_tables.h`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Loads something about the packet.
    Meta {
        /// `NFT_META_*`.
        key: u32,
        /// Where to.
        register: Register,
    },
    /// Loads something about its connection.
    Connection {
        /// `NFT_CT_*`.
        key: u32,
        /// Where to.
        register: Register,
    },
    /// Loads bytes of its headers.
    Payload {
        /// `NFT_PAYLOAD_*_HEADER`.
        base: u32,
        /// First byte.
        offset: usize,
        /// How many.
        length: usize,
        /// Where to.
        register: Register,
    },
    /// Loads a constant.
    Constant {
        /// Where to.
        register: Register,
        /// What.
        value: Vec<u8>,
    },
    /// `(value & mask) ^ flip`
    Bits {
        /// Where from.
        from: Register,
        /// Where to.
        to: Register,
        /// What stays.
        mask: Vec<u8>,
        /// What is turned.
        flip: Vec<u8>,
    },
    /// The rule ends here unless the value is equal, or unless it is not.
    Equal {
        /// The value.
        register: Register,
        /// What it is compared with.
        value: Vec<u8>,
        /// Whether it is to differ.
        inverted: bool,
    },
    /// The rule ends here unless the value lies within, or unless it does not.
    Within {
        /// The value.
        register: Register,
        /// The lowest.
        from: Vec<u8>,
        /// The highest.
        to: Vec<u8>,
        /// Whether it is to lie outside.
        inverted: bool,
    },
    /// The rule ends here unless the set has the value, or unless it has not; a map of verdicts gives its verdict.
    Lookup {
        /// Name of the set.
        set: String,
        /// The value.
        register: Register,
        /// Whether the verdict of its element is taken.
        verdict: bool,
        /// Whether it is not to have it.
        inverted: bool,
    },
    /// The rule ends here unless the connection is in one of these states (`1 <<` as in `ct state`).
    State {
        /// The states.
        states: u16,
        /// Whether it is to be in none.
        inverted: bool,
    },
    /// The rule ends here unless a port is in one of these ranges.
    Ports {
        /// The ports of the source.
        source: bool,
        /// The ports of the destination.
        destination: bool,
        /// The ranges.
        ranges: Vec<(u16, u16)>,
        /// Whether it is to be in none.
        inverted: bool,
    },
    /// The rule may end here; what registers hold is not known after it.
    Unknown,
    /// What becomes of the packet.
    Verdict(Verdict),
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes this base chain.
    Accept,
    /// It is gone.
    Drop,
    /// Goes through a chain and comes back.
    Jump(String),
    /// Goes through a chain and does not come back here.
    Goto(String),
    /// Comes back from this chain.
    Return,
    /// Goes on with the next rule.
    Continue,
    /// Something that is not understood.
    Unknown,
}

/// A set, or a map of verdicts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Its elements in order; none where they are too many, come and go by themselves, or are not understood.
    pub elements: Option<Vec<Element>>,
}

/// One element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The lowest value.
    pub from: Vec<u8>,
    /// The highest value.
    pub to: Vec<u8>,
    /// What a map of verdicts gives.
    pub verdict: Option<Verdict>,
}

/// All that may become of a packet in a base chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// It may pass, or what happens is not understood.
    pub may_pass: bool,
    /// The last chain whose rule may drop it, or the base chain itself for its policy.
    pub dropped_in: Option<String>,
}

impl Ruleset {
    /// The base chains at a hook that packets of a family come to, in order.
    pub fn at(&self, hook: Hook, is_ipv6: bool) -> impl Iterator<Item = (&Name, &Base)> {
        self.chains
            .iter()
            .filter_map(|(name, chain)| Some((name, chain.base.as_ref()?)))
            .filter(move |(name, base)| base.hook == hook && name.table.family.has(is_ipv6))
    }

    /// What becomes of a packet in a base chain.
    pub fn evaluate(&self, base: &Name, packet: &Packet) -> Outcome {
        evaluation::evaluate(self, base, packet)
    }
}

impl Outcome {
    /// Where the packet is dropped for certain.
    pub fn certain_drop(&self) -> Option<&str> {
        self.dropped_in.as_deref().filter(|_| !self.may_pass)
    }
}

impl Family {
    const fn has(self, is_ipv6: bool) -> bool {
        match self {
            Self::Inet => true,
            Self::Ip => !is_ipv6,
            Self::Ip6 => is_ipv6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.family, self.name)
    }
}
