//! Derives what the kernel shall hold from state and facts.

mod firewall;
mod routing;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Desired;
use super::address::Address;
use super::link::Link;
use super::neighbor::ProxyNeighbor;
use super::sysctl::Sysctls;
use super::wireguard::{Peer, WireGuard};
use crate::configuration;
use crate::facts::Facts;
use crate::key::PrivateKey;
use crate::state::{Device, State, Subnet};
use crate::uplink::{self, Uplink};

/// All that the derivation reads.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// What was committed.
    pub state: &'a State,
    /// What this host is like.
    pub facts: &'a Facts,
    /// Name of the tunnel interface.
    pub interface: &'a str,
    /// The gateway's key.
    pub private_key: &'a PrivateKey,
    /// Seconds since 1970; expired devices are left out.
    pub now: u64,
}

/// The tunnel's MTU in bytes, and the reason for people.
pub fn mtu(state: &State, facts: &Facts) -> (u16, String) {
    if let Some(mtu) = state.settings.mtu {
        return (mtu, "set by an administrator (`mtu`)".to_owned());
    }
    let uplinks = uplink::list(state, facts);
    let narrowest = uplinks.iter().min_by_key(|uplink| uplink.mtu);
    let (mtu, reason) = configuration::mtu(
        narrowest.map_or(1500, |uplink| u16::try_from(uplink.mtu).unwrap_or(u16::MAX)),
    );
    match narrowest {
        Some(uplink) => (mtu, format!("{reason}; uplink {}", uplink.name)),
        None => (mtu, format!("{reason}; no uplink yet")),
    }
}

/// Derives everything. Without subnets only the interface is wanted.
pub fn derive(inputs: &Inputs<'_>) -> Desired {
    let context = Context::new(inputs);
    let mut routes = routing::routes(&context);
    let rules = routing::rules(&context, &mut routes);
    let neighbors = routing::neighbors(&context);
    Desired {
        link: Some(Link {
            name: inputs.interface.to_owned(),
            mtu: context.mtu.into(),
        }),
        wireguard: Some(wireguard(&context)),
        addresses: addresses(&context),
        routes,
        rules,
        sysctls: sysctls(&context, &neighbors),
        neighbors,
        firewall: Some(firewall::derive(&context)),
    }
}

/// The inputs, and what several kinds of objects are derived from.
struct Context<'a> {
    inputs: &'a Inputs<'a>,
    uplinks: Vec<Uplink>,
    /// Whether IPv6 can be used on this host.
    ipv6: bool,
    /// Addresses that the host itself needs. Decisions keep devices off them, but the host may get them later.
    foreign: BTreeSet<IpAddr>,
    mtu: u16,
    members: BTreeMap<u64, Members<'a>>,
}

/// A subnet with its devices that may connect.
struct Members<'a> {
    subnet: &'a Subnet,
    devices: Vec<Member<'a>>,
    /// Prefixes of devices that may not connect now; what is sent there must not go back to the Internet.
    idle: BTreeSet<IpNet>,
}

/// A device with its prefixes.
struct Member<'a> {
    device: &'a Device,
    addresses: Vec<IpAddr>,
    delegations: Vec<IpNet>,
}

impl<'a> Context<'a> {
    fn new(inputs: &'a Inputs<'a>) -> Self {
        let state = inputs.state;
        let uplinks = uplink::list(state, inputs.facts);
        let foreign: BTreeSet<IpAddr> = uplink::own_and_next_hops(&uplinks, inputs.facts)
            .into_keys()
            .collect();
        let is_free = |net: IpNet| {
            foreign
                .range(net.network()..=net.broadcast())
                .next()
                .is_none()
        };
        let mut delegations: BTreeMap<_, Vec<IpNet>> = BTreeMap::new();
        for delegation in state.delegations.values() {
            if is_free(delegation.prefix) {
                delegations
                    .entry(delegation.device)
                    .or_default()
                    .push(delegation.prefix);
            }
        }
        let mut members: BTreeMap<u64, Members<'a>> = state
            .subnets
            .values()
            .map(|subnet| {
                (
                    subnet.id.0,
                    Members {
                        subnet,
                        devices: Vec::new(),
                        idle: BTreeSet::new(),
                    },
                )
            })
            .collect();
        for device in state.devices.values() {
            let Some(members) = members.get_mut(&device.subnet.0) else {
                continue;
            };
            let delegations = delegations.remove(&device.id).unwrap_or_default();
            if device.is_active(inputs.now) {
                let ipv6 = members.subnet.ipv6_of(device.ipv4).map(IpAddr::V6);
                let addresses = [IpAddr::V4(device.ipv4)].into_iter().chain(ipv6);
                members.devices.push(Member {
                    device,
                    addresses: addresses
                        .filter(|address| !foreign.contains(address))
                        .collect(),
                    delegations,
                });
            } else {
                let own = members.subnet.ipv6.map(IpNet::V6);
                members.idle.extend(
                    delegations
                        .into_iter()
                        .filter(|net| !own.is_some_and(|own| own.contains(net))),
                );
            }
        }
        Self {
            inputs,
            uplinks,
            ipv6: uplink::has_ipv6(inputs.facts),
            foreign,
            mtu: mtu(state, inputs.facts).0,
            members,
        }
    }

