//! Tunnel subnets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::SubnetId;
use crate::address;

/// One tunnel subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Identifier.
    pub id: SubnetId,
    /// Unique name.
    pub name: String,
    /// IPv4 network; the gateway has its first host address.
    pub ipv4: Ipv4Net,
    /// IPv6 prefix: global, or a unique local /64 (RFC 4193), or none.
    #[serde(default)]
    pub ipv6: Option<Ipv6Net>,
    /// How the provider brings the prefix to us.
    #[serde(default)]
    pub delivery: Delivery,
    /// Where the subnet's traffic leaves, if not by the default.
    #[serde(default)]
    pub egress: Option<Egress>,
    /// Whether devices of this subnet reach each other.
    #[serde(default = "yes")]
    pub peers: bool,
    /// Whether devices reach the gateway host itself.
    #[serde(default)]
    pub host_access: bool,
    /// Whether the gateway's interface has the gateway's addresses; they are no device's in any case.
    #[serde(default = "yes")]
    pub gateway_address: bool,
}

const fn yes() -> bool {
    true
}

/// How a provider brings a prefix to the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// On-link where the prefix lies on an uplink, else routed.
    #[default]
    Auto,
    /// Routed to an address of ours.
    Routed,
    /// Asked for by Neighbor Discovery.
    OnLink,
}

/// Where traffic leaves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Egress {
    /// With this source address, by the uplink that has it.
    Address(IpAddr),
    /// By this uplink, with its first address.
    Interface(String),
}

impl fmt::Display for Egress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(formatter),
            Self::Interface(name) => formatter.write_str(name),
        }
    }
}

impl FromStr for Egress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let is_interface = !text.is_empty()
            && text.len() <= 15
            && !text.contains('/')
            && !text.chars().any(|c| c.is_whitespace() || c.is_control());
        if is_interface {
            Ok(Self::Interface(text.to_owned()))
        } else {
            let text: String = text.chars().take(100).collect();
            Err(format!("`{text}` is not {}", Self::TAKES))
        }
    }
}

impl Egress {
    /// What its text is, for messages.
    pub const TAKES: &'static str = "an address of this host or the name of an uplink";
}

impl Subnet {
    /// The gateway's IPv4 address in the subnet: its first host.
    pub fn gateway_ipv4(&self) -> Ipv4Addr {
        address::first_host(self.ipv4)
    }

    /// The gateway's IPv6 address in the subnet.
    pub fn gateway_ipv6(&self) -> Option<Ipv6Addr> {
        self.ipv6_of(self.gateway_ipv4())
    }

    /// The addresses of the gateway in the subnet, if it has any there.
    pub fn gateway_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let ipv6 = self.gateway_ipv6().map(IpAddr::V6);
        let all = [IpAddr::V4(self.gateway_ipv4())].into_iter().chain(ipv6);
        all.filter(|_| self.gateway_address)
    }

    /// The IPv6 address of the host with an IPv4 address of this subnet.
    pub fn ipv6_of(&self, ipv4: Ipv4Addr) -> Option<Ipv6Addr> {
        self.ipv6.map(|prefix| address::host_ipv6(prefix, ipv4))
    }

    /// Whether every IPv4 address of the subnet gives another IPv6 address: the prefix has room for all of its host bits.
    pub(crate) fn embeds(&self) -> bool {
        self.ipv6
            .is_none_or(|prefix| prefix.prefix_len() <= 96 + self.ipv4.prefix_len())
    }

    /// The IPv4 address of this subnet that gives an IPv6 address, where every one gives another.
    pub(crate) fn ipv4_of(&self, ipv6: Ipv6Addr) -> Option<Ipv4Addr> {
        let hosts = u32::from(self.ipv4.hostmask());
        let [.., a, b, c, d] = ipv6.octets();
        let low = u32::from_be_bytes([a, b, c, d]);
        let ipv4 = Ipv4Addr::from(u32::from(self.ipv4.network()) | (low & hosts));
        (self.embeds() && self.ipv6_of(ipv4) == Some(ipv6)).then_some(ipv4)
    }

    /// The prefix, if it is a global one (not unique local).
    pub fn global_ipv6(&self) -> Option<Ipv6Net> {
        self.ipv6
            .filter(|prefix| !address::is_unique_local(prefix.network()))
    }

    /// The prefix, if it is a unique local one, which is translated on its way out.
    pub fn local_ipv6(&self) -> Option<Ipv6Net> {
        self.ipv6
            .filter(|prefix| address::is_unique_local(prefix.network()))
    }
}
