//! Proxy neighbour entries that carry our protocol number.
//!
//! The kernel sends no event when an entry comes or goes, and drops all entries of a link that goes down: look again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use adit_model::desired::neighbor::ProxyNeighbor;
use adit_model::desired::route::PROTOCOL;
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use crate::netlink::{Cause, Netlink, NetlinkError};

/// Every proxy entry of ours.
pub async fn observe(netlink: &Netlink) -> Result<BTreeSet<ProxyNeighbor>, NetlinkError> {
    list(netlink)
        .await
        .map_err(NetlinkError::because("observe", "proxy neighbours"))
}

/// Adds a proxy entry. One of others for the same address is left alone, and an error.
pub async fn add(netlink: &Netlink, neighbor: &ProxyNeighbor) -> Result<(), NetlinkError> {
    first_failure(add_many(netlink, std::slice::from_ref(neighbor)).await)
}

/// Removes a proxy entry of ours; one that is not there, or is not ours, is removed already.
pub async fn remove(netlink: &Netlink, neighbor: &ProxyNeighbor) -> Result<(), NetlinkError> {
    first_failure(remove_many(netlink, std::slice::from_ref(neighbor)).await)
}

/// [`add`]s many; returns those that failed.
pub async fn add_many(
    netlink: &Netlink,
    neighbors: &[ProxyNeighbor],
) -> Vec<(ProxyNeighbor, NetlinkError)> {
    change(netlink, neighbors, Change::Add).await
}

/// [`remove`]s many; returns those that failed.
pub async fn remove_many(
    netlink: &Netlink,
    neighbors: &[ProxyNeighbor],
) -> Vec<(ProxyNeighbor, NetlinkError)> {
    change(netlink, neighbors, Change::Remove).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Add,
    Remove,
}

impl Change {
    fn judge(self, netlink: &Netlink, result: Result<(), Cause>) -> Result<(), Cause> {
        match self {
            Self::Add => result,
            Self::Remove => netlink.removed(result),
        }
    }
}

/// More entries than this are looked for in a list of all, fewer one by one.
const LOOKED_UP: usize = 16;

/// The kernel's own creation does not look at the protocol and would take an entry of others over; its own deletion, too.
async fn change(
    netlink: &Netlink,
    neighbors: &[ProxyNeighbor],
    change: Change,
) -> Vec<(ProxyNeighbor, NetlinkError)> {
    let operation = match change {
        Change::Add => "add",
        Change::Remove => "remove",
    };
    let failure = |neighbor: &ProxyNeighbor, cause| {
        let error = NetlinkError::because(operation, object(neighbor))(cause);
        (neighbor.clone(), error)
    };
    let mut failures = Vec::new();
    let places = match places(netlink, neighbors).await {
        Ok(places) => places,
        Err(cause) => {
            let reason = cause.to_string();
            let cause = || Cause::Socket(std::io::Error::other(reason.clone()));
            return (neighbors.iter())
                .map(|neighbor| failure(neighbor, cause()))
                .collect();
        }
    };
    let mut changed = Vec::new();
    let mut requests = Vec::new();
    for (neighbor, place) in neighbors.iter().zip(places) {
        let index = match (place, change) {
            (Place::NoInterface, _) => {
                let result = Err(Cause::NoInterface(neighbor.interface.clone()));
                if let Err(cause) = change.judge(netlink, result) {
                    failures.push(failure(neighbor, cause));
                }
                continue;
            }
            (Place::Others, Change::Add) => {
                failures.push(failure(neighbor, Cause::Occupied));
                continue;
            }
            (Place::Ours(_), Change::Add) | (Place::Others | Place::Free(_), Change::Remove) => {
                continue;
            }
            (Place::Free(index), Change::Add) | (Place::Ours(index), Change::Remove) => index,
        };
        let mut message = message(index, neighbor.address);
        requests.push(match change {
            Change::Add => {
                // Permanent entries survive a lost carrier on kernels that make the difference.
                message.header.state = NeighbourState::Permanent;
                let protocol = RouteProtocol::Other(PROTOCOL);
                message
                    .attributes
                    .push(NeighbourAttribute::Protocol(protocol));
                (RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE)
            }
            Change::Remove => (RouteNetlinkMessage::DelNeighbour(message), 0),
        });
        changed.push(neighbor);
    }
    let results = netlink.change_many(requests).await;
    for (neighbor, result) in changed.into_iter().zip(results) {
        if let Err(cause) = change.judge(netlink, result) {
            failures.push(failure(neighbor, cause));
        }
    }
    failures
}

