//! Networks and addresses: what of the other server's this gateway takes over as it is, and what as a delegation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::names::Names;
use super::{
    Address, Forward, Hints, Import, ImportError, ImportedDevice, ImportedForward, ImportedSubnet,
    Peer, Reading, Server,
};
use crate::address::{first_host, host_ipv6, is_host};
use crate::key::PublicKey;
use crate::state::DeviceKind;

/// Where no port is said.
const USUAL_PORT: u16 = 51820;

const MEND: &str = "mend the file, and read it again";

/// One network of the tunnel in the making.
struct Network {
    name: String,
    ipv4: Ipv4Net,
    /// The server's address, with the length of the prefix.
    ipv6: Option<Ipv6Net>,
    place: String,
}

/// A peer with its place in a network.
struct Member {
    peer: Peer,
    network: usize,
    ipv4: Option<Ipv4Addr>,
    /// Its addresses in the network's prefix.
    ipv6: Vec<Ipv6Addr>,
    delegations: Vec<IpNet>,
}

pub(super) fn settle(server: Server, hints: &Hints<'_>) -> Result<Reading, ImportError> {
    let mut notes = server.notes;
    let mut networks = networks(server.addresses, hints.subnet, &mut notes)?;
    let members = server.peers.into_iter().map(|peer| place(peer, &networks));
    let members: Vec<Member> = members.collect::<Result<_, _>>()?;
    check_unique(&members)?;
    for (index, network) in networks.iter_mut().enumerate() {
        network.ipv6 = network.ipv6.map(|own| {
            let members = members.iter().filter(|member| member.network == index);
            let prefix = choose_prefix(own, network.ipv4, members);
            let gateway = host_ipv6(prefix, first_host(network.ipv4));
            if gateway != own.addr() {
                notes.push(format!(
                    "{}: the gateway's address in the tunnel becomes {gateway}; it was {}",
                    network.place,
                    own.addr()
                ));
            }
            if prefix.prefix_len() > own.prefix_len() {
                notes.push(format!(
                    "{}: of {} the subnet has {prefix}, in which each device's IPv6 address follows from its IPv4 address as before",
                    network.place,
                    own.trunc()
                ));
            }
            prefix
        });
    }

    let listen_port = hints.listen_port.or(server.listen_port).unwrap_or_else(|| {
        notes.push(format!(
            "the file says no port, so it is {USUAL_PORT}; `--listen-port` says another"
        ));
        USUAL_PORT
    });
    let servers: BTreeSet<Ipv4Addr> = server
        .forwards
        .iter()
        .map(|forward| *forward.target.ip())
        .collect();
    let mut names = Names::default();
    let mut devices: Vec<ImportedDevice> = members
        .into_iter()
        .map(|member| device(member, &networks, &servers, &mut names, &mut notes))
        .collect();
    // Those that get a free address must not take that of another.
    devices.sort_by_key(|device| device.ipv4.is_none());
    let forwards = forwards(server.forwards, &devices)?;
    let subnets = networks
        .into_iter()
        .map(|network| ImportedSubnet {
            name: network.name,
            ipv4: network.ipv4,
            ipv6: network.ipv6,
            place: network.place,
        })
        .collect();
    Ok(Reading {
        import: Import {
            private_key: server.private_key,
            listen_port,
            mtu: server.mtu,
            endpoint: server.endpoint,
            dns_servers: server.dns_servers,
            subnets,
            devices,
            forwards,
        },
        notes,
    })
}

