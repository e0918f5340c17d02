//! The firewall: policy of subnets, forwards, pinholes.

mod lease;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use imbl::{OrdMap, OrdSet};
use ipnet::{IpNet, Ipv6Net};

pub(super) use self::lease::{lease, way_of};
use super::{Context, Frame, Member, Part, names, routing};
use crate::address;
use crate::desired::firewall::{
    Clamp, Connections, Endpoint, Firewall, Keep, Port, SourceAddress, Sources, SubnetPolicy,
    Translations,
};
use crate::protocol::{PortRange, Protocol};
use crate::state::{Device, Family, Forward, Opening, Pinhole, Subnet};
use crate::uplink::{self, Uplink};

/// How many connections the kernel tracks; it is there while it tracks any.
const CONNTRACK_MAX: &str = "net/netfilter/nf_conntrack_max";

/// Where requests for ports arrive (RFC 6887 section 19.1), and over TCP those of UPnP.
const PORT_CONTROL: u16 = 5351;

/// Where searches for a UPnP gateway arrive.
const SSDP: u16 = 1900;

/// Bytes of an IPv4 and a TCP header.
const HEADERS4: u16 = 40;

/// Bytes of an IPv6 and a TCP header.
const HEADERS6: u16 = 60;

/// All but what single devices, forwards and pinholes contribute.
pub(super) fn of_gateway(context: &Context<'_>) -> Firewall {
    let state = context.inputs.state;
    let packet = state.settings.clamp_mtu.min(context.frame.mtu);
    let uplinks = &context.frame.uplinks;
    let policies = state.subnets.values();
    Firewall {
        interface: context.inputs.interface.to_owned(),
        uplinks: uplinks.iter().map(|uplink| uplink.name.clone()).collect(),
        reply_marks: reply_marks(context),
        sources: sources(uplinks),
        watched: watched(context),
        snat_ports: snat_ports(context),
        clamp: Clamp {
            ipv4: packet.saturating_sub(HEADERS4),
            ipv6: packet.saturating_sub(HEADERS6),
        },
        connections: connections(context),
        subnets: policies
            .map(|subnet| (subnet.id.0, policy(context, subnet)))
            .collect(),
        own_prefixes6: OrdSet::new(),
        services: services(context),
        translations4: Translations::default(),
        translations6: Translations::default(),
        pinholes: OrdSet::new(),
        open_addresses: OrdSet::new(),
        names: BTreeSet::new(),
        advertised_names: BTreeMap::new(),
        filters: OrdMap::new(),
    }
}

/// Devices ask for ports by PCP and NAT-PMP, and by UPnP.
fn services(context: &Context<'_>) -> BTreeSet<(Protocol, u16)> {
    if context.inputs.state.subnets.is_empty() {
        return BTreeSet::new();
    }
    [
        (Protocol::Udp, PORT_CONTROL),
        (Protocol::Tcp, PORT_CONTROL),
        (Protocol::Udp, SSDP),
    ]
    .into()
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
    Connections {
        limit: context.inputs.state.settings.connection_limit.min(room),
        ..Connections::default()
    }
}

fn reply_marks(context: &Context<'_>) -> BTreeMap<String, u32> {
    let marks = context.frame.uplinks.iter().filter_map(|uplink| {
        let mark = routing::reply_mark(&context.frame.uplinks, &uplink.name)?;
        Some((uplink.name.clone(), mark))
    });
    marks.collect()
}

/// Where there is a choice: every address that packets can leave with, by family.
fn sources(uplinks: &[Uplink]) -> Sources {
    let pairs4 = uplinks.iter().flat_map(|uplink| {
        let addresses = uplink.ipv4.iter();
        addresses.map(|address| (*address, uplink.name.clone()))
    });
    let pairs6 = uplinks.iter().flat_map(|uplink| {
        let addresses = uplink.ipv6.iter();
        let global = addresses.filter(|address| !address::is_unique_local(**address));
        global.map(|address| (*address, uplink.name.clone()))
    });
    Sources {
        ipv4: Sources::of_choice(pairs4),
        ipv6: Sources::of_choice(pairs6),
    }
}

