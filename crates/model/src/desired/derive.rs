//! Derives what the kernel shall hold from state and facts.

mod firewall;
mod incremental;
mod names;
mod replace;
mod routing;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use imbl::{OrdMap, OrdSet};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use self::incremental::Derivation;
use super::Desired;
use super::address::Address;
use super::firewall::{Endpoint, Translations};
use super::link::Link;
use super::names::Names;
use super::neighbor::ProxyNeighbor;
use super::route::Route;
use super::rule::Rule;
use super::sysctl::Sysctls;
use super::wireguard::{Peer, WireGuard};
use crate::facts::Facts;
use crate::key::{PrivateKey, PublicKey};
use crate::state::{Device, DeviceId, Filter, State, Subnet};
use crate::uplink::{self, Uplink};
use crate::{address, configuration};

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
    let frame = Frame::new(inputs);
    let context = Context {
        inputs,
        frame: &frame,
    };
    let state = inputs.state;
    let mut part = Part::default();
    routing::of_gateway(&context, &mut part);
    for device in state.devices.values() {
        part.add_device(&context, device);
        firewall::hairpins(&context, device, &mut part);
    }
    for forward in state.forwards.values() {
        firewall::forward(&context, forward, &mut part);
    }
    for pinhole in state.pinholes.values() {
        firewall::pinhole(&context, pinhole, &mut part);
    }
    for lease in state.leases.values() {
        firewall::lease(&context, lease, &mut part);
    }
    let mut desired = Desired {
        link: Some(Link {
            name: inputs.interface.to_owned(),
            mtu: frame.mtu.into(),
        }),
        wireguard: Some(WireGuard {
            private_key: *inputs.private_key,
            listen_port: state.settings.listen_port,
            peers: OrdMap::new(),
        }),
        addresses: addresses(&context),
        routes: OrdSet::new(),
        rules: OrdSet::new(),
        sysctls: Sysctls::new(),
        neighbors: OrdSet::new(),
        firewall: Some(firewall::of_gateway(&context)),
        names: Names::default(),
    };
    part.replace(&Part::default(), &mut desired);
    names::finish(&context, &mut desired);
    desired.sysctls = sysctls(&context, &desired);
    desired
}

/// What holds for all devices alike: where it changes, everything is derived anew.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    uplinks: Vec<Uplink>,
    /// Whether IPv6 can be used on this host.
    ipv6: bool,
    /// Addresses that the host itself needs. Decisions keep devices off them, but the host may get them later.
    foreign: BTreeSet<IpAddr>,
    mtu: u16,
}

impl Frame {
    fn new(inputs: &Inputs<'_>) -> Self {
        let uplinks = uplink::list(inputs.state, inputs.facts);
        let foreign = uplink::own_and_next_hops(&uplinks, inputs.facts)
            .into_keys()
            .collect();
        Self {
            uplinks,
            ipv6: uplink::has_ipv6(inputs.facts),
            foreign,
            mtu: mtu(inputs.state, inputs.facts).0,
        }
    }

    /// Whether no address in a network is the host's.
    fn is_free(&self, net: IpNet) -> bool {
        let mut taken = self.foreign.range(net.network()..=net.broadcast());
        taken.next().is_none()
    }
}

#[derive(Clone, Copy)]
struct Context<'a> {
    inputs: &'a Inputs<'a>,
    frame: &'a Frame,
}

/// A device that may connect, in its subnet, with its addresses that are not the host's.
struct Member<'a> {
    subnet: &'a Subnet,
    device: &'a Device,
    addresses: Vec<IpAddr>,
}

/// What some objects of the state contribute to what is desired.
#[derive(Default)]
struct Part {
    peers: OrdMap<PublicKey, Peer>,
    routes: OrdSet<Route>,
    rules: OrdSet<Rule>,
    neighbors: OrdSet<ProxyNeighbor>,
    /// By subnet.
    networks4: BTreeMap<u64, OrdSet<Ipv4Net>>,
    networks6: BTreeMap<u64, OrdSet<Ipv6Net>>,
    own_prefixes6: OrdSet<Ipv6Net>,
    delegations4: OrdSet<Ipv4Net>,
    delegations6: OrdSet<Ipv6Net>,
    translations4: Translations<Ipv4Addr>,
    translations6: Translations<Ipv6Addr>,
    pinholes: OrdSet<Endpoint<Ipv6Addr>>,
    open_addresses: OrdSet<Ipv6Addr>,
    names: Names,
    filters: OrdMap<Endpoint<IpAddr>, BTreeSet<Filter>>,
}

impl Part {
    fn add_device(&mut self, context: &Context<'_>, device: &Device) {
        let Some(subnet) = context.inputs.state.subnets.get(&device.subnet) else {
            return;
        };
        let delegations = context.delegations_of(device);
        let Some(member) = context.member(subnet, device) else {
            let own = subnet.ipv6.map(IpNet::V6);
            let outside = delegations
                .into_iter()
                .filter(|net| !own.is_some_and(|own| own.contains(net)));
            for net in outside {
                routing::sink(context, net, self);
                self.add_own_prefix(net);
            }
            return;
        };
        let hosts = member.addresses.iter().copied().map(host);
        let peer = Peer {
            preshared_key: device.preshared_key,
            allowed_ips: hosts.chain(delegations.iter().copied()).collect(),
        };
        self.peers.insert(device.public_key, peer);
        routing::of_device(context, &member, &delegations, self);
        firewall::egress(context, &member, &delegations, self);
        for net in delegations {
            self.add_network(context, subnet, net);
            match net {
                IpNet::V4(net) => self.delegations4.insert(net).is_none(),
                IpNet::V6(net) => self.delegations6.insert(net).is_none(),
            };
        }
    }

