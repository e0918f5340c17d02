//! Leases: ports that devices opened by themselves, each with an owner and an expiry.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Device, DeviceId, Forward, ForwardId, GatewayId, LeaseId, Origin, State, Subnet};
use crate::facts::{Facts, Listener};
use crate::protocol::{PortRange, Protocol};
use crate::uplink::{self, Uplink};

/// One lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Identifier.
    pub id: LeaseId,
    /// The gateway that lets the packets in.
    #[serde(default)]
    pub gateway: GatewayId,
    /// The device that the packets are for.
    pub device: DeviceId,
    /// The other device that asked for it (RFC 6887 section 13.1), as long as it may; none: its own did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asking: Option<DeviceId>,
    /// The protocol that it was asked for by.
    pub mechanism: Mechanism,
    /// The address family of both sides.
    pub family: Family,
    /// What it opens.
    pub opening: Opening,
    /// The transport protocol; none: whatever comes in, of which all ports are a part.
    #[serde(with = "crate::protocol::or_all")]
    pub protocol: Option<Protocol>,
    /// First port on the device.
    pub internal: u16,
    /// First port that the Internet sees.
    pub external: u16,
    /// How many consecutive ports (RFC 7753); one unless a set was asked for.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u16,
    /// Who knows it may renew and end the lease (RFC 6887 section 11.3); only for PCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Nonce>,
    /// The only remote peers that are let in; empty: all (RFC 6887 section 13.3).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub filters: BTreeSet<Filter>,
    /// The remote end of an outbound lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<SocketAddr>,
    /// TLS names that lead to the device on this port; empty: the whole port does.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub hostnames: BTreeSet<String>,
    /// What the device said of it (UPnP).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Seconds since 1970 after which it is no more in force. Renewals within the time that is stored need no write, so it
    /// is later than what the device was told, by [`Lease::lag`] at the most.
    pub expires: u64,
    /// Seconds since 1970 until which its port is kept for the device although the lease has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<u64>,
}

const fn one() -> u16 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_one(count: &u16) -> bool {
    *count == 1
}

/// The protocols by which devices open ports.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// Port Control Protocol, RFC 6887.
    Pcp,
    /// NAT Port Mapping Protocol, RFC 6886.
    NatPmp,
    /// UPnP Internet Gateway Device.
    Upnp,
}

impl Mechanism {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Pcp, Self::NatPmp, Self::Upnp];

    /// The name as users see it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcp => "pcp",
            Self::NatPmp => "nat-pmp",
            Self::Upnp => "upnp",
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// An address family.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Internet Protocol version 4.
    Ipv4,
    /// Internet Protocol version 6.
    Ipv6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

/// What a lease opens.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Opening {
    /// A port of the gateway that leads to the device.
    Forward,
    /// A port of the device's own global IPv6 address; another number is translated on the way.
    Pinhole,
    /// Only what the device sends: it keeps the external port (PEER, RFC 6887 section 12).
    Outbound,
}

/// What a PCP client made up to show that it is the one that asked before. It is a secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub [u8; 12]);

impl fmt::Debug for Nonce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Nonce(…)")
    }
}

impl Serialize for Nonce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number = u128::from_str_radix(&text, 16).ok();
        let number = number.filter(|_| text.len() == 24 && text.is_ascii());
        let bytes = number.map(u128::to_be_bytes);
        let mut nonce = [0; 12];
        match bytes.as_ref().and_then(|bytes| bytes.get(4..)) {
            Some(bytes) => nonce.copy_from_slice(bytes),
            None => {
                return Err(serde::de::Error::custom(
                    "a nonce has 24 hexadecimal digits",
                ));
            }
        }
        Ok(Self(nonce))
    }
}

/// Remote peers that are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Filter {
    /// Their addresses.
    pub network: IpNet,
    /// Their port; 0: all.
    pub port: u16,
}

impl Filter {
    /// Whether it lets in all that another one does.
    pub fn covers(&self, other: &Self) -> bool {
        let ports = self.port == 0 || self.port == other.port;
        ports && self.network.contains(&other.network)
    }
}

impl Lease {
    /// How much longer than was asked a lease may live when the gateway was restarted, for a lifetime in seconds.
    pub const fn lag(lifetime: u32) -> u64 {
        let quarter = lifetime / 4;
        if quarter < 3600 { quarter as u64 } else { 3600 }
    }

    /// First port on the device, first public port and count of all ports of a device's own address.
    pub(crate) const WHOLE: (u16, u16, u16) = (1, 1, u16::MAX);

    /// Whether it is one of all ports, beside which there may be others of single ports.
    pub fn is_whole(&self) -> bool {
        (self.internal, self.external, self.count) == Self::WHOLE
    }

    /// Whether what it opens is of some protocols alone.
    pub fn is_of(&self, protocols: &BTreeSet<Protocol>) -> bool {
        (self.protocol).is_some_and(|protocol| protocols.contains(&protocol))
    }

    /// How many of the ports that a device may have it takes: all at once take none from anyone.
    pub fn weight(&self) -> u16 {
        if self.is_whole() { 1 } else { self.count }
    }

    /// Whether it opens its port, or only keeps it from others.
    pub const fn is_open(&self) -> bool {
        self.kept.is_none()
    }

