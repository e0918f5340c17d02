//! The firewall: policy of subnets, forwards, pinholes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Context, Member, Members, networks4, networks6, routing};
use crate::address;
use crate::desired::firewall::{
    Clamp, Connections, Endpoint, Firewall, Keep, Port, SourceAddress, SubnetPolicy, Translations,
};
use crate::protocol::{PortRange, Protocol};
use crate::state::{Forward, Subnet};
use crate::uplink::{self, Uplink};

/// How many connections the kernel tracks; it is there while it tracks any.
const CONNTRACK_MAX: &str = "net/netfilter/nf_conntrack_max";

/// Bytes of an IPv4 and a TCP header.
const HEADERS4: u16 = 40;

/// Bytes of an IPv6 and a TCP header.
const HEADERS6: u16 = 60;

pub(super) fn derive(context: &Context<'_>) -> Firewall {
    let packet = context.inputs.state.settings.clamp_mtu.min(context.mtu);
    let own_prefixes6 = context
        .members
        .values()
        .flat_map(|members| {
            let idle = members.idle.iter().filter_map(|net| match net {
                IpNet::V6(net) => Some(*net),
                IpNet::V4(_) => None,
            });
            networks6(members).into_iter().chain(idle)
        })
        .filter(|net| !address::is_unique_local(net.network()))
        .collect();
    let mut firewall = Firewall {
        interface: context.inputs.interface.to_owned(),
        uplinks: context
            .uplinks
            .iter()
            .map(|uplink| uplink.name.clone())
            .collect(),
        reply_marks: reply_marks(context),
        snat_ports: snat_ports(context),
        clamp: Clamp {
            ipv4: packet.saturating_sub(HEADERS4),
            ipv6: packet.saturating_sub(HEADERS6),
        },
        connections: connections(context),
        subnets: context
            .members
            .iter()
            .map(|(id, members)| (*id, policy(context, members)))
            .collect(),
        own_prefixes6,
        services: std::collections::BTreeSet::new(),
        translations4: Translations::default(),
        translations6: Translations::default(),
        pinholes: std::collections::BTreeSet::new(),
    };
    forwards(context, &mut firewall);
    pinholes(context, &mut firewall);
    firewall
}

/// One device, over both families and both ways, has at most half of the kernel's table.
fn connections(context: &Context<'_>) -> Connections {
    let facts = context.inputs.facts;
    let room = facts
        .sysctls
        .get(CONNTRACK_MAX)
        .and_then(|text| text.parse::<u32>().ok())
        .filter(|max| *max > 0)
        .map_or(u32::MAX, |max| (max / 8).max(1));
    let delegations = || {
        context
            .active()
            .flat_map(|(_, member)| member.delegations.iter())
    };
    Connections {
        limit: context.inputs.state.settings.connection_limit.min(room),
        delegations4: delegations()
            .filter_map(|net| match net {
                IpNet::V4(net) => Some(*net),
                IpNet::V6(_) => None,
            })
            .collect(),
        delegations6: delegations()
            .filter_map(|net| match net {
                IpNet::V6(net) => Some(*net),
                IpNet::V4(_) => None,
            })
            .collect(),
    }
}

fn reply_marks(context: &Context<'_>) -> BTreeMap<String, u32> {
    let marks = context.uplinks.iter().filter_map(|uplink| {
        let mark = routing::reply_mark(&context.uplinks, &uplink.name)?;
        Some((uplink.name.clone(), mark))
    });
    marks.collect()
}

fn policy(context: &Context<'_>, members: &Members<'_>) -> SubnetPolicy {
    let subnet = members.subnet;
    let facts = context.inputs.facts;
    let snat4 = uplink::of_subnet(&context.uplinks, facts, subnet, false).and_then(|uplink| {
        uplink::source_ipv4(uplink, subnet).map(|address| SourceAddress {
            uplink: uplink.name.clone(),
            address,
        })
    });
    let snat6 = subnet
        .local_ipv6()
        .and_then(|_| uplink::of_subnet(&context.uplinks, facts, subnet, true))
        .and_then(|uplink| {
            uplink::source_ipv6(uplink, subnet).map(|address| SourceAddress {
                uplink: uplink.name.clone(),
                address,
            })
        });
    SubnetPolicy {
        networks4: networks4(members),
        networks6: networks6(members),
        peers_allowed: subnet.peers,
        host_access: subnet.host_access,
        snat4,
        snat6,
    }
}