/// A network for each IPv4 address of the server; the first IPv6 address belongs to the first of them, and so on.
fn networks(
    addresses: Vec<Address>,
    name: &str,
    notes: &mut Vec<String>,
) -> Result<Vec<Network>, ImportError> {
    let mut names = Names::default();
    let mut networks: Vec<Network> = Vec::new();
    let mut prefixes = Vec::new();
    for address in addresses {
        let net = match address.net {
            IpNet::V4(net) => net,
            IpNet::V6(net) => {
                prefixes.push((net, address.place));
                continue;
            }
        };
        if net.prefix_len() > 30 {
            return Err(ImportError::new(
                &address.place,
                format!("{net} names no network for the peers"),
                "write the network's length behind the server's address, as in 10.8.0.1/24, and read it again",
            ));
        }
        if first_host(net) != net.addr() {
            notes.push(format!(
                "{}: the gateway's address in the tunnel becomes {}; it was {}",
                address.place,
                first_host(net),
                net.addr()
            ));
        }
        networks.push(Network {
            name: names.give(address.name.as_deref().or(Some(name)), "subnet", "imported"),
            ipv4: net.trunc(),
            ipv6: None,
            place: address.place,
        });
    }
    if networks.is_empty() {
        let reason =
            "the server has no IPv4 address in the tunnel, and a subnet needs an IPv4 network";
        let hint = "add one to `Address`, as in 10.8.0.1/24, and read it again";
        return Err(ImportError::new("Address", reason, hint));
    }
    for (index, (net, place)) in prefixes.into_iter().enumerate() {
        match networks.get_mut(index) {
            Some(network) => network.ipv6 = Some(net),
            None => notes.push(format!(
                "{place}: {net} is left out: a subnet has one IPv6 prefix"
            )),
        }
    }
    Ok(networks)
}

/// Finds the network that a peer is in, and what else is routed to it.
fn place(peer: Peer, networks: &[Network]) -> Result<Member, ImportError> {
    let mut home: Option<(usize, Option<Ipv4Addr>)> = None;
    let mut ipv6 = Vec::new();
    let mut delegations = Vec::new();
    for (net, place) in &peer.allowed_ips {
        if net.prefix_len() == 0 {
            return Err(ImportError::new(
                place,
                "the peer takes everything, so this is the configuration of a device and not of a server",
                super::OTHER_FILE,
            ));
        }
        match net {
            IpNet::V4(net) => {
                let meets =
                    |network: &&Network| network.ipv4.contains(net) || net.contains(&network.ipv4);
                let Some(network) = networks.iter().find(meets) else {
                    delegations.push(IpNet::V4(net.trunc()));
                    continue;
                };
                if net.prefix_len() != 32 || !is_host(network.ipv4, net.addr()) {
                    let reason = format!("{net} is no single address of {}", network.ipv4);
                    let hint = "write the peer's own address with /32; networks behind it have to lie elsewhere";
                    return Err(ImportError::new(place, reason, hint));
                }
                let index = networks.iter().position(|other| other.ipv4 == network.ipv4);
                if let Some((_, Some(first))) = home {
                    let reason = format!(
                        "the peer has {first} already, and a device has one IPv4 address in the tunnel"
                    );
                    return Err(ImportError::new(place, reason, MEND));
                }
                home = index.map(|index| (index, Some(net.addr())));
            }
            IpNet::V6(net) => {
                let within = |network: &Network| {
                    network
                        .ipv6
                        .is_some_and(|prefix| prefix.contains(&net.addr()))
                };
                match networks.iter().position(within) {
                    Some(index) if net.prefix_len() == 128 => {
                        ipv6.push(net.addr());
                        home = home.or(Some((index, None)));
                    }
                    Some(_) | None => delegations.push(IpNet::V6(net.trunc())),
                }
            }
        }
    }
    let (network, ipv4) = home.unwrap_or((0, None));
    Ok(Member {
        peer,
        network,
        ipv4,
        ipv6,
        delegations,
    })
}

/// WireGuard would silently give what two peers name to the later one.
fn check_unique(members: &[Member]) -> Result<(), ImportError> {
    let mut keys: BTreeMap<PublicKey, &str> = BTreeMap::new();
    let mut prefixes: BTreeMap<IpNet, &str> = BTreeMap::new();
    for member in members {
        let peer = &member.peer;
        if let Some(first) = keys.insert(peer.public_key, &peer.place) {
            let reason = format!("its public key is also that of {first}");
            return Err(ImportError::new(&peer.place, reason, MEND));
        }
        for (net, place) in &peer.allowed_ips {
            let first = prefixes.insert(net.trunc(), &peer.place);
            if let Some(first) = first.filter(|first| *first != peer.place) {
                let reason = format!("{net} is also among the addresses of {first}");
                return Err(ImportError::new(place, reason, MEND));
            }
        }
    }
    Ok(())
}

