//! Uplinks as they are: the interfaces with a default route, with what was said about them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::address;
use crate::facts::Facts;
use crate::state::{Delivery, Device, Egress, State, Subnet};

/// The shortest prefix whose addresses are answered for one by one, where the provider asks for them on the link.
pub const SHORTEST_PROXIED: u8 = 120;

/// One uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Id of its stored settings, or 0.
    pub id: u64,
    /// Interface name.
    pub name: String,
    /// IPv4 addresses on it.
    pub ipv4: Vec<Ipv4Addr>,
    /// IPv6 addresses on it, link-local ones left out.
    pub ipv6: Vec<Ipv6Addr>,
    /// What the Internet sees of its own IPv4 address.
    pub advertised: Option<Ipv4Addr>,
    /// What devices connect to, if it was said.
    pub endpoint: Option<String>,
    /// Prefixes on the link, link-local ones left out.
    pub on_link: BTreeSet<IpNet>,
    /// Next hops of its default routes.
    pub next_hops: BTreeSet<IpAddr>,
    /// MTU in bytes.
    pub mtu: u32,
}

impl Uplink {
    /// The IPv4 address of its own that is used: of several the one that is advertised, else the first that the Internet can
    /// reach, or, where a foreign one is advertised, the first private one, which is what a provider translates to.
    pub fn local_ipv4(&self) -> Option<Ipv4Addr> {
        let own = self.advertised.filter(|own| self.ipv4.contains(own));
        let is_translated = self.advertised.is_some();
        let mut addresses = self.ipv4.iter().copied();
        own.or_else(|| addresses.find(|address| address::is_private(*address) == is_translated))
            .or_else(|| self.ipv4.first().copied())
    }

    /// Its first global IPv6 address.
    pub fn local_ipv6(&self) -> Option<Ipv6Addr> {
        self.ipv6
            .iter()
            .copied()
            .find(|address| !address::is_unique_local(*address))
    }

    /// What the Internet sees of it: the advertised IPv4 address, else the local one if the Internet can reach that.
    pub fn public_ipv4(&self) -> Option<Ipv4Addr> {
        let local = || {
            self.local_ipv4()
                .filter(|address| !address::is_private(*address))
        };
        self.advertised.or_else(local)
    }

    /// The private address behind which it has a public one that nobody has told.
    pub fn unadvertised(&self) -> Option<Ipv4Addr> {
        let local = self.local_ipv4()?;
        (self.advertised.is_none() && address::is_private(local)).then_some(local)
    }

    /// What devices connect to: what was said, else the public IPv4 address, else IPv6.
    pub fn endpoint_host(&self) -> Option<String> {
        self.endpoint
            .clone()
            .or_else(|| self.public_ipv4().map(|address| address.to_string()))
            .or_else(|| self.local_ipv6().map(|address| address.to_string()))
    }

    /// Whether an address is its own, or the advertised one.
    pub fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4.contains(&address) || self.advertised == Some(address),
            IpAddr::V6(address) => self.ipv6.contains(&address),
        }
    }
}

/// Whether IPv6 can be used: the kernel has it, and it is not switched off for new interfaces.
pub fn has_ipv6(facts: &Facts) -> bool {
    let off = facts
        .sysctls
        .get("net/ipv6/conf/all/disable_ipv6")
        .is_some_and(|value| value.trim() == "1");
    facts.ipv6 && !off
}

/// All uplinks of this host, by name.
pub fn list(state: &State, facts: &Facts) -> Vec<Uplink> {
    let names: BTreeSet<&str> = facts
        .routes
        .iter()
        .filter(|route| route.destination.prefix_len() == 0)
        .map(|route| route.interface.as_str())
        .collect();
    names
        .into_iter()
        .map(|name| describe(name, state, facts))
        .collect()
}

fn describe(name: &str, state: &State, facts: &Facts) -> Uplink {
    let stored = state.uplink(name);
    let next_hops = facts
        .routes
        .iter()
        .filter(|route| route.interface == name && route.destination.prefix_len() == 0)
        .filter_map(|route| route.gateway)
        .collect();
    let by_address = facts
        .addresses
        .iter()
        .filter(|fact| {
            fact.interface == name && fact.address.prefix_len() < fact.address.max_prefix_len()
        })
        .map(|fact| fact.address.trunc());
    let by_route = facts
        .routes
        .iter()
        .filter(|route| {
            route.interface == name && route.gateway.is_none() && route.destination.prefix_len() > 0
        })
        .map(|route| route.destination);
    let on_link = by_address
        .chain(by_route)
        .filter(|net| !is_link_scope(*net))
        .collect();
    Uplink {
        id: stored.map_or(0, |uplink| uplink.id.0),
        name: name.to_owned(),
        ipv4: facts.ipv4_of(name).collect(),
        ipv6: facts.ipv6_of(name).collect(),
        advertised: stored.and_then(|uplink| uplink.advertised),
        endpoint: stored.and_then(|uplink| uplink.endpoint.clone()),
        on_link,
        next_hops,
        mtu: facts.links.get(name).map_or(1500, |link| link.mtu),
    }
}

