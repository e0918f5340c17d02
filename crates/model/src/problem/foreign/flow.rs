//! The packets that must pass for a gateway to do its work.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::View;
use crate::address;
use crate::foreign::{Hook, Packet, Place, Tracking};
use crate::protocol::Protocol;
use crate::state::{Device, DeviceId, Subnet, SubnetId};
use crate::uplink::{self, Uplink};

/// One kind of packet.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) purpose: Purpose,
    pub(super) hooks: &'static [Hook],
    pub(super) packet: Packet,
    /// The destination before it was translated.
    untranslated: Option<Place>,
}

/// What a kind of packet is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// From devices to the tunnel's own port.
    Tunnel(u16),
    /// From the tunnel's own port to devices.
    TunnelAnswers(u16),
    /// From devices to the Internet.
    Departures,
    /// What comes back to them.
    Answers,
    /// From one device to another.
    Peers,
    /// From the Internet to ports of devices.
    Arrivals,
    /// The same of one forward.
    Forward(u64),
    /// The same of one pinhole.
    Pinhole(u64),
    /// From the Internet to a port of this host that devices share by names.
    Names(Protocol, u16),
}

/// What arrives at the ports of a subnet's devices.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    /// At any port of any device.
    pub(super) any: Flow,
    /// At those that are open.
    pub(super) each: Vec<Flow>,
}

/// Forwards and pinholes that are looked at one by one.
const SINGLE: usize = 200;

/// Hooks before this priority see the destination as the sender wrote it.
const TRANSLATION: i32 = -100;

/// Hooks up to this priority see packets whose connection is not looked up yet.
const LOOKUP: i32 = -200;

/// Hooks after this priority see another source.
const SOURCE_TRANSLATION: i32 = 100;

/// What does not depend on single forwards.
pub(super) fn general(view: &View<'_>, interface: &str) -> Vec<Flow> {
    let mut flows = Vec::new();
    for subnet in view.state.subnets.values() {
        flows.extend(tunnel(view, subnet));
        for (is_ipv6, net) in networks(subnet) {
            let link = Some((interface.to_owned(), None));
            let inside = Place::Network(net);
            let packet = |input, output, source, destination, tracking| Packet {
                is_ipv6,
                input,
                output,
                source,
                destination,
                protocol: Protocol::Tcp,
                source_port: None,
                destination_port: None,
                tracking,
                is_forward: false,
            };
            let forwarded = |purpose, packet| Flow {
                purpose,
                hooks: &Hook::FORWARDED,
                packet,
                untranslated: None,
            };
            if subnet.peers {
                let packet = packet(link.clone(), link.clone(), inside, inside, Tracking::New);
                flows.push(forwarded(Purpose::Peers, packet));
            }
            let Some(uplink) = uplink::of_subnet(view.uplinks, view.facts, subnet, is_ipv6) else {
                continue;
            };
            let outside = Place::Internet;
            let way_out = way(view, uplink);
            let departures = packet(
                link.clone(),
                way_out.clone(),
                inside,
                outside,
                Tracking::New,
            );
            flows.push(forwarded(Purpose::Departures, departures));
            let answers = packet(way_out, link, outside, inside, Tracking::Answer);
            flows.push(Flow {
                untranslated: own(uplink, is_ipv6).filter(|_| is_translated(subnet, is_ipv6)),
                ..forwarded(Purpose::Answers, answers)
            });
        }
    }
    flows.extend(names(view));
    flows
}

/// What arrives for names is for this host.
fn names(view: &View<'_>) -> Vec<Flow> {
    let mut flows: BTreeMap<(Protocol, u16, IpAddr), Flow> = BTreeMap::new();
    let forwards = view.state.forwards.values();
    for forward in forwards.filter(|it| it.enabled && it.hostname.is_some()) {
        let Some((device, subnet)) = owner(view, forward.device) else {
            continue;
        };
        for address in forward.local_addresses(subnet, device, view.uplinks, view.facts) {
            let Some(uplink) = view.uplinks.iter().find(|it| it.has(address)) else {
                continue;
            };
            for protocol in &forward.protocols {
                let key = (*protocol, forward.port, address);
                flows.entry(key).or_insert_with(|| Flow {
                    purpose: Purpose::Names(*protocol, forward.port),
                    hooks: &Hook::RECEIVED,
                    packet: Packet {
                        is_ipv6: address.is_ipv6(),
                        input: way(view, uplink),
                        output: None,
                        source: Place::Internet,
                        destination: Place::Network(address.into()),
                        protocol: *protocol,
                        source_port: None,
                        destination_port: Some(forward.port),
                        tracking: Tracking::New,
                        is_forward: false,
                    },
                    untranslated: None,
                });
            }
        }
    }
    flows.into_values().collect()
}