/// The largest part of the range that holds no listener: a device could choose a listener's port as its source port
/// and take over what the far end sends to the listener.
fn snat_ports(context: &Context<'_>) -> PortRange {
    let settings = &context.inputs.state.settings;
    let whole = (settings.snat_first, settings.snat_last);
    // UDP listeners come and go with every lookup of a resolver; the one that matters here is WireGuard's.
    let tcp = context
        .inputs
        .facts
        .listeners
        .iter()
        .filter(|listener| listener.protocol == Protocol::Tcp);
    let mut taken: Vec<u16> = tcp
        .map(|listener| listener.port)
        .chain([settings.listen_port])
        .collect();
    taken.retain(|port| (whole.0..=whole.1).contains(port));
    taken.sort_unstable();
    let mut best = None::<PortRange>;
    let mut first = whole.0;
    for port in taken.into_iter().map(Some).chain([None]) {
        let last = port.map_or(whole.1, |port| port.saturating_sub(1));
        let gap = PortRange::new(first, last).filter(|_| port.is_none_or(|port| port > first));
        let width = |range: &PortRange| range.last() - range.first();
        if let Some(gap) = gap
            && best.as_ref().is_none_or(|best| width(best) < width(&gap))
        {
            best = Some(gap);
        }
        first = port.map_or(first, |port| port.saturating_add(1));
    }
    best.or_else(|| PortRange::new(whole.0, whole.1))
        .unwrap_or(PortRange::UNPRIVILEGED)
}

fn forwards(context: &Context<'_>, firewall: &mut Firewall) {
    let devices: BTreeMap<_, _> = context
        .active()
        .map(|(subnet, member)| (member.device.id, (subnet, member)))
        .collect();
    for forward in context
        .inputs
        .state
        .forwards
        .values()
        .filter(|forward| forward.enabled)
    {
        let Some((subnet, member)) = devices.get(&forward.device) else {
            continue;
        };
        let Some(ports) = forward.ports() else {
            continue;
        };
        for local in forward.local_addresses(subnet, &context.uplinks, context.inputs.facts) {
            // An address that the host has lost is someone else's by now, whom devices may want to reach.
            let Some(uplink) = holder(&context.uplinks, local) else {
                continue;
            };
            match local {
                IpAddr::V4(local) => {
                    let Some(target) = target4(subnet, member) else {
                        continue;
                    };
                    let translations = &mut firewall.translations4;
                    forward_public(translations, forward, ports, local, &target);
                    keep(translations, forward, ports, local, &target, uplink);
                    if let Some(address) = advertised(uplink, local) {
                        forward_public(translations, forward, ports, address, &target);
                    }
                }
                IpAddr::V6(local) => {
                    let Some(target) = target6(subnet, member) else {
                        continue;
                    };
                    let translations = &mut firewall.translations6;
                    forward_public(translations, forward, ports, local, &target);
                    keep(translations, forward, ports, local, &target, uplink);
                }
            }
        }
    }
}

struct Target<A> {
    address: A,
    gateway: A,
}

fn target4(subnet: &Subnet, member: &Member<'_>) -> Option<Target<Ipv4Addr>> {
    let address = member.device.ipv4;
    member.has(IpAddr::V4(address)).then(|| Target {
        address,
        gateway: subnet.gateway_ipv4(),
    })
}

/// Only a private address is translated: where the subnet's prefix became global, pinholes do it.
fn target6(subnet: &Subnet, member: &Member<'_>) -> Option<Target<Ipv6Addr>> {
    subnet.local_ipv6()?;
    let address = subnet.ipv6_of(member.device.ipv4)?;
    let gateway = subnet.gateway_ipv6()?;
    member
        .has(IpAddr::V6(address))
        .then_some(Target { address, gateway })
}

