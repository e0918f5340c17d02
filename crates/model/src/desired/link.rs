//! The tunnel interface.

/// The one WireGuard interface that carries every subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface name, at most 15 bytes.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
}