/// What a device with an egress of its own leaves with: itself, and the networks behind it.
pub(super) fn egress(
    context: &Context<'_>,
    member: &Member<'_>,
    delegations: &[IpNet],
    part: &mut Part,
) {
    if member.device.egress.is_none() {
        return;
    }
    let Frame { uplinks, .. } = context.frame;
    let (subnet, device) = (member.subnet, member.device);
    let facts = context.inputs.facts;
    let known = sources(uplinks);
    let place4 = uplink::chosen(uplinks, subnet, device, false)
        .and_then(|_| uplink::place_ipv4(uplinks, facts, subnet, device))
        .filter(|(_, address)| known.ipv4.contains_key(address));
    let place6 = uplink::chosen(uplinks, subnet, device, true)
        .and_then(|_| uplink::place_ipv6(uplinks, facts, subnet, device))
        .filter(|(_, address)| known.ipv6.contains_key(address));
    let hosts = member.addresses.iter().copied().map(IpNet::from);
    for net in hosts.chain(delegations.iter().copied()) {
        match net {
            IpNet::V4(net) => {
                if let Some((_, source)) = place4 {
                    let egresses = &mut part.translations4.egresses;
                    egresses.insert((net.network(), net.prefix_len()), source);
                }
            }
            IpNet::V6(net) => {
                let is_translated = address::is_unique_local(net.network());
                if let Some((_, source)) = place6.filter(|_| is_translated) {
                    let egresses = &mut part.translations6.egresses;
                    egresses.insert((net.network(), net.prefix_len()), source);
                }
            }
        }
    }
}

fn watched(context: &Context<'_>) -> BTreeSet<Ipv6Net> {
    let subnets = context.inputs.state.subnets.values();
    let prefixes: BTreeSet<Ipv6Net> = subnets.filter_map(Subnet::global_ipv6).collect();
    if prefixes.is_empty() || !context.frame.ipv6 {
        return BTreeSet::new();
    }
    let own = context
        .frame
        .uplinks
        .iter()
        .flat_map(|uplink| uplink.ipv6.iter());
    prefixes
        .into_iter()
        .chain(own.map(|address| Ipv6Net::from(*address)))
        .collect()
}

fn policy(context: &Context<'_>, subnet: &Subnet) -> SubnetPolicy {
    let facts = context.inputs.facts;
    let snat4 =
        uplink::of_subnet(&context.frame.uplinks, facts, subnet, false).and_then(|uplink| {
            uplink::source_ipv4(uplink, subnet.egress.as_ref()).map(|address| SourceAddress {
                uplink: uplink.name.clone(),
                address,
            })
        });
    let snat6 = subnet
        .local_ipv6()
        .and_then(|_| uplink::of_subnet(&context.frame.uplinks, facts, subnet, true))
        .and_then(|uplink| {
            uplink::source_ipv6(uplink, subnet.egress.as_ref()).map(|address| SourceAddress {
                uplink: uplink.name.clone(),
                address,
            })
        });
    SubnetPolicy {
        networks4: OrdSet::new(),
        networks6: OrdSet::new(),
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

/// What a forward does. Two meet only where the host's addresses changed; then the older one stays, so that forwards are
/// added in the order of their ids, and with all that they may meet.
pub(super) fn forward(context: &Context<'_>, forward: &Forward, part: &mut Part) {
    for way in ways(context, forward) {
        if let Some(hostname) = &forward.hostname {
            names::name(context, forward, hostname, &way, part);
            continue;
        }
        let shared = names::shared(context, forward, way.local());
        names::fallback(context, forward, &way, &shared, part);
        let mut alone = forward.clone();
        alone
            .protocols
            .retain(|protocol| !shared.contains(protocol));
        let forward = &alone;
        let Way {
            ports,
            uplink,
            place,
        } = way;
        match place {
            Place::V4 { local, target } => {
                let translations = &mut part.translations4;
                forward_public(translations, forward, ports, local, &target);
                keep(translations, forward, ports, local, &target, uplink);
                if let Some(address) = advertised(uplink, local) {
                    forward_public(translations, forward, ports, address, &target);
                }
            }
            Place::V6 { local, target } => {
                let translations = &mut part.translations6;
                forward_public(translations, forward, ports, local, &target);
                keep(translations, forward, ports, local, &target, uplink);
            }
        }
    }
}

/// How a device with forwards reaches itself by them.
pub(super) fn hairpins(context: &Context<'_>, device: &Device, part: &mut Part) {
    let forwards = context.inputs.state.forwards_of(device.id);
    for forward in forwards.filter(|forward| forward.hostname.is_none()) {
        for way in ways(context, forward) {
            match way.place {
                Place::V4 { target, .. } => {
                    let hairpins = &mut part.translations4.hairpins;
                    hairpins.insert(target.address, target.gateway);
                }
                Place::V6 { target, .. } => {
                    let hairpins = &mut part.translations6.hairpins;
                    hairpins.insert(target.address, target.gateway);
                }
            }
        }
    }
    // One of each family is enough, and a device may have thousands.
    for family in [Family::Ipv4, Family::Ipv6] {
        let mut leases = context.inputs.state.leases_by(device.id, family);
        let way = leases.find_map(|lease| {
            let is_whole = lease.opening == Opening::Forward && !lease.is_named();
            is_whole.then(|| way_of(context, lease))?
        });
        let Some(way) = way else {
            continue;
        };
        match way.place {
            Place::V4 { target, .. } => {
                let hairpins = &mut part.translations4.hairpins;
                hairpins.insert(target.address, target.gateway);
            }
            Place::V6 { target, .. } => {
                let hairpins = &mut part.translations6.hairpins;
                hairpins.insert(target.address, target.gateway);
            }
        }
    }
}

/// One public address of a forward that is in force.
pub(super) struct Way<'a> {
    ports: PortRange,
    uplink: &'a Uplink,
    pub(super) place: Place,
}

pub(super) enum Place {
    V4 {
        local: Ipv4Addr,
        target: Target<Ipv4Addr>,
    },
    V6 {
        local: Ipv6Addr,
        target: Target<Ipv6Addr>,
    },
}

impl Way<'_> {
    /// The address as it is on this host.
    pub(super) fn local(&self) -> IpAddr {
        self.place.ends().0
    }
}

