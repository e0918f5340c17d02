//! What this host is like: links, addresses, routes, listeners, kernel features. Observed by `host`, read by decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::key::PublicKey;
use crate::protocol::Protocol;

/// Everything about this host that a decision may depend on. Our own objects are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Links by interface name, the tunnel interface and loopback left out.
    pub links: BTreeMap<String, LinkFact>,
    /// Addresses on those links (and on loopback, except 127.0.0.0/8 and ::1), link-local ones included.
    pub addresses: BTreeSet<AddressFact>,
    /// Unicast routes of the main table that are not ours.
    pub routes: BTreeSet<RouteFact>,
    /// Sockets of this host that take connections or datagrams from outside (loopback-only ones left out).
    pub listeners: BTreeSet<Listener>,
    /// The same at the moment of a decision, where they were looked at for it: no port is given that has one. Who has a port
    /// already does not make way for what may be gone the next moment.
    #[serde(default)]
    pub present: BTreeSet<Listener>,
    /// Settings that decisions depend on, by path below `/proc/sys`: `net/ipv4/conf/all/forwarding`,
    /// `net/ipv6/conf/all/forwarding`, `net/ipv4/conf/all/rp_filter`, and per link `net/ipv4/conf/LINK/rp_filter`,
    /// `net/ipv6/conf/LINK/accept_ra`, `.../disable_ipv6`.
    pub sysctls: BTreeMap<String, String>,
    /// What packets have shown of the watched prefixes and of the uplinks' own addresses within the last hour, by first address.
    pub evidence: BTreeMap<Ipv6Addr, Evidence>,
    /// Whether this kernel does IPv6 at all (`/proc/net/if_inet6` is there).
    pub ipv6: bool,
    /// The gateway's own public key, once it is known.
    pub gateway_key: Option<PublicKey>,
}

/// What packets show of how a provider delivers a prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// A router on an uplink's link asked for an address of it by Neighbor Discovery.
    pub asked: bool,
    /// Something came in for it by an uplink.
    pub heard: bool,
    /// Devices have sent from it to the Internet, long enough ago for an answer.
    pub spoke: bool,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFact {
    /// Kernel interface index.
    pub index: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
}

/// An address of this host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressFact {
    /// Interface name.
    pub interface: String,
    /// The address with its prefix length; host bits kept.
    pub address: IpNet,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteFact {
    /// Destination, host bits zero; `0.0.0.0/0` or `::/0` for a default route.
    pub destination: IpNet,
    /// Interface name.
    pub interface: String,
    /// Next hop; none for what is on the link.
    pub gateway: Option<IpAddr>,
    /// Metric; lower wins.
    pub metric: u32,
    /// The kernel learnt it from a router advertisement (route protocol `ra`, 9), so it is lost when forwarding goes on with `accept_ra=1`.
    pub from_router_advertisement: bool,
}

/// A socket that takes connections or datagrams.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listener {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Local address; unspecified for all.
    pub address: IpAddr,
    /// Local port.
    pub port: u16,
    /// Name of the process, if it could be found.
    pub process: Option<String>,
}

impl Listener {
    /// The name of the process that takes connections for TLS names; it listens where forwards say so.
    pub const FRONT: &str = "adit-front";

    /// Whether it is the front's own.
    pub fn is_front(&self) -> bool {
        self.process.as_deref() == Some(Self::FRONT)
    }
}

impl Facts {
    /// The link with the best default route of a family: lowest metric, then name.
    pub fn default_interface(&self, ipv6: bool) -> Option<&RouteFact> {
        self.routes
            .iter()
            .filter(|route| {
                route.destination.prefix_len() == 0 && route.destination.addr().is_ipv6() == ipv6
            })
            .min_by_key(|route| (route.metric, route.interface.clone()))
    }

    /// Whether an address is this host's, on whatever link.
    pub fn has_address(&self, address: IpAddr) -> bool {
        let mut addresses = self.addresses.iter();
        addresses.any(|fact| fact.address.addr() == address)
    }

    /// The IPv4 addresses of an interface, in order.
    pub fn ipv4_of<'a>(&'a self, interface: &'a str) -> impl Iterator<Item = Ipv4Addr> + 'a {
        self.addresses
            .iter()
            .filter(move |fact| fact.interface == interface)
            .filter_map(|fact| match fact.address {
                IpNet::V4(net) => Some(net.addr()),
                IpNet::V6(_) => None,
            })
    }

    /// The IPv6 addresses of an interface that are not link-local, in order.
    pub fn ipv6_of<'a>(&'a self, interface: &'a str) -> impl Iterator<Item = Ipv6Addr> + 'a {
        self.addresses
            .iter()
            .filter(move |fact| fact.interface == interface)
            .filter_map(|fact| match fact.address {
                IpNet::V6(net) if !net.addr().is_unicast_link_local() => Some(net.addr()),
                IpNet::V4(_) | IpNet::V6(_) => None,
            })
    }
}