    /// Whether it is in force at a time, as far as time is concerned (seconds since 1970).
    pub const fn is_valid(&self, now: u64) -> bool {
        self.is_open() && now < self.expires
    }

    /// When it goes: it ends, or its port is no more kept.
    pub fn end(&self) -> u64 {
        self.kept.unwrap_or(self.expires)
    }

    /// Whether it has names, by which it shares its port with others.
    pub fn is_named(&self) -> bool {
        !self.hostnames.is_empty()
    }

    /// Whether it can be on one port with a forward: one of another name, or one that takes what no name takes.
    pub fn shares_with(&self, forward: &Forward) -> bool {
        self.is_named()
            && match &forward.hostname {
                Some(name) => !self.hostnames.contains(name),
                None => forward.port == forward.port_end,
            }
    }

    /// Whether it can be on one port with another lease: both have names, and none in common.
    pub fn is_beside(&self, other: &Self) -> bool {
        self.is_named() && other.is_named() && self.hostnames.is_disjoint(&other.hostnames)
    }

    /// The ports that the Internet sees; none only for a stored object that no decision made.
    pub fn external_ports(&self) -> Option<PortRange> {
        span(self.external, self.count)
    }

    /// The ports on the device.
    pub fn internal_ports(&self) -> Option<PortRange> {
        span(self.internal, self.count)
    }

    /// Whether the numbers of the ports are the same on both sides.
    pub const fn keeps_numbers(&self) -> bool {
        self.internal == self.external
    }

    /// Its public address as it is on this host's interfaces; of a pinhole, the device's own.
    pub fn local_address(
        &self,
        subnet: &Subnet,
        device: &Device,
        uplinks: &[Uplink],
        facts: &Facts,
    ) -> Option<IpAddr> {
        let own = || subnet.ipv6_of(device.ipv4).map(IpAddr::V6);
        match (self.opening, self.family) {
            (Opening::Forward | Opening::Outbound, Family::Ipv4) => {
                uplink::place_ipv4(uplinks, facts, subnet, device)
                    .map(|(_, address)| IpAddr::V4(address))
            }
            (Opening::Forward, Family::Ipv6) => uplink::place_ipv6(uplinks, facts, subnet, device)
                .map(|(_, address)| IpAddr::V6(address)),
            (Opening::Outbound, Family::Ipv6) => {
                let place = uplink::place_ipv6(uplinks, facts, subnet, device);
                place.map(|(_, address)| IpAddr::V6(address)).or_else(own)
            }
            (Opening::Pinhole, Family::Ipv4 | Family::Ipv6) => own(),
        }
    }

    /// The service of this host that has its port; the lease is suspended then.
    pub fn conflict<'a>(&self, local: IpAddr, facts: &'a Facts) -> Option<&'a Listener> {
        match self.opening {
            Opening::Forward | Opening::Outbound => self
                .as_forward(Some(local))?
                .listener(&[local].into(), facts),
            Opening::Pinhole => None,
        }
    }

    /// The same as a forward of a local address that keeps the numbers of the ports.
    pub(crate) fn as_forward(&self, address: Option<IpAddr>) -> Option<Forward> {
        let ports = self.external_ports()?;
        Some(Forward {
            id: ForwardId(self.id.0),
            gateway: self.gateway,
            address,
            port: ports.first(),
            port_end: ports.last(),
            protocols: self.protocol.into_iter().collect(),
            device: self.device,
            target_port: self.internal,
            hostname: None,
            proxy_protocol: false,
            label: String::new(),
            enabled: true,
            origin: Origin::Lease,
        })
    }
}

/// What an address on a host's interface is known as on the Internet.
pub fn advertised(address: IpAddr, uplinks: &[Uplink]) -> IpAddr {
    let IpAddr::V4(local) = address else {
        return address;
    };
    let uplink = uplinks
        .iter()
        .find(|uplink| uplink.local_ipv4() == Some(local));
    let outside = uplink.and_then(|uplink| uplink.advertised);
    outside.map_or(address, IpAddr::V4)
}

impl State {
    /// Where a lease is on this host: its address, and the service that suspends it.
    pub fn lease_place<'a>(
        &self,
        lease: &Lease,
        uplinks: &[Uplink],
        facts: &'a Facts,
    ) -> Option<(IpAddr, Option<&'a Listener>)> {
        let device = self.devices.get(&lease.device)?;
        let subnet = self.subnets.get(&device.subnet)?;
        let local = lease.local_address(subnet, device, uplinks, facts)?;
        Some((local, lease.conflict(local, facts)))
    }

    /// The address of its device that a lease leads to.
    pub fn lease_target(&self, lease: &Lease) -> Option<IpAddr> {
        self.address_of(lease.device, lease.family)
    }

    /// The address of a device inside the tunnel.
    pub fn address_of(&self, device: DeviceId, family: Family) -> Option<IpAddr> {
        let device = self.devices.get(&device)?;
        match family {
            Family::Ipv4 => Some(IpAddr::V4(device.ipv4)),
            Family::Ipv6 => {
                let subnet = self.subnets.get(&device.subnet)?;
                subnet.ipv6_of(device.ipv4).map(IpAddr::V6)
            }
        }
    }
}

fn span(first: u16, count: u16) -> Option<PortRange> {
    PortRange::new(first, first.checked_add(count.checked_sub(1)?)?)
}
