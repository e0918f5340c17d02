//! What the kernel shall hold, derived from state and facts; one file a kind of kernel object.

pub mod address;
pub mod derive;
pub mod firewall;
pub mod link;
pub mod names;
pub mod neighbor;
pub mod route;
pub mod rule;
pub mod sysctl;
pub mod wireguard;

use std::collections::BTreeSet;

use imbl::OrdSet;

use self::address::Address;
use self::firewall::Firewall;
use self::link::Link;
use self::names::Names;
use self::neighbor::ProxyNeighbor;
use self::route::Route;
use self::rule::Rule;
use self::sysctl::Sysctls;
use self::wireguard::WireGuard;

/// Everything of ours that this host shall hold; the empty one withdraws it all. What grows with the network is in
/// persistent collections: a copy is free, and the difference of two is found without looking at what they share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The tunnel interface.
    pub link: Option<Link>,
    /// What the tunnel interface carries.
    pub wireguard: Option<WireGuard>,
    /// Addresses on the tunnel interface.
    pub addresses: BTreeSet<Address>,
    /// Routes with our protocol number.
    pub routes: OrdSet<Route>,
    /// Rules with our protocol number.
    pub rules: OrdSet<Rule>,
    /// Proxy neighbour entries with our protocol number.
    pub neighbors: OrdSet<ProxyNeighbor>,
    /// Kernel settings.
    pub sysctls: Sysctls,
    /// Our nftables table.
    pub firewall: Option<Firewall>,
    /// What the front does; no object of the kernel's.
    pub names: Names,
}
