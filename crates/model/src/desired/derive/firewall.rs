//! The firewall: policy of subnets, forwards, pinholes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Context, Members, networks4, networks6};
use crate::address;
use crate::desired::firewall::{
    Clamp, Endpoint, Firewall, Keep, Port, SourceAddress, SubnetPolicy, Translations,
};
use crate::protocol::{PortRange, Protocol};
use crate::state::{Device, Forward, Subnet};
use crate::uplink::{self, Uplink};

/// Bytes of an IPv4 and a TCP header.
const HEADERS4: u16 = 40;

/// Bytes of an IPv6 and a TCP header.
const HEADERS6: u16 = 60;

pub(super) fn derive(context: &Context<'_>) -> Firewall {
    let packet = context.inputs.state.settings.clamp_mtu.min(context.mtu);
    let own_prefixes6 = context
        .members
        .values()
        .flat_map(networks6)
        .filter(|net| !address::is_unique_local(net.network()))
        .collect();
    let mut firewall = Firewall {
        interface: context.inputs.interface.to_owned(),
        uplinks: context
            .uplinks
            .iter()
            .map(|uplink| uplink.name.clone())
            .collect(),
        snat_ports: snat_ports(context),
        clamp: Clamp {
            ipv4: packet - HEADERS4,
            ipv6: packet - HEADERS6,
        },
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
        .map(|(subnet, member)| (member.device.id, (subnet, member.device)))
        .collect();
    for forward in context
        .inputs
        .state
        .forwards
        .values()
        .filter(|forward| forward.enabled)
    {
        let Some((subnet, device)) = devices.get(&forward.device) else {
            continue;
        };
        let Some(ports) = forward.ports() else {
            continue;
        };
        for local in forward.local_addresses(subnet, &context.uplinks, context.inputs.facts) {
            match local {
                IpAddr::V4(local) => {
                    let target = Target {
                        address: device.ipv4,
                        gateway: subnet.gateway_ipv4(),
                    };
                    forward_one(
                        context,
                        &mut firewall.translations4,
                        forward,
                        ports,
                        local,
                        &target,
                    );
                    if let Some(address) = advertised(context, local) {
                        forward_public(
                            &mut firewall.translations4,
                            forward,
                            ports,
                            address,
                            &target,
                        );
                    }
                }
                IpAddr::V6(local) => {
                    let Some(target) = target6(subnet, device) else {
                        continue;
                    };
                    forward_one(
                        context,
                        &mut firewall.translations6,
                        forward,
                        ports,
                        local,
                        &target,
                    );
                }
            }
        }
    }
}

struct Target<A> {
    address: A,
    gateway: A,
}

fn target6(subnet: &Subnet, device: &Device) -> Option<Target<Ipv6Addr>> {
    Some(Target {
        address: subnet.ipv6_of(device.ipv4)?,
        gateway: subnet.gateway_ipv6()?,
    })
}

/// The address that devices know a local one by, for their own way to it.
fn advertised(context: &Context<'_>, local: Ipv4Addr) -> Option<Ipv4Addr> {
    let uplink = context
        .uplinks
        .iter()
        .find(|uplink| uplink.local_ipv4() == Some(local))?;
    uplink.advertised.filter(|advertised| *advertised != local)
}

fn forward_one<A: Ord + Copy + Into<IpAddr>>(
    context: &Context<'_>,
    translations: &mut Translations<A>,
    forward: &Forward,
    ports: PortRange,
    local: A,
    target: &Target<A>,
) {
    forward_public(translations, forward, ports, local, target);
    translations.hairpins.insert(target.address, target.gateway);
    let Some(uplink) = holder(&context.uplinks, local.into()) else {
        return;
    };
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
            let device = Endpoint {
                address: target.address,
                protocol: *protocol,
                ports,
            };
            let keep = Keep {
                uplink: uplink.name.clone(),
                device,
            };
            let overlaps = translations.keep_ranges.keys().any(|other| {
                other.uplink == keep.uplink
                    && other.device.address == target.address
                    && other.device.protocol == *protocol
                    && other.device.ports.overlaps(ports)
            });
            if !overlaps {
                translations.keep_ranges.insert(keep, local);
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
            translations
                .forwards
                .insert(key, (target.address, forward.target_port));
        } else {
            let key = Endpoint {
                address,
                protocol: *protocol,
                ports,
            };
            translations.forward_ranges.insert(key, target.address);
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
            Some((member.device.id, subnet.ipv6_of(member.device.ipv4)?))
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