/// What is where an entry belongs; the index is that of its interface.
#[derive(Clone, Copy)]
enum Place {
    NoInterface,
    Free(u32),
    Ours(u32),
    Others,
}

async fn places(netlink: &Netlink, neighbors: &[ProxyNeighbor]) -> Result<Vec<Place>, Cause> {
    let interfaces = neighbors.iter().map(|neighbor| neighbor.interface.as_str());
    let indexes = netlink.indexes(interfaces).await?;
    let index_of = |neighbor: &ProxyNeighbor| indexes.get(&neighbor.interface).copied();
    let place = |index, entry: Option<bool>| match entry {
        None => Place::Free(index),
        Some(true) => Place::Ours(index),
        Some(false) => Place::Others,
    };
    let mut places = Vec::with_capacity(neighbors.len());
    if neighbors.len() > LOOKED_UP {
        let entries: BTreeMap<(u32, Ipv6Addr), bool> = dump(netlink)
            .await?
            .iter()
            .filter_map(|entry| {
                let address = address_of(entry)?;
                Some(((entry.header.ifindex, address), is_ours(entry)))
            })
            .collect();
        for neighbor in neighbors {
            places.push(index_of(neighbor).map_or(Place::NoInterface, |index| {
                let entry = entries.get(&(index, neighbor.address));
                place(index, entry.copied())
            }));
        }
        return Ok(places);
    }
    for neighbor in neighbors {
        places.push(match index_of(neighbor) {
            Some(index) => {
                let entry = get(netlink, index, neighbor.address).await?;
                place(index, entry.as_ref().map(is_ours))
            }
            None => Place::NoInterface,
        });
    }
    Ok(places)
}

async fn dump(netlink: &Netlink) -> Result<Vec<NeighbourMessage>, Cause> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.flags = NeighbourFlags::Proxy;
    let request = RouteNetlinkMessage::GetNeighbour(message);
    let answers = match netlink.dump(request).await {
        Ok(answers) => answers,
        Err(Cause::Kernel(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) => Vec::new(),
        Err(cause) => return Err(cause),
    };
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewNeighbour(message) => Some(message),
            _ => None,
        })
        .collect())
}

async fn list(netlink: &Netlink) -> Result<BTreeSet<ProxyNeighbor>, Cause> {
    let ours: Vec<(u32, Ipv6Addr)> = dump(netlink)
        .await?
        .iter()
        .filter(|message| is_ours(message))
        .filter_map(|message| Some((message.header.ifindex, address_of(message)?)))
        .collect();
    if ours.is_empty() {
        return Ok(BTreeSet::new());
    }
    let links = netlink.links().await?;
    Ok(ours
        .into_iter()
        .filter_map(|(index, address)| {
            let link = links.iter().find(|link| link.header.index == index)?;
            Some(ProxyNeighbor {
                interface: crate::netlink::name_of(link)?.to_owned(),
                address,
            })
        })
        .collect())
}

async fn get(
    netlink: &Netlink,
    index: u32,
    address: Ipv6Addr,
) -> Result<Option<NeighbourMessage>, Cause> {
    let request = RouteNetlinkMessage::GetNeighbour(message(index, address));
    match netlink.get(request).await {
        Ok(Some(RouteNetlinkMessage::NewNeighbour(message))) => Ok(Some(message)),
        Ok(_) => Ok(None),
        Err(Cause::Kernel(Errno::ENOENT)) => Ok(None),
        Err(cause) => Err(cause),
    }
}

fn message(index: u32, address: Ipv6Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.ifindex = index;
    message.header.flags = NeighbourFlags::Proxy;
    message
        .attributes
        .push(NeighbourAttribute::Destination(NeighbourAddress::Inet6(
            address,
        )));
    message
}

pub(crate) fn is_ours(message: &NeighbourMessage) -> bool {
    message.header.flags.contains(NeighbourFlags::Proxy)
        && message
            .attributes
            .contains(&NeighbourAttribute::Protocol(RouteProtocol::Other(
                PROTOCOL,
            )))
}

pub(crate) fn address_of(message: &NeighbourMessage) -> Option<Ipv6Addr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(*address),
            _ => None,
        })
}

fn first_failure(failures: Vec<(ProxyNeighbor, NetlinkError)>) -> Result<(), NetlinkError> {
    let first = failures.into_iter().next();
    first.map_or(Ok(()), |(_, error)| Err(error))
}

fn object(neighbor: &ProxyNeighbor) -> String {
    format!(
        "proxy neighbour {} on {}",
        neighbor.address, neighbor.interface
    )
}