fn is_link_scope(net: IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.addr().is_link_local(),
        IpNet::V6(net) => net.addr().is_unicast_link_local() || net.addr().is_multicast(),
    }
}

/// The addresses of this host, on whatever link, and the next hops of its default routes, with their owners in words:
/// a device that had one would take the Internet away from the host.
pub fn own_and_next_hops(uplinks: &[Uplink], facts: &Facts) -> BTreeMap<IpAddr, String> {
    let hops = uplinks.iter().flat_map(|uplink| {
        uplink
            .next_hops
            .iter()
            .map(|hop| (*hop, format!("the next hop of uplink {}", uplink.name)))
    });
    let own = facts.addresses.iter().map(|fact| {
        (
            fact.address.addr(),
            format!("this host ({})", fact.interface),
        )
    });
    hops.chain(own)
        .filter(|(address, _)| match address {
            IpAddr::V4(address) => !address.is_link_local(),
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        })
        .collect()
}

/// Every address that can be no device's: [`own_and_next_hops`], and on each uplink the subnet-router anycast address
/// (RFC 4291 section 2.6.1; not on a /127, RFC 6164 section 5.1) and the single hosts that a route names.
pub fn reserved(uplinks: &[Uplink], facts: &Facts) -> BTreeMap<IpAddr, String> {
    let mut reserved = own_and_next_hops(uplinks, facts);
    for uplink in uplinks {
        for net in &uplink.on_link {
            let owner = match net {
                IpNet::V6(net) if net.prefix_len() <= 126 => {
                    format!("the routers of uplink {} (anycast)", uplink.name)
                }
                net if net.prefix_len() == net.max_prefix_len() => {
                    format!("a host on the link of uplink {}", uplink.name)
                }
                IpNet::V4(_) | IpNet::V6(_) => continue,
            };
            reserved.entry(net.network()).or_insert(owner);
        }
    }
    reserved
}

/// The uplink that a prefix lies on: one whose on-link prefix it lies in, equals or contains.
pub fn carrying(uplinks: &[Uplink], prefix: Ipv6Net) -> Option<&Uplink> {
    uplinks.iter().find(|uplink| {
        uplink.on_link.iter().any(|net| match net {
            IpNet::V6(net) => net.contains(&prefix) || prefix.contains(net),
            IpNet::V4(_) => false,
        })
    })
}

/// Whether a subnet's prefix has to be answered for on an uplink, and on which.
pub fn on_link_for<'a>(uplinks: &'a [Uplink], subnet: &Subnet) -> Option<&'a Uplink> {
    let prefix = subnet.global_ipv6()?;
    match subnet.delivery {
        Delivery::Routed => None,
        Delivery::Auto => carrying(uplinks, prefix),
        Delivery::OnLink => {
            let has_ipv6 = |uplink: &&Uplink| !uplink.ipv6.is_empty();
            let by_egress = || of_egress(uplinks, subnet.egress.as_ref()?).filter(has_ipv6);
            carrying(uplinks, prefix)
                .or_else(by_egress)
                .or_else(|| uplinks.iter().find(has_ipv6))
        }
    }
}

/// What packets prove of the way in which a prefix is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// What is for it arrives, and nobody asks for its addresses.
    Routed,
    /// The provider asks for its addresses by Neighbor Discovery.
    OnLink,
    /// Devices have sent from it, and nothing came back although IPv6 works on the uplink.
    #[serde(rename = "none")]
    Nothing,
    /// Nothing has been seen that would prove anything.
    Unknown,
}

/// How a subnet's global prefix is delivered, as far as packets have shown it.
pub fn proven(uplinks: &[Uplink], facts: &Facts, subnet: &Subnet) -> Option<Proof> {
    let prefix = subnet.global_ipv6()?;
    let of = |address| facts.evidence.get(&address).copied().unwrap_or_default();
    let seen = of(prefix.network());
    let works = || {
        let mut own = uplinks.iter().flat_map(|uplink| uplink.ipv6.iter());
        own.any(|address| of(*address).heard)
    };
    Some(if seen.asked {
        Proof::OnLink
    } else if seen.heard {
        Proof::Routed
    } else if seen.spoke && works() {
        Proof::Nothing
    } else {
        Proof::Unknown
    })
}

/// The uplink on which a prefix that is delegated in a subnet has to be answered for.
pub fn proxied_on<'a>(
    uplinks: &'a [Uplink],
    subnet: &Subnet,
    prefix: Ipv6Net,
) -> Option<&'a Uplink> {
    if subnet.ipv6.is_some_and(|own| own.contains(&prefix)) {
        return on_link_for(uplinks, subnet);
    }
    match subnet.delivery {
        Delivery::Routed => None,
        Delivery::Auto | Delivery::OnLink => {
            carrying(uplinks, prefix).filter(|_| !address::is_unique_local(prefix.network()))
        }
    }
}

