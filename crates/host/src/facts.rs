//! What this host is like, our own objects left out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use adit_model::desired::route::{MAIN_TABLE, PROTOCOL};
use adit_model::facts::{AddressFact, Facts, LinkFact, RouteFact};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType,
};
use thiserror::Error;

use crate::firewall::evidence;
use crate::netlink::{Netlink, NetlinkError, name_of};
use crate::sysctl::{self, SysctlError};
use crate::{address, link, listener, route};

/// Facts that could not be observed.
#[derive(Debug, Error)]
pub enum FactsError {
    /// Links, addresses or routes.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Settings.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// Listeners.
    #[error("cannot observe listening sockets: {0}")]
    Listeners(#[source] std::io::Error),
}

/// Everything about this host that a decision may depend on, in the network namespace of the calling thread.
pub async fn observe(netlink: &Netlink, tunnel_interface: &str) -> Result<Facts, FactsError> {
    let because = |object: &'static str| NetlinkError::because("observe", object);
    let messages = netlink.links().await.map_err(because("links"))?;
    let foreign: BTreeMap<u32, &LinkMessage> = messages
        .iter()
        .filter(|message| name_of(message).is_some_and(|name| name != tunnel_interface))
        .map(|message| (message.header.index, message))
        .collect();
    let names: BTreeMap<u32, &str> = foreign
        .iter()
        .filter_map(|(index, message)| Some((*index, name_of(message)?)))
        .collect();
    let links: BTreeMap<String, LinkFact> = foreign
        .iter()
        .filter(|(_, message)| !message.header.flags.contains(LinkFlags::Loopback))
        .filter_map(|(index, message)| Some((name_of(message)?.to_owned(), fact(*index, message))))
        .collect();

    let addresses = address::list(netlink).await.map_err(because("addresses"))?;
    let addresses = addresses
        .iter()
        .filter(|message| !is_duplicate(message))
        .filter_map(|message| {
            Some(AddressFact {
                interface: (*names.get(&message.header.index)?).to_owned(),
                address: address::prefix_of(message)?,
            })
        })
        .filter(|it| !it.address.addr().is_loopback())
        .collect();

    let mut routes = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let messages = route::list(netlink, family, RouteProtocol::Unspec, MAIN)
            .await
            .map_err(because("routes"))?;
        for message in &messages {
            routes.extend(routes_of(message, &names));
        }
    }

    Ok(Facts {
        sysctls: settings(links.keys())?,
        links,
        addresses,
        routes,
        listeners: tokio::task::spawn_blocking(|| listener::observe(&BTreeSet::new()))
            .await
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(FactsError::Listeners)?,
        evidence: evidence::observe().unwrap_or_else(|error| {
            // It is a hint, and everything else goes without it.
            tracing::debug!(%error, "cannot see what packets show of the prefixes");
            BTreeMap::new()
        }),
        ipv6: Path::new("/proc/thread-self/net/if_inet6").exists(),
        // What the daemon knows of itself is filled in by the daemon.
        ..Facts::default()
    })
}

const MAIN: u8 = MAIN_TABLE as u8;

fn fact(index: u32, message: &LinkMessage) -> LinkFact {
    LinkFact {
        index,
        mtu: link::mtu_of(message),
        up: link::is_up(message),
    }
}

/// Whether duplicate address detection found the address in use elsewhere (RFC 4862 section 5.4.5).
fn is_duplicate(message: &AddressMessage) -> bool {
    message.attributes.iter().any(|attribute| {
        matches!(attribute, AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Dadfailed))
    })
}

/// One fact for each next hop.
fn routes_of(message: &RouteMessage, names: &BTreeMap<u32, &str>) -> Vec<RouteFact> {
    let header = &message.header;
    let wanted = header.kind == RouteType::Unicast
        && header.table == MAIN
        && header.protocol != RouteProtocol::Other(PROTOCOL)
        && !header.flags.contains(RouteFlags::Cloned);
    let Some(destination) = route::destination_of(message).filter(|_| wanted) else {
        return Vec::new();
    };
    let metric = route::metric_of(message);
    let fact = |index: u32, gateway: Option<IpAddr>| {
        Some(RouteFact {
            destination,
            interface: (*names.get(&index)?).to_owned(),
            gateway,
            metric,
            from_router_advertisement: header.protocol == RouteProtocol::Ra,
        })
    };
    let several = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::MultiPath(hops) => Some(hops),
            _ => None,
        });
    match several {
        Some(hops) => hops
            .iter()
            .filter_map(|hop| {
                let (_, gateway) = route::next_hop_of(&hop.attributes);
                fact(hop.interface_index, gateway)
            })
            .collect(),
        None => {
            let (index, gateway) = route::next_hop_of(&message.attributes);
            index
                .and_then(|index| fact(index, gateway))
                .into_iter()
                .collect()
        }
    }
}

fn settings<'a>(
    links: impl Iterator<Item = &'a String>,
) -> Result<BTreeMap<String, String>, SysctlError> {
    let mut paths = vec![
        "net/ipv4/conf/all/forwarding".to_owned(),
        "net/ipv4/conf/all/rp_filter".to_owned(),
        "net/ipv6/conf/all/forwarding".to_owned(),
        "net/ipv6/conf/all/disable_ipv6".to_owned(),
        "net/netfilter/nf_conntrack_max".to_owned(),
    ];
    for link in links {
        paths.push(format!("net/ipv4/conf/{link}/rp_filter"));
        paths.push(format!("net/ipv6/conf/{link}/accept_ra"));
        paths.push(format!("net/ipv6/conf/{link}/disable_ipv6"));
    }
    let mut settings = BTreeMap::new();
    for path in paths {
        if let Some(value) = sysctl::read(&path)? {
            settings.insert(path, value);
        }
    }
    Ok(settings)
}
