//! Proxy neighbour entries that carry our protocol number.
//!
//! The kernel sends no event when an entry comes or goes, and drops all entries of a link that goes down: look again.

use std::collections::BTreeSet;
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
    create(netlink, neighbor)
        .await
        .map_err(NetlinkError::because("add", object(neighbor)))
}

/// Removes a proxy entry of ours; one that is not there, or is not ours, is removed already.
pub async fn remove(netlink: &Netlink, neighbor: &ProxyNeighbor) -> Result<(), NetlinkError> {
    let removed = delete(netlink, neighbor).await;
    netlink
        .removed(removed)
        .map_err(NetlinkError::because("remove", object(neighbor)))
}

async fn list(netlink: &Netlink) -> Result<BTreeSet<ProxyNeighbor>, Cause> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.flags = NeighbourFlags::Proxy;
    let answers = match netlink
        .dump(RouteNetlinkMessage::GetNeighbour(message))
        .await
    {
        Ok(answers) => answers,
        Err(Cause::Kernel(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) => return Ok(BTreeSet::new()),
        Err(cause) => return Err(cause),
    };
    let ours: Vec<(u32, Ipv6Addr)> = answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewNeighbour(message) if is_ours(message) => {
                Some((message.header.ifindex, address_of(message)?))
            }
            _ => None,
        })
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

/// The kernel's own creation does not look at the protocol and would take an entry of others over.
async fn create(netlink: &Netlink, neighbor: &ProxyNeighbor) -> Result<(), Cause> {
    let index = index_of(netlink, neighbor).await?;
    if let Some(existing) = get(netlink, index, neighbor.address).await? {
        return match is_ours(&existing) {
            true => Ok(()),
            false => Err(Cause::Occupied),
        };
    }
    let mut message = message(index, neighbor.address);
    // Permanent entries survive a lost carrier on kernels that make the difference.
    message.header.state = NeighbourState::Permanent;
    message
        .attributes
        .push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    netlink
        .change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE)
        .await
}

async fn delete(netlink: &Netlink, neighbor: &ProxyNeighbor) -> Result<(), Cause> {
    let index = index_of(netlink, neighbor).await?;
    match get(netlink, index, neighbor.address).await? {
        Some(existing) if is_ours(&existing) => {
            let message = message(index, neighbor.address);
            netlink
                .change(RouteNetlinkMessage::DelNeighbour(message), 0)
                .await
        }
        Some(_) | None => Ok(()),
    }
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

async fn index_of(netlink: &Netlink, neighbor: &ProxyNeighbor) -> Result<u32, Cause> {
    let link = netlink.link(&neighbor.interface).await?;
    link.map(|link| link.header.index)
        .ok_or_else(|| Cause::NoInterface(neighbor.interface.clone()))
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

fn is_ours(message: &NeighbourMessage) -> bool {
    message.header.flags.contains(NeighbourFlags::Proxy)
        && message
            .attributes
            .contains(&NeighbourAttribute::Protocol(RouteProtocol::Other(
                PROTOCOL,
            )))
}

fn address_of(message: &NeighbourMessage) -> Option<Ipv6Addr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(*address),
            _ => None,
        })
}

fn object(neighbor: &ProxyNeighbor) -> String {
    format!(
        "proxy neighbour {} on {}",
        neighbor.address, neighbor.interface
    )
}