/// What arrives for devices, by subnet, family and protocol.
pub(super) fn arrivals(view: &View<'_>, interface: &str) -> Vec<Arrivals> {
    let mut found: BTreeMap<(SubnetId, bool, Protocol), Arrivals> = BTreeMap::new();
    let mut add = |opening: &Opening<'_>, is_ipv6: bool, is_forward: bool| {
        let subnet = opening.subnet;
        let Some(net) = networks(subnet)
            .find(|(it, _)| *it == is_ipv6)
            .map(|it| it.1)
        else {
            return;
        };
        let Some(uplink) = uplink::of_subnet(view.uplinks, view.facts, subnet, is_ipv6) else {
            return;
        };
        for protocol in opening.protocols {
            let any = || Flow {
                purpose: Purpose::Arrivals,
                hooks: &Hook::FORWARDED,
                packet: Packet {
                    is_ipv6,
                    input: way(view, uplink),
                    output: Some((interface.to_owned(), None)),
                    source: Place::Internet,
                    destination: Place::Network(net),
                    protocol: *protocol,
                    source_port: None,
                    destination_port: None,
                    tracking: Tracking::New,
                    is_forward,
                },
                untranslated: own(uplink, is_ipv6).filter(|_| is_forward),
            };
            let arrivals = found
                .entry((subnet.id, is_ipv6, *protocol))
                .or_insert_with(|| Arrivals {
                    any: any(),
                    each: Vec::new(),
                });
            if arrivals.each.len() >= SINGLE {
                continue;
            }
            let address = match net {
                IpNet::V4(_) => IpAddr::V4(opening.device.ipv4),
                IpNet::V6(net) => IpAddr::V6(address::host_ipv6(net, opening.device.ipv4)),
            };
            let mut flow = any();
            flow.purpose = opening.purpose.clone();
            flow.packet.destination = Place::Network(address.into());
            flow.packet.destination_port = opening.port;
            arrivals.each.push(flow);
        }
    };
    let forwards = view.state.forwards.values();
    for forward in forwards.filter(|it| it.enabled && it.hostname.is_none()) {
        let Some((device, subnet)) = owner(view, forward.device) else {
            continue;
        };
        let is_single = forward.port == forward.port_end;
        let opening = Opening {
            purpose: Purpose::Forward(forward.id.0),
            device,
            subnet,
            protocols: &forward.protocols,
            port: is_single.then_some(forward.target_port),
        };
        match forward.address {
            Some(address) => add(&opening, address.is_ipv6(), true),
            None => {
                add(&opening, false, true);
                if subnet.local_ipv6().is_some() {
                    add(&opening, true, true);
                }
            }
        }
    }
    for pinhole in view.state.pinholes.values().filter(|it| it.enabled) {
        let Some((device, subnet)) = owner(view, pinhole.device) else {
            continue;
        };
        let is_single = pinhole.port == pinhole.port_end;
        let opening = Opening {
            purpose: Purpose::Pinhole(pinhole.id.0),
            device,
            subnet,
            protocols: &pinhole.protocols,
            port: is_single.then_some(pinhole.port),
        };
        if subnet.global_ipv6().is_some() {
            add(&opening, true, false);
        }
    }
    found.into_values().collect()
}

