//! Devices: WireGuard peers.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{DeviceId, Egress, SubnetId};
use crate::configuration::Routing;
use crate::desired::names::{HTTP, HTTPS};
use crate::key::{PresharedKey, PublicKey};
use crate::protocol::PortRange;

/// One device. Its IPv6 address is derived from its IPv4 address and the subnet's prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Identifier.
    pub id: DeviceId,
    /// Its subnet.
    pub subnet: SubnetId,
    /// Unique name.
    pub name: String,
    /// What it may do by itself.
    pub kind: DeviceKind,
    /// What it sends through the tunnel.
    pub routing: Routing,
    /// Its IPv4 address in the subnet.
    pub ipv4: Ipv4Addr,
    /// Its WireGuard key.
    pub public_key: PublicKey,
    /// The key shared with it besides.
    pub preshared_key: PresharedKey,
    /// Where its translated traffic leaves, if not as its subnet's.
    #[serde(default)]
    pub egress: Option<Egress>,
    /// Whether it may connect.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Seconds since 1970 after which it may not connect.
    #[serde(default)]
    pub expires: Option<u64>,
    /// What it may open by itself.
    #[serde(default)]
    pub port_policy: PortPolicy,
}

/// What a device may open by itself; what is not said is as usual for its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct PortPolicy {
    /// Whether it may; unless said, a server may and a client may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_ports: Option<bool>,
    /// How many ports it may have open at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_quota: Option<u32>,
    /// How many requests are answered each second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_rate: Option<u32>,
    /// The public ports that it may have, first and last of each range; empty: those from 1024.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<(u16, u16)>,
    /// Whether it may open ports for other devices (RFC 6887 section 13.1).
    #[serde(skip_serializing_if = "is_false")]
    pub third_party: bool,
    /// Whether it may open all ports, or all protocols, of its own address at once (RFC 6887 section 11.1).
    #[serde(skip_serializing_if = "is_false")]
    pub all_ports: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_false(value: &bool) -> bool {
    !*value
}

impl PortPolicy {
    /// Ports that one device may have open, unless said.
    pub const LEASE_QUOTA: u32 = 256;

    /// Requests of one device that are answered each second, unless said.
    pub const REQUEST_RATE: u32 = 100;

    /// The most ranges of ports that can be said.
    pub const RANGES: usize = 16;
}

const fn yes() -> bool {
    true
}

/// What a device may do by itself.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// May open ports and publish names.
    Server,
    /// May not.
    #[default]
    Client,
}

impl Device {
    /// Whether it may connect at a time (seconds since 1970).
    pub fn is_active(&self, now: u64) -> bool {
        self.enabled && self.expires.is_none_or(|expires| now < expires)
    }

    /// Whether it may open ports by itself.
    pub fn has_auto_ports(&self) -> bool {
        let usual = match self.kind {
            DeviceKind::Server => true,
            DeviceKind::Client => false,
        };
        self.port_policy.auto_ports.unwrap_or(usual)
    }

    /// How many ports it may have open at a time.
    pub fn lease_quota(&self) -> u32 {
        self.port_policy
            .lease_quota
            .unwrap_or(PortPolicy::LEASE_QUOTA)
    }

    /// How many of its requests are answered each second.
    pub fn request_rate(&self) -> u32 {
        self.port_policy
            .request_rate
            .unwrap_or(PortPolicy::REQUEST_RATE)
    }

    /// Whether it may have these public ports; as names, it may have those of HTTP and HTTPS, which it shares then.
    pub(crate) fn may_open(&self, ports: PortRange, is_named: bool) -> bool {
        let ranges = self.auto_port_ranges();
        let is_inside =
            |range: &PortRange| range.contains(ports.first()) && range.contains(ports.last());
        let is_well_known = ports.is_single() && [HTTP, HTTPS].contains(&ports.first());
        ranges.iter().any(is_inside) || (is_named && is_well_known)
    }

    /// Whether it may have all of its own address; ranges that are said hold for that, too.
    pub(crate) fn may_open_all(&self) -> bool {
        let ranges = self.auto_port_ranges();
        let is_limited = !self.port_policy.ranges.is_empty()
            && !matches!(ranges.as_slice(), [all] if *all == PortRange::ALL);
        self.port_policy.all_ports && !is_limited
    }

    /// The public ports that it may have, in order and without overlaps.
    pub fn auto_port_ranges(&self) -> Vec<PortRange> {
        let said = self.port_policy.ranges.iter();
        let mut said: Vec<PortRange> = said
            .filter_map(|(first, last)| PortRange::new(*first, *last))
            .collect();
        said.sort_unstable();
        if said.is_empty() {
            said.push(PortRange::UNPRIVILEGED);
        }
        let mut ranges: Vec<PortRange> = Vec::new();
        for range in said {
            match ranges.last_mut() {
                Some(last) if last.last().saturating_add(1) >= range.first() => {
                    let end = last.last().max(range.last());
                    *last = PortRange::new(last.first(), end).unwrap_or(*last);
                }
                Some(_) | None => ranges.push(range),
            }
        }
        ranges
    }
}
