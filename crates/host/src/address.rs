//! Addresses on our interface.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use adit_model::desired::address::Address;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use crate::netlink::{Cause, Netlink, NetlinkError};

/// Every address on an interface of ours; none if the interface does not exist.
pub async fn observe(
    netlink: &Netlink,
    interface: &str,
) -> Result<BTreeSet<Address>, NetlinkError> {
    let because = NetlinkError::because("observe", format!("addresses on {interface}"));
    match list_on(netlink, interface).await {
        Ok(messages) => Ok(messages
            .iter()
            .filter_map(prefix_of)
            .map(|address| Address {
                interface: interface.to_owned(),
                address,
            })
            .collect()),
        Err(cause) => Err(because(cause)),
    }
}

/// IPv6 addresses that are this host's for a time only: by router advertisement, or DHCP.
pub async fn lent(netlink: &Netlink) -> Result<BTreeSet<Ipv6Addr>, NetlinkError> {
    let because = NetlinkError::because("observe", "addresses");
    let messages = match list(netlink).await {
        Ok(messages) => messages,
        Err(cause) => return Err(because(cause)),
    };
    Ok(messages
        .iter()
        .filter(|message| !message.header.flags.contains(AddressHeaderFlags::Permanent))
        .filter_map(|message| match prefix_of(message)?.addr() {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        })
        .collect())
}

/// Adds an address without a route to its prefix, usable at once; one that is there is added already.
pub async fn add(netlink: &Netlink, address: &Address) -> Result<(), NetlinkError> {
    let because = NetlinkError::because("add", object(address));
    let mut message = match message(netlink, address).await {
        Ok(message) => message,
        Err(cause) => return Err(because(cause)),
    };
    // Nobody on the tunnel answers duplicate address detection, and a tentative address cannot be bound.
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes.push(AddressAttribute::Flags(
        AddressFlags::Nodad | AddressFlags::Noprefixroute,
    ));
    let added = netlink
        .change(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .await;
    match added {
        Ok(()) | Err(Cause::Kernel(Errno::EEXIST)) => Ok(()),
        Err(cause) => Err(because(cause)),
    }
}

/// Removes an address; one that is not there is removed already.
pub async fn remove(netlink: &Netlink, address: &Address) -> Result<(), NetlinkError> {
    let because = NetlinkError::because("remove", object(address));
    let removed = match message(netlink, address).await {
        Ok(message) => {
            netlink
                .change(RouteNetlinkMessage::DelAddress(message), 0)
                .await
        }
        Err(cause) => Err(cause),
    };
    netlink.removed(removed).map_err(because)
}

/// All addresses of this host.
///
/// Of one interface alone the kernel does not tell when they change while it lists them, and then leaves some out.
pub(crate) async fn list(netlink: &Netlink) -> Result<Vec<AddressMessage>, Cause> {
    let answers = netlink
        .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))
        .await?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => Some(message),
            _ => None,
        })
        .collect())
}

/// The address with its prefix length; the local end where there is a peer.
pub(crate) fn prefix_of(message: &AddressMessage) -> Option<IpNet> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(peer) => {
                address.get_or_insert(*peer);
            }
            _ => {}
        }
    }
    IpNet::new(address?, message.header.prefix_len).ok()
}

async fn list_on(netlink: &Netlink, interface: &str) -> Result<Vec<AddressMessage>, Cause> {
    let Some(link) = netlink.link(interface).await? else {
        return Ok(Vec::new());
    };
    let mut messages = list(netlink).await?;
    messages.retain(|message| message.header.index == link.header.index);
    Ok(messages)
}

async fn message(netlink: &Netlink, address: &Address) -> Result<AddressMessage, Cause> {
    let link = netlink
        .link(&address.interface)
        .await?
        .ok_or_else(|| Cause::NoInterface(address.interface.clone()))?;
    let mut message = AddressMessage::default();
    message.header.index = link.header.index;
    message.header.prefix_len = address.address.prefix_len();
    message.header.family = match address.address.addr() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message
        .attributes
        .push(AddressAttribute::Local(address.address.addr()));
    message
        .attributes
        .push(AddressAttribute::Address(address.address.addr()));
    Ok(message)
}

fn object(address: &Address) -> String {
    format!("address {} on {}", address.address, address.interface)
}