/// The prefix in which the peers' IPv6 addresses follow from their IPv4 addresses, or the server's own where there is none: what
/// does not follow then becomes a delegation.
fn choose_prefix<'a>(
    own: Ipv6Net,
    ipv4: Ipv4Net,
    members: impl Iterator<Item = &'a Member> + Clone,
) -> Ipv6Net {
    let shortest = if own.prefix_len() > 127 {
        64
    } else {
        own.prefix_len()
    };
    let longest = (96 + ipv4.prefix_len()).min(127).max(shortest);
    let follows = |prefix: &Ipv6Net, with_gateway: bool| {
        let mut pairs = members.clone().flat_map(|member| {
            let all = member.ipv6.iter().copied();
            all.map(move |ipv6| (member.ipv4, ipv6))
        });
        let gateway = !with_gateway || host_ipv6(*prefix, first_host(ipv4)) == own.addr();
        gateway
            && pairs.all(|(ipv4, ipv6)| ipv4.is_some_and(|ipv4| host_ipv6(*prefix, ipv4) == ipv6))
    };
    // The server's own prefix, or what has room for exactly the hosts of the IPv4 network, or whatever fits.
    let prefixes = [shortest, longest]
        .into_iter()
        .chain(shortest..longest)
        .filter_map(|length| Ipv6Net::new(own.addr(), length).ok())
        .map(|prefix| prefix.trunc());
    let found = prefixes.clone().find(|prefix| follows(prefix, true));
    found
        .or_else(|| prefixes.clone().find(|prefix| follows(prefix, false)))
        .or_else(|| {
            Ipv6Net::new(own.addr(), shortest)
                .ok()
                .map(|prefix| prefix.trunc())
        })
        .unwrap_or(own)
}

fn device(
    member: Member,
    networks: &[Network],
    servers: &BTreeSet<Ipv4Addr>,
    names: &mut Names,
    notes: &mut Vec<String>,
) -> ImportedDevice {
    let Member {
        peer,
        network,
        ipv4,
        ipv6,
        mut delegations,
    } = member;
    let network = &networks[network];
    let name = names.give(peer.name.as_deref(), "device", "device");
    if let Some(wish) = peer.name.as_deref().filter(|wish| *wish != name) {
        notes.push(format!(
            "{}: `{}` is called `{name}`",
            peer.place,
            shown(wish)
        ));
    }
    if ipv4.is_none() {
        notes.push(format!(
            "{}: device `{name}` has no IPv4 address in {}, and gets a free one",
            peer.place, network.ipv4
        ));
    }
    let own = network
        .ipv6
        .zip(ipv4)
        .map(|(prefix, ipv4)| host_ipv6(prefix, ipv4));
    for address in ipv6 {
        if own != Some(address) {
            delegations.push(IpNet::from(IpAddr::V6(address)));
        }
    }
    let is_server = ipv4.is_some_and(|ipv4| servers.contains(&ipv4));
    ImportedDevice {
        name,
        subnet: network.name.clone(),
        ipv4,
        kind: if is_server {
            DeviceKind::Server
        } else {
            DeviceKind::Client
        },
        public_key: peer.public_key,
        preshared_key: peer.preshared_key,
        enabled: peer.enabled,
        expires: peer.expires,
        delegations,
        place: peer.place,
    }
}

fn shown(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(80)
        .collect()
}

fn forwards(
    forwards: Vec<Forward>,
    devices: &[ImportedDevice],
) -> Result<Vec<ImportedForward>, ImportError> {
    let owners: BTreeMap<Ipv4Addr, &str> = devices
        .iter()
        .filter_map(|device| Some((device.ipv4?, device.name.as_str())))
        .collect();
    let forward = |forward: Forward| {
        let (source, target) = (forward.source, forward.target);
        let Some(device) = owners.get(target.ip()) else {
            let reason = format!("{} is no device's address", target.ip());
            return Err(ImportError::new(&forward.place, reason, MEND));
        };
        Ok(ImportedForward {
            address: Some(IpAddr::V4(*source.ip())).filter(|address| !address.is_unspecified()),
            port: source.port(),
            protocols: BTreeSet::new(),
            device: (*device).to_owned(),
            target_port: target.port(),
            label: shown(&forward.label),
            enabled: forward.enabled,
            place: forward.place,
        })
    };
    forwards.into_iter().map(forward).collect()
}
