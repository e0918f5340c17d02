//! Policy routing rules of ours: protocol 173, priorities 4200 to 4299.

use ipnet::IpNet;

/// The bits of packet and connection marks that are ours.
pub const MARK_MASK: u32 = 0x3f00_0000;

/// The mark of what comes back to the front's sockets that have a client's address; uplinks have lower ones.
pub const FRONT_MARK: u32 = MARK_MASK;

/// A rule that carries our protocol number. Its family is that of `source`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Priority; lower is looked at first.
    pub priority: u32,
    /// Packets from this prefix.
    pub source: IpNet,
    /// Only those to this network, of the same family.
    pub destination: Option<IpNet>,
    /// Only those that came in by this interface, if named.
    pub input_interface: Option<String>,
    /// Only those with this mark, in the bits of [`MARK_MASK`].
    pub mark: Option<u32>,
    /// Table that is looked up.
    pub table: u32,
    /// `suppress_prefixlength`: results of the table with a prefix this short or shorter are passed over.
    pub suppress_prefix_length: Option<u32>,
}