/// The uplink of a subnet in one address family: the one its prefix lies on, else its egress, else that of the best
/// default route; among those that have an address of the family.
pub fn of_subnet<'a>(
    uplinks: &'a [Uplink],
    facts: &Facts,
    subnet: &Subnet,
    ipv6: bool,
) -> Option<&'a Uplink> {
    let by_prefix = subnet
        .global_ipv6()
        .and_then(|prefix| carrying(uplinks, prefix));
    let by_egress = subnet
        .egress
        .as_ref()
        .and_then(|egress| of_egress(uplinks, egress));
    let by_default = facts
        .default_interface(ipv6)
        .and_then(|route| uplinks.iter().find(|uplink| uplink.name == route.interface));
    // Global addresses are not translated, so their uplink needs none of its own, only a way out.
    let global = subnet.local_ipv6().is_none();
    let usable = |uplink: &&Uplink| {
        if ipv6 {
            let leads_out = || uplink.next_hops.iter().any(IpAddr::is_ipv6);
            uplink.local_ipv6().is_some() || (global && leads_out())
        } else {
            uplink.local_ipv4().is_some()
        }
    };
    [by_prefix, by_egress, by_default]
        .into_iter()
        .flatten()
        .find(usable)
}

/// The uplink that devices of a subnet connect to.
pub fn endpoint_of<'a>(
    uplinks: &'a [Uplink],
    facts: &Facts,
    subnet: &Subnet,
) -> Option<&'a Uplink> {
    of_subnet(uplinks, facts, subnet, false)
        .or_else(|| of_subnet(uplinks, facts, subnet, true))
        .or_else(|| uplinks.first())
}

/// The uplink that a device has chosen for itself in one address family, as far as it can be had. What is not translated
/// leaves by the uplink of its prefix: any other provider would drop it (BCP 38).
pub fn chosen<'a>(
    uplinks: &'a [Uplink],
    subnet: &Subnet,
    device: &Device,
    ipv6: bool,
) -> Option<&'a Uplink> {
    let egress = device.egress.as_ref()?;
    if ipv6 && subnet.local_ipv6().is_none() {
        return None;
    }
    of_egress(uplinks, egress).filter(|uplink| {
        if ipv6 {
            uplink.local_ipv6().is_some()
        } else {
            uplink.local_ipv4().is_some()
        }
    })
}

/// The uplink and the IPv4 address of a device on the Internet's side of the host.
pub fn place_ipv4<'a>(
    uplinks: &'a [Uplink],
    facts: &Facts,
    subnet: &Subnet,
    device: &Device,
) -> Option<(&'a Uplink, Ipv4Addr)> {
    let (uplink, egress) = match chosen(uplinks, subnet, device, false) {
        Some(uplink) => (uplink, &device.egress),
        None => (of_subnet(uplinks, facts, subnet, false)?, &subnet.egress),
    };
    Some((uplink, source_ipv4(uplink, egress.as_ref())?))
}

/// The same for IPv6, where the subnet's prefix is a unique local one.
pub fn place_ipv6<'a>(
    uplinks: &'a [Uplink],
    facts: &Facts,
    subnet: &Subnet,
    device: &Device,
) -> Option<(&'a Uplink, Ipv6Addr)> {
    subnet.local_ipv6()?;
    let (uplink, egress) = match chosen(uplinks, subnet, device, true) {
        Some(uplink) => (uplink, &device.egress),
        None => (of_subnet(uplinks, facts, subnet, true)?, &subnet.egress),
    };
    Some((uplink, source_ipv6(uplink, egress.as_ref())?))
}

/// The IPv4 address that packets have on the Internet's side of the host.
pub fn source_ipv4(uplink: &Uplink, egress: Option<&Egress>) -> Option<Ipv4Addr> {
    match egress {
        Some(Egress::Address(IpAddr::V4(address))) if uplink.ipv4.contains(address) => {
            Some(*address)
        }
        Some(Egress::Address(_) | Egress::Interface(_)) | None => uplink.local_ipv4(),
    }
}

/// The IPv6 address that packets from a unique local prefix have on the Internet's side.
pub fn source_ipv6(uplink: &Uplink, egress: Option<&Egress>) -> Option<Ipv6Addr> {
    match egress {
        Some(Egress::Address(IpAddr::V6(address))) if uplink.ipv6.contains(address) => {
            Some(*address)
        }
        Some(Egress::Address(_) | Egress::Interface(_)) | None => uplink.local_ipv6(),
    }
}

/// The uplink that an egress names.
pub fn of_egress<'a>(uplinks: &'a [Uplink], egress: &Egress) -> Option<&'a Uplink> {
    match egress {
        Egress::Address(address) => uplinks.iter().find(|uplink| uplink.has(*address)),
        Egress::Interface(name) => uplinks.iter().find(|uplink| uplink.name == *name),
    }
}