impl Place {
    /// The address as it is on this host, and the device's.
    pub(super) fn ends(&self) -> (IpAddr, IpAddr) {
        match self {
            Self::V4 { local, target } => ((*local).into(), target.address.into()),
            Self::V6 { local, target } => ((*local).into(), target.address.into()),
        }
    }
}

pub(super) fn ways<'a>(context: &Context<'a>, forward: &Forward) -> Vec<Way<'a>> {
    let (Some(ports), true) = (forward.ports(), forward.enabled) else {
        return Vec::new();
    };
    let Some(member) = context.member_of(forward.device) else {
        return Vec::new();
    };
    let uplinks = &context.frame.uplinks;
    let locals =
        forward.local_addresses(member.subnet, member.device, uplinks, context.inputs.facts);
    let way = |local| {
        // An address that the host has lost is someone else's by now, whom devices may want to reach.
        let uplink = holder(uplinks, local)?;
        let place = match local {
            IpAddr::V4(local) => Place::V4 {
                local,
                target: target4(&member)?,
            },
            IpAddr::V6(local) => Place::V6 {
                local,
                target: target6(&member)?,
            },
        };
        Some(Way {
            ports,
            uplink,
            place,
        })
    };
    locals.into_iter().filter_map(way).collect()
}

pub(super) struct Target<A> {
    address: A,
    gateway: A,
}

fn target4(member: &Member<'_>) -> Option<Target<Ipv4Addr>> {
    let address = member.device.ipv4;
    let is_reached = member.addresses.contains(&IpAddr::V4(address));
    is_reached.then(|| Target {
        address,
        gateway: member.subnet.gateway_ipv4(),
    })
}

/// Only a private address is translated: where the subnet's prefix became global, pinholes do it.
fn target6(member: &Member<'_>) -> Option<Target<Ipv6Addr>> {
    member.subnet.local_ipv6()?;
    let address = member.subnet.ipv6_of(member.device.ipv4)?;
    let gateway = member.subnet.gateway_ipv6()?;
    let is_reached = member.addresses.contains(&IpAddr::V6(address));
    is_reached.then_some(Target { address, gateway })
}

/// The address that devices know a local one by, for their own way to it.
pub(super) fn advertised(uplink: &Uplink, local: Ipv4Addr) -> Option<Ipv4Addr> {
    uplink
        .advertised
        .filter(|advertised| uplink.local_ipv4() == Some(local) && *advertised != local)
}

/// What the device sends from a forwarded port.
fn keep<A: Ord + Copy>(
    translations: &mut Translations<A>,
    forward: &Forward,
    ports: PortRange,
    local: A,
    target: &Target<A>,
    uplink: &Uplink,
) {
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

pub(super) fn holder(uplinks: &[Uplink], address: IpAddr) -> Option<&Uplink> {
    uplinks.iter().find(|uplink| uplink.has(address))
}

/// What a pinhole lets in.
pub(super) fn pinhole(context: &Context<'_>, pinhole: &Pinhole, part: &mut Part) {
    let (Some(ports), true) = (pinhole.ports(), pinhole.enabled) else {
        return;
    };
    let Some(member) = context.member_of(pinhole.device) else {
        return;
    };
    let Some(address) = member.subnet.ipv6_of(member.device.ipv4) else {
        return;
    };
    if !member.addresses.contains(&IpAddr::V6(address)) {
        return;
    }
    for protocol in &pinhole.protocols {
        part.pinholes.insert(Endpoint {
            address,
            protocol: *protocol,
            ports,
        });
    }
}