    /// A network of a subnet: its own, or one that is delegated to a device of it.
    fn add_network(&mut self, context: &Context<'_>, subnet: &Subnet, net: IpNet) {
        let is_whole = match (net, subnet.ipv6) {
            (IpNet::V4(net), _) => {
                let networks = self.networks4.entry(subnet.id.0).or_default();
                networks.insert(net);
                true
            }
            (IpNet::V6(net), Some(own)) if own != net && own.contains(&net) => false,
            (IpNet::V6(net), _) => {
                let networks = self.networks6.entry(subnet.id.0).or_default();
                networks.insert(net);
                true
            }
        };
        if is_whole {
            routing::sink(context, net, self);
            routing::source_rules(context, subnet, net, self);
            routing::destination_rule(context, net, self);
            self.add_own_prefix(net);
        }
    }

    fn add_own_prefix(&mut self, net: IpNet) {
        if let IpNet::V6(net) = net
            && !address::is_unique_local(net.network())
        {
            self.own_prefixes6.insert(net);
        }
    }
}

impl<'a> Context<'a> {
    /// A device as it may connect; none if it may not.
    fn member(&self, subnet: &'a Subnet, device: &'a Device) -> Option<Member<'a>> {
        if !device.is_active(self.inputs.now) {
            return None;
        }
        let ipv6 = subnet.ipv6_of(device.ipv4).map(IpAddr::V6);
        let addresses = [IpAddr::V4(device.ipv4)].into_iter().chain(ipv6);
        Some(Member {
            subnet,
            device,
            addresses: addresses
                .filter(|address| !self.frame.foreign.contains(address))
                .collect(),
        })
    }

    fn member_of(&self, device: DeviceId) -> Option<Member<'a>> {
        let state = self.inputs.state;
        let device = state.devices.get(&device)?;
        self.member(state.subnets.get(&device.subnet)?, device)
    }

    /// The prefixes of a device that hold no address of the host.
    fn delegations_of(&self, device: &Device) -> Vec<IpNet> {
        let delegations = self.inputs.state.delegations_of(device.id);
        delegations
            .map(|delegation| delegation.prefix)
            .filter(|prefix| self.frame.is_free(*prefix))
            .collect()
    }

    /// The gateway's IPv6 address in a subnet, where it has one and IPv6 can be used.
    fn gateway_ipv6(&self, subnet: &Subnet) -> Option<Ipv6Addr> {
        let can_be_used = subnet.gateway_address && self.frame.ipv6;
        subnet
            .gateway_ipv6()
            .filter(|address| can_be_used && !self.frame.foreign.contains(&IpAddr::V6(*address)))
    }
}

/// An address as a network of its own.
fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

fn addresses(context: &Context<'_>) -> BTreeSet<Address> {
    let interface = context.inputs.interface;
    let subnets = context.inputs.state.subnets.values();
    subnets
        .flat_map(|subnet| {
            let ipv6 = context.gateway_ipv6(subnet).map(IpAddr::V6);
            let ipv4 = subnet.gateway_address.then(|| subnet.gateway_ipv4());
            ipv4.map(IpAddr::V4).into_iter().chain(ipv6)
        })
        .filter(|address| !context.frame.foreign.contains(address))
        .map(|address| Address {
            interface: interface.to_owned(),
            address: host(address),
        })
        .collect()
}

/// Follows from the rest: where IPv6 is routed, and on which uplinks it is answered for.
fn sysctls(context: &Context<'_>, desired: &Desired) -> Sysctls {
    let facts = context.inputs.facts;
    let mut sysctls = Sysctls::new();
    let mut set = |path: String, value: &str| {
        sysctls.insert(path, value.to_owned());
    };
    if context.inputs.state.subnets.is_empty() {
        return sysctls;
    }
    set("net/ipv4/conf/all/forwarding".to_owned(), "1");
    let value = |path: &str| facts.sysctls.get(path).map(|value| value.trim());
    if context.frame.uplinks.len() > 1 {
        let all = value("net/ipv4/conf/all/rp_filter");
        for uplink in &context.frame.uplinks {
            let path = format!("net/ipv4/conf/{}/rp_filter", uplink.name);
            // A strict filter knows nothing of what is marked later, and drops what comes in by any but the best uplink. The
            // kernel takes the larger of both settings; 2 is loose, and stays wanted once it is there.
            match (value(&path), all) {
                (Some("1" | "2"), _) | (Some("0"), Some("1")) => set(path, "2"),
                (_, _) => {}
            }
        }
    }
    let mut policies = desired.firewall.iter().flat_map(|it| it.subnets.values());
    if !context.frame.ipv6 || policies.all(|policy| policy.networks6.is_empty()) {
        return sysctls;
    }
    let lost = facts.default_interface(true).is_none();
    for uplink in &context.frame.uplinks {
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
    for uplink in &context.frame.uplinks {
        let interface = &uplink.name;
        let first = ProxyNeighbor {
            interface: interface.clone(),
            address: Ipv6Addr::UNSPECIFIED,
        };
        let next = desired.neighbors.range(first..).next();
        if next.is_some_and(|neighbor| neighbor.interface == *interface) {
            set(format!("net/ipv6/conf/{interface}/proxy_ndp"), "1");
            set(format!("net/ipv6/neigh/{interface}/proxy_delay"), "0");
        }
    }
    set("net/ipv6/conf/all/forwarding".to_owned(), "1");
    sysctls
}