    fn subnets(&self) -> impl Iterator<Item = &'a Subnet> + '_ {
        self.members.values().map(|members| members.subnet)
    }

    /// Every device that may connect, with its subnet.
    fn active(&self) -> impl Iterator<Item = (&'a Subnet, &Member<'a>)> {
        self.members.values().flat_map(|members| {
            members
                .devices
                .iter()
                .map(move |member| (members.subnet, member))
        })
    }
}

impl Context<'_> {
    /// The gateway's IPv6 address in a subnet, where IPv6 can be used.
    fn gateway_ipv6(&self, subnet: &Subnet) -> Option<Ipv6Addr> {
        subnet
            .gateway_ipv6()
            .filter(|address| self.ipv6 && !self.foreign.contains(&IpAddr::V6(*address)))
    }
}

impl Member<'_> {
    fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }
}

/// An address as a network of its own.
fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

fn wireguard(context: &Context<'_>) -> WireGuard {
    let peers = context
        .active()
        .map(|(_, member)| {
            let delegations = member.delegations.iter().copied();
            let hosts = member.addresses.iter().copied().map(host);
            let allowed_ips: BTreeSet<IpNet> = hosts.chain(delegations).collect();
            let peer = Peer {
                preshared_key: member.device.preshared_key,
                allowed_ips,
            };
            (member.device.public_key, peer)
        })
        .collect();
    WireGuard {
        private_key: *context.inputs.private_key,
        listen_port: context.inputs.state.settings.listen_port,
        peers,
    }
}

fn addresses(context: &Context<'_>) -> BTreeSet<Address> {
    let interface = context.inputs.interface;
    context
        .subnets()
        .flat_map(|subnet| {
            let ipv6 = context.gateway_ipv6(subnet).map(IpAddr::V6);
            [IpAddr::V4(subnet.gateway_ipv4())].into_iter().chain(ipv6)
        })
        .filter(|address| !context.foreign.contains(address))
        .map(|address| Address {
            interface: interface.to_owned(),
            address: host(address),
        })
        .collect()
}

fn sysctls(context: &Context<'_>, neighbors: &BTreeSet<ProxyNeighbor>) -> Sysctls {
    let facts = context.inputs.facts;
    let mut sysctls = Sysctls::new();
    let mut set = |path: String, value: &str| {
        sysctls.insert(path, value.to_owned());
    };
    if context.members.is_empty() {
        return sysctls;
    }
    set("net/ipv4/conf/all/forwarding".to_owned(), "1");
    if !context.ipv6 || context.members.values().all(|it| networks6(it).is_empty()) {
        return sysctls;
    }
    let lost = facts.default_interface(true).is_none();
    for uplink in &context.uplinks {
        let path = format!("net/ipv6/conf/{}/accept_ra", uplink.name);
        // 0: something in user space handles router advertisements (networkd, NetworkManager); 2: it is right already,
        // and stays wanted, or a lost default route could never come back. Without any default route the advertisement
        // may be still to come, as it is right after boot.
        let learnt = facts.routes.iter().any(|route| {
            route.interface == uplink.name
                && route.from_router_advertisement
                && route.destination == IpNet::V6(Ipv6Net::default())
        });
        match facts.sysctls.get(&path).map(|value| value.trim()) {
            Some("1") if learnt || lost => set(path, "2"),
            Some("2") => set(path, "2"),
            None if learnt => set(path, "2"),
            Some(_) | None => {}
        }
    }
    let proxies: BTreeSet<&str> = neighbors
        .iter()
        .map(|neighbor| neighbor.interface.as_str())
        .collect();
    for interface in proxies {
        set(format!("net/ipv6/conf/{interface}/proxy_ndp"), "1");
        set(format!("net/ipv6/neigh/{interface}/proxy_delay"), "0");
    }
    set("net/ipv6/conf/all/forwarding".to_owned(), "1");
    sysctls
}

/// The IPv4 networks of a subnet: its own, and those delegated to its devices.
fn networks4(members: &Members<'_>) -> BTreeSet<Ipv4Net> {
    let delegated = members
        .devices
        .iter()
        .flat_map(|member| member.delegations.iter())
        .filter_map(|net| match net {
            IpNet::V4(net) => Some(*net),
            IpNet::V6(_) => None,
        });
    [members.subnet.ipv4].into_iter().chain(delegated).collect()
}

/// The IPv6 networks of a subnet: its prefix, and delegated ones outside it.
fn networks6(members: &Members<'_>) -> BTreeSet<Ipv6Net> {
    let own = members.subnet.ipv6;
    let delegated = members
        .devices
        .iter()
        .flat_map(|member| member.delegations.iter())
        .filter_map(|net| match net {
            IpNet::V6(net) if !own.is_some_and(|own| own.contains(net)) => Some(*net),
            IpNet::V4(_) | IpNet::V6(_) => None,
        });
    own.into_iter().chain(delegated).collect()
}