/// The address that devices know a local one by, for their own way to it.
fn advertised(uplink: &Uplink, local: Ipv4Addr) -> Option<Ipv4Addr> {
    uplink
        .advertised
        .filter(|advertised| uplink.local_ipv4() == Some(local) && *advertised != local)
}

/// What the device sends from a forwarded port, and what it sends to its own public address.
fn keep<A: Ord + Copy>(
    translations: &mut Translations<A>,
    forward: &Forward,
    ports: PortRange,
    local: A,
    target: &Target<A>,
    uplink: &Uplink,
) {
    translations.hairpins.insert(target.address, target.gateway);
    for protocol in &forward.protocols {
        if ports.is_single() {
            let device = Port {
                address: target.address,
                protocol: *protocol,
                port: forward.target_port,
            };
            let keep = Keep {
                uplink: uplink.name.clone(),
                device,
            };
            translations
                .keeps
                .entry(keep)
                .or_insert((local, forward.port));
        } else {
            let of = |ports| Keep {
                uplink: uplink.name.clone(),
                device: Endpoint {
                    address: target.address,
                    protocol: *protocol,
                    ports,
                },
            };
            // Ranges that are kept do not overlap each other, so only the last one that starts before this one ends can
            // overlap it.
            let highest = PortRange::new(ports.last(), u16::MAX).unwrap_or(ports);
            let before = translations.keep_ranges.range(..=of(highest)).next_back();
            let overlaps = before.is_some_and(|(other, _)| {
                other.uplink == uplink.name
                    && other.device.address == target.address
                    && other.device.protocol == *protocol
                    && other.device.ports.overlaps(ports)
            });
            if !overlaps {
                translations.keep_ranges.insert(of(ports), local);
            }
        }
    }
}

fn forward_public<A: Ord + Copy>(
    translations: &mut Translations<A>,
    forward: &Forward,
    ports: PortRange,
    address: A,
    target: &Target<A>,
) {
    for protocol in &forward.protocols {
        if ports.is_single() {
            let key = Port {
                address,
                protocol: *protocol,
                port: forward.port,
            };
            // Two forwards meet only where the host's addresses changed; then the older one stays.
            translations
                .forwards
                .entry(key)
                .or_insert((target.address, forward.target_port));
        } else {
            let key = Endpoint {
                address,
                protocol: *protocol,
                ports,
            };
            // Overlapping ranges would make the whole table fail to load.
            let highest = Endpoint {
                ports: PortRange::new(ports.last(), u16::MAX).unwrap_or(ports),
                ..key
            };
            let before = translations.forward_ranges.range(..=highest).next_back();
            let overlaps = before.is_some_and(|(other, _)| {
                other.address == address
                    && other.protocol == *protocol
                    && other.ports.overlaps(ports)
            });
            if !overlaps {
                translations.forward_ranges.insert(key, target.address);
            }
        }
    }
}

fn holder(uplinks: &[Uplink], address: IpAddr) -> Option<&Uplink> {
    uplinks.iter().find(|uplink| uplink.has(address))
}

fn pinholes(context: &Context<'_>, firewall: &mut Firewall) {
    let addresses: BTreeMap<_, _> = context
        .active()
        .filter_map(|(subnet, member)| {
            let address = subnet.ipv6_of(member.device.ipv4)?;
            member
                .has(IpAddr::V6(address))
                .then_some((member.device.id, address))
        })
        .collect();
    for pinhole in context
        .inputs
        .state
        .pinholes
        .values()
        .filter(|pinhole| pinhole.enabled)
    {
        let (Some(address), Some(ports)) = (addresses.get(&pinhole.device), pinhole.ports()) else {
            continue;
        };
        for protocol in &pinhole.protocols {
            firewall.pinholes.insert(Endpoint {
                address: *address,
                protocol: *protocol,
                ports,
            });
        }
    }
}
