//! Derives what the kernel shall hold from state and facts.

mod firewall;
mod routing;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Desired;
use super::address::Address;
use super::link::Link;
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
    Desired {
        link: Some(Link {
            name: inputs.interface.to_owned(),
            mtu: context.mtu.into(),
        }),
        wireguard: Some(wireguard(&context)),
        addresses: addresses(&context),
        routes,
        rules,
        neighbors: routing::neighbors(&context),
        sysctls: sysctls(&context),
        firewall: Some(firewall::derive(&context)),
    }
}

/// The inputs, and what several kinds of objects are derived from.
struct Context<'a> {
    inputs: &'a Inputs<'a>,
    uplinks: Vec<Uplink>,
    mtu: u16,
    members: BTreeMap<u64, Members<'a>>,
}

/// A subnet with its devices that may connect.
struct Members<'a> {
    subnet: &'a Subnet,
    devices: Vec<Member<'a>>,
}

/// A device with its prefixes.
struct Member<'a> {
    device: &'a Device,
    delegations: Vec<IpNet>,
}

impl<'a> Context<'a> {
    fn new(inputs: &'a Inputs<'a>) -> Self {
        let state = inputs.state;
        let mut delegations: BTreeMap<_, Vec<IpNet>> = BTreeMap::new();
        for delegation in state.delegations.values() {
            delegations
                .entry(delegation.device)
                .or_default()
                .push(delegation.prefix);
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
                    },
                )
            })
            .collect();
        for device in state
            .devices
            .values()
            .filter(|device| device.is_active(inputs.now))
        {
            if let Some(members) = members.get_mut(&device.subnet.0) {
                let delegations = delegations.remove(&device.id).unwrap_or_default();
                members.devices.push(Member {
                    device,
                    delegations,
                });
            }
        }
        Self {
            inputs,
            uplinks: uplink::list(state, inputs.facts),
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

impl Member<'_> {
    /// Its host addresses in the tunnel.
    fn addresses(&self, subnet: &Subnet) -> impl Iterator<Item = IpAddr> + use<> {
        let ipv6 = subnet.ipv6_of(self.device.ipv4).map(IpAddr::V6);
        [IpAddr::V4(self.device.ipv4)].into_iter().chain(ipv6)
    }
}

/// An address as a network of its own.
fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

fn wireguard(context: &Context<'_>) -> WireGuard {
    let peers = context
        .active()
        .map(|(subnet, member)| {
            let delegations = member.delegations.iter().copied();
            let allowed_ips: BTreeSet<IpNet> = member
                .addresses(subnet)
                .map(host)
                .chain(delegations)
                .collect();
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
            let ipv6 = subnet
                .gateway_ipv6()
                .filter(|_| context.inputs.facts.ipv6)
                .map(IpAddr::V6);
            [IpAddr::V4(subnet.gateway_ipv4())].into_iter().chain(ipv6)
        })
        .map(|address| Address {
            interface: interface.to_owned(),
            address: host(address),
        })
        .collect()
}

fn sysctls(context: &Context<'_>) -> Sysctls {
    let facts = context.inputs.facts;
    let mut sysctls = Sysctls::new();
    let mut set = |path: String, value: &str| {
        sysctls.insert(path, value.to_owned());
    };
    if context.members.is_empty() {
        return sysctls;
    }
    set("net/ipv4/conf/all/forwarding".to_owned(), "1");
    if !facts.ipv6 || context.subnets().all(|subnet| subnet.ipv6.is_none()) {
        return sysctls;
    }
    for uplink in &context.uplinks {
        let path = format!("net/ipv6/conf/{}/accept_ra", uplink.name);
        // 0: something in user space handles router advertisements (networkd, NetworkManager); 2: it is right already,
        // and stays wanted, or a lost default route could never come back.
        let learnt = facts.routes.iter().any(|route| {
            route.interface == uplink.name
                && route.from_router_advertisement
                && route.destination == IpNet::V6(Ipv6Net::default())
        });
        match facts.sysctls.get(&path).map(|value| value.trim()) {
            Some("1") if learnt => set(path, "2"),
            Some("2") => set(path, "2"),
            Some(_) | None => {}
        }
    }
    for subnet in context.subnets() {
        if let Some(uplink) = uplink::on_link_for(&context.uplinks, subnet) {
            set(format!("net/ipv6/conf/{}/proxy_ndp", uplink.name), "1");
            set(format!("net/ipv6/neigh/{}/proxy_delay", uplink.name), "0");
        }
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

#[cfg(test)]
mod tests;