impl Flow {
    /// As a chain of this priority sees it.
    pub(super) fn packet_at(&self, hook: Hook, priority: i32) -> Packet {
        let mut packet = self.packet.clone();
        match hook {
            Hook::Prerouting => {
                packet.output = None;
                if priority <= LOOKUP {
                    packet.tracking = Tracking::Unknown;
                }
                if priority < TRANSLATION {
                    packet.destination = self.untranslated.unwrap_or(packet.destination);
                    packet.is_forward = false;
                    if self.untranslated.is_some() {
                        packet.destination_port = None;
                    }
                }
            }
            Hook::Input | Hook::Forward | Hook::Output => {}
            Hook::Postrouting => {
                // An address that was translated may be any of this host's.
                if priority >= SOURCE_TRANSLATION {
                    packet.source = Place::Network(if packet.is_ipv6 {
                        IpNet::V6(ipnet::Ipv6Net::default())
                    } else {
                        IpNet::V4(ipnet::Ipv4Net::default())
                    });
                    packet.source_port = None;
                }
            }
        }
        packet
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tunnel(port) => write!(
                formatter,
                "what devices send to the tunnel (UDP port {port})"
            ),
            Self::TunnelAnswers(port) => write!(
                formatter,
                "what the tunnel sends to devices (from UDP port {port})"
            ),
            Self::Departures => formatter.write_str("what devices send to the Internet"),
            Self::Answers => formatter.write_str("the Internet's answers to them"),
            Self::Peers => formatter.write_str("what devices send to each other"),
            Self::Arrivals => {
                formatter.write_str("what the Internet sends to open ports of devices")
            }
            Self::Forward(id) => write!(formatter, "what arrives for forward {id}"),
            Self::Pinhole(id) => write!(formatter, "what arrives for pinhole {id}"),
            Self::Names(protocol, port) => {
                write!(
                    formatter,
                    "what arrives for names on port {port}/{protocol}"
                )
            }
        }
    }
}

/// A port of a device that is open.
struct Opening<'a> {
    purpose: Purpose,
    device: &'a Device,
    subnet: &'a Subnet,
    protocols: &'a std::collections::BTreeSet<Protocol>,
    port: Option<u16>,
}

/// The tunnel's own packets, as far as devices are told to connect there.
fn tunnel(view: &View<'_>, subnet: &Subnet) -> Vec<Flow> {
    let Some(uplink) = uplink::endpoint_of(view.uplinks, view.facts, subnet) else {
        return Vec::new();
    };
    let told = uplink.endpoint_host();
    let is_ipv6 = match told.as_deref().map(str::parse::<IpAddr>) {
        Some(Ok(address)) => address.is_ipv6(),
        Some(Err(_)) | None => uplink.local_ipv4().is_none(),
    };
    let Some(here) = own(uplink, is_ipv6) else {
        return Vec::new();
    };
    let port = view.state.settings.listen_port;
    let arriving = Packet {
        is_ipv6,
        input: way(view, uplink),
        output: None,
        source: Place::Internet,
        destination: here,
        protocol: Protocol::Udp,
        source_port: None,
        destination_port: Some(port),
        tracking: Tracking::New,
        is_forward: false,
    };
    let leaving = Packet {
        input: None,
        output: way(view, uplink),
        source: here,
        destination: Place::Internet,
        source_port: Some(port),
        destination_port: None,
        tracking: Tracking::Answer,
        ..arriving.clone()
    };
    let flow = |purpose, hooks, packet| Flow {
        purpose,
        hooks,
        packet,
        untranslated: None,
    };
    vec![
        flow(Purpose::Tunnel(port), &Hook::RECEIVED, arriving),
        flow(Purpose::TunnelAnswers(port), &Hook::SENT, leaving),
    ]
}

fn owner<'a>(view: &View<'a>, device: DeviceId) -> Option<(&'a Device, &'a Subnet)> {
    let device = view.state.devices.get(&device)?;
    let subnet = view.state.subnets.get(&device.subnet)?;
    device.is_active(view.now).then_some((device, subnet))
}

fn networks(subnet: &Subnet) -> impl Iterator<Item = (bool, IpNet)> {
    let ipv6 = subnet.ipv6.map(|net| (true, IpNet::V6(net)));
    [Some((false, IpNet::V4(subnet.ipv4))), ipv6]
        .into_iter()
        .flatten()
}

/// Whether its addresses are translated on their way out.
fn is_translated(subnet: &Subnet, is_ipv6: bool) -> bool {
    !is_ipv6 || subnet.local_ipv6().is_some()
}

fn own(uplink: &Uplink, is_ipv6: bool) -> Option<Place> {
    let address = if is_ipv6 {
        IpAddr::V6(uplink.local_ipv6()?)
    } else {
        IpAddr::V4(uplink.local_ipv4()?)
    };
    Some(Place::Network(address.into()))
}

fn way(view: &View<'_>, uplink: &Uplink) -> Option<(String, Option<u32>)> {
    let index = view.facts.links.get(&uplink.name).map(|link| link.index);
    Some((uplink.name.clone(), index))
}
