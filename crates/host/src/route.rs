//! Routes that carry our protocol number, in every table and both families.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use adit_model::desired::route::{PROTOCOL, Route, RouteTarget};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{
    NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use crate::netlink::{Cause, Netlink, NetlinkError};

/// Every route of ours.
pub async fn observe(netlink: &Netlink) -> Result<BTreeSet<Route>, NetlinkError> {
    list_ours(netlink)
        .await
        .map_err(NetlinkError::because("observe", "routes"))
}

/// Adds a route, or changes ours to the same destination, table and metric. A route of others in that place is left
/// alone, and an error.
pub async fn add(netlink: &Netlink, route: &Route) -> Result<(), NetlinkError> {
    first_failure(add_many(netlink, std::slice::from_ref(route)).await)
}

/// Removes a route; one that is not there is removed already.
pub async fn remove(netlink: &Netlink, route: &Route) -> Result<(), NetlinkError> {
    first_failure(remove_many(netlink, std::slice::from_ref(route)).await)
}

/// [`add`]s many; returns those that failed.
pub async fn add_many(netlink: &Netlink, routes: &[Route]) -> Vec<(Route, NetlinkError)> {
    let attempts = change(netlink, routes, Change::Create).await;
    let mut failures = Vec::new();
    let mut occupied = Vec::new();
    for (route, result) in routes.iter().zip(attempts) {
        match result {
            Ok(()) => {}
            Err(Cause::Kernel(Errno::EEXIST)) => occupied.push(route.clone()),
            Err(cause) => failures.push(failure("add", route, cause)),
        }
    }
    if !occupied.is_empty() {
        failures.extend(settle(netlink, &occupied).await);
    }
    failures
}

/// [`remove`]s many; returns those that failed.
pub async fn remove_many(netlink: &Netlink, routes: &[Route]) -> Vec<(Route, NetlinkError)> {
    let attempts = change(netlink, routes, Change::Delete).await;
    routes
        .iter()
        .zip(attempts)
        .filter_map(|(route, result)| {
            let cause = netlink.removed(result).err()?;
            Some(failure("remove", route, cause))
        })
        .collect()
}

/// A route with our protocol number, as an event tells of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// It is there now; else it is gone.
    pub is_there: bool,
    /// Routing table number.
    pub table: u32,
    /// Destination, host bits zero.
    pub destination: IpNet,
    /// Metric.
    pub metric: u32,
    /// Whether packets are answered as unreachable.
    pub is_unreachable: bool,
    /// Index of the interface, if it leads out of one.
    pub interface: Option<u32>,
    /// Next hop.
    pub gateway: Option<IpAddr>,
}

/// The route of ours that a netlink message tells of; none if it is of others.
pub(crate) fn seen(message: &[u8]) -> Option<Seen> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).ok()?;
    let (is_there, message) = match message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(message)) => (true, message),
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(message)) => (false, message),
        _ => return None,
    };
    if message.header.protocol != RouteProtocol::Other(PROTOCOL) {
        return None;
    }
    let (interface, gateway) = next_hop_of(&message.attributes);
    let is_unreachable = message.header.kind == RouteType::Unreachable;
    Some(Seen {
        is_there,
        table: table_of(&message),
        destination: destination_of(&message)?,
        metric: metric_of(&message),
        is_unreachable,
        // The kernel puts IPv6 routes that lead nowhere on loopback.
        interface: interface.filter(|_| !is_unreachable),
        gateway,
    })
}

/// Routes of one family as the kernel lists them; filtered by the kernel where a filter is not zero.
pub(crate) async fn list(
    netlink: &Netlink,
    family: AddressFamily,
    protocol: RouteProtocol,
    table: u8,
) -> Result<Vec<RouteMessage>, Cause> {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.protocol = protocol;
    message.header.table = table;
    let answers = match netlink.dump(RouteNetlinkMessage::GetRoute(message)).await {
        Ok(answers) => answers,
        // A table that nothing was ever put into, or a kernel without this family.
        Err(Cause::Kernel(Errno::ENOENT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) => Vec::new(),
        Err(cause) => return Err(cause),
    };
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => Some(message),
            _ => None,
        })
        .collect())
}

/// The destination of a route, host bits zero.
pub(crate) fn destination_of(message: &RouteMessage) -> Option<IpNet> {
    let length = message.header.destination_prefix_length;
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(address) => address_of(address),
            _ => None,
        });
    match (address, message.header.address_family) {
        (Some(address), _) => IpNet::new(address, length).ok(),
        (None, AddressFamily::Inet) => Some(Ipv4Net::default().into()),
        (None, AddressFamily::Inet6) => Some(Ipv6Net::default().into()),
        (None, _) => None,
    }
}

/// Interface index and next hop among the attributes of a route, or of one of several next hops.
pub(crate) fn next_hop_of(attributes: &[RouteAttribute]) -> (Option<u32>, Option<IpAddr>) {
    let mut index = None;
    let mut gateway = None;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Gateway(address) => gateway = address_of(address),
            RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some((*address).into()),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some((*address).into()),
            _ => {}
        }
    }
    (index, gateway)
}

pub(crate) fn metric_of(message: &RouteMessage) -> u32 {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        })
        .unwrap_or_default()
}

#[derive(Clone, Copy)]
enum Change {
    Create,
    Replace,
    Delete,
}

async fn list_ours(netlink: &Netlink) -> Result<BTreeSet<Route>, Cause> {
    let names = names(netlink).await?;
    let mut routes = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let messages = list(netlink, family, RouteProtocol::Other(PROTOCOL), 0).await?;
        routes.extend(
            messages
                .iter()
                .filter_map(|message| route_of(message, &names)),
        );
    }
    Ok(routes)
}

/// Decides for routes whose place is taken: reached if it is the very route, replaced if it is ours, else refused.
/// The kernel's own replace does not look at the protocol and would take a route of others away.
async fn settle(netlink: &Netlink, occupied: &[Route]) -> Vec<(Route, NetlinkError)> {
    let ours = match list_ours(netlink).await {
        Ok(ours) => ours,
        Err(cause) => {
            let reason = cause.to_string();
            return occupied
                .iter()
                .map(|route| {
                    let cause = Cause::Socket(std::io::Error::other(reason.clone()));
                    failure("add", route, cause)
                })
                .collect();
        }
    };
    let places: BTreeSet<_> = ours.iter().map(place).collect();
    let mut failures = Vec::new();
    let mut replaced = Vec::new();
    for route in occupied {
        if ours.contains(route) {
            continue;
        }
        if places.contains(&place(route)) {
            replaced.push(route.clone());
        } else {
            failures.push(failure("add", route, Cause::Occupied));
        }
    }
    let attempts = change(netlink, &replaced, Change::Replace).await;
    for (route, result) in replaced.iter().zip(attempts) {
        if let Err(cause) = result {
            failures.push(failure("add", route, cause));
        }
    }
    failures
}

fn place(route: &Route) -> (u32, IpNet, u32) {
    (route.table, route.destination, route.metric)
}

async fn names(netlink: &Netlink) -> Result<BTreeMap<u32, String>, Cause> {
    let links = netlink.links().await?;
    Ok(links
        .iter()
        .filter_map(|message| {
            let name = crate::netlink::name_of(message)?;
            Some((message.header.index, name.to_owned()))
        })
        .collect())
}

async fn change(netlink: &Netlink, routes: &[Route], change: Change) -> Vec<Result<(), Cause>> {
    let interfaces = routes.iter().filter_map(|route| match &route.target {
        RouteTarget::Interface { interface, .. } | RouteTarget::Local { interface } => {
            Some(interface.as_str())
        }
        RouteTarget::Unreachable => None,
    });
    let indexes = match netlink.indexes(interfaces).await {
        Ok(indexes) => indexes,
        Err(cause) => {
            let reason = cause.to_string();
            return routes
                .iter()
                .map(|_| Err(Cause::Socket(std::io::Error::other(reason.clone()))))
                .collect();
        }
    };

    let mut requests = Vec::new();
    let mut missing = BTreeMap::new();
    for (position, route) in routes.iter().enumerate() {
        let message = match message(route, &indexes) {
            Ok(message) => message,
            Err(cause) => {
                missing.insert(position, cause);
                continue;
            }
        };
        requests.push(match change {
            Change::Create => (
                RouteNetlinkMessage::NewRoute(message),
                NLM_F_CREATE | NLM_F_EXCL,
            ),
            Change::Replace => (
                RouteNetlinkMessage::NewRoute(message),
                NLM_F_CREATE | NLM_F_REPLACE,
            ),
            Change::Delete => (RouteNetlinkMessage::DelRoute(message), 0),
        });
    }
    let mut results = netlink.change_many(requests).await.into_iter();
    (0..routes.len())
        .map(|position| match missing.remove(&position) {
            Some(cause) => Err(cause),
            None => results.next().unwrap_or(Err(Cause::NoAnswer)),
        })
        .collect()
}

fn message(route: &Route, indexes: &BTreeMap<String, u32>) -> Result<RouteMessage, Cause> {
    let destination = route.destination.addr();
    let mut message = RouteMessage::default();
    message.header.address_family = match destination {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.attributes = vec![
        RouteAttribute::Table(route.table),
        RouteAttribute::Destination(destination.into()),
        RouteAttribute::Priority(route.metric),
    ];
    match &route.target {
        RouteTarget::Interface { interface, gateway } => {
            let index = indexes
                .get(interface)
                .ok_or_else(|| Cause::NoInterface(interface.clone()))?;
            message.header.kind = RouteType::Unicast;
            message.attributes.push(RouteAttribute::Oif(*index));
            match gateway {
                Some(gateway) => message.attributes.push(next_hop(destination, *gateway)),
                None if destination.is_ipv4() => message.header.scope = RouteScope::Link,
                None => {}
            }
        }
        RouteTarget::Local { interface } => {
            let index = indexes
                .get(interface)
                .ok_or_else(|| Cause::NoInterface(interface.clone()))?;
            message.header.kind = RouteType::Local;
            message.attributes.push(RouteAttribute::Oif(*index));
            if destination.is_ipv4() {
                message.header.scope = RouteScope::Host;
            }
        }
        RouteTarget::Unreachable => message.header.kind = RouteType::Unreachable,
    }
    Ok(message)
}

/// An IPv4 route through an IPv6 next hop needs another attribute (RFC 8950 forwarding).
fn next_hop(destination: IpAddr, gateway: IpAddr) -> RouteAttribute {
    match (destination, gateway) {
        (IpAddr::V4(_), IpAddr::V6(gateway)) => RouteAttribute::Via(RouteVia::Inet6(gateway)),
        (_, gateway) => RouteAttribute::Gateway(gateway.into()),
    }
}

pub(crate) fn route_of(message: &RouteMessage, names: &BTreeMap<u32, String>) -> Option<Route> {
    if message.header.protocol != RouteProtocol::Other(PROTOCOL) {
        return None;
    }
    let target = match message.header.kind {
        RouteType::Unicast => {
            let (index, gateway) = next_hop_of(&message.attributes);
            RouteTarget::Interface {
                interface: names.get(&index?)?.clone(),
                gateway,
            }
        }
        RouteType::Local => {
            let (index, _) = next_hop_of(&message.attributes);
            RouteTarget::Local {
                interface: names.get(&index?)?.clone(),
            }
        }
        RouteType::Unreachable => RouteTarget::Unreachable,
        _ => return None,
    };
    Some(Route {
        table: table_of(message),
        destination: destination_of(message)?,
        metric: metric_of(message),
        target,
    })
}

fn table_of(message: &RouteMessage) -> u32 {
    let table = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    table.unwrap_or_else(|| message.header.table.into())
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn failure(operation: &'static str, route: &Route, cause: Cause) -> (Route, NetlinkError) {
    let error = NetlinkError::because(operation, object(route))(cause);
    (route.clone(), error)
}

fn first_failure(failures: Vec<(Route, NetlinkError)>) -> Result<(), NetlinkError> {
    failures
        .into_iter()
        .next()
        .map_or(Ok(()), |(_, error)| Err(error))
}

fn object(route: &Route) -> String {
    let Route {
        table,
        destination,
        metric,
        target,
    } = route;
    match target {
        RouteTarget::Interface {
            interface,
            gateway: Some(gateway),
        } => format!(
            "route {destination} via {gateway} dev {interface} table {table} metric {metric}"
        ),
        RouteTarget::Interface {
            interface,
            gateway: None,
        } => format!("route {destination} dev {interface} table {table} metric {metric}"),
        RouteTarget::Local { interface } => {
            format!("route local {destination} dev {interface} table {table} metric {metric}")
        }
        RouteTarget::Unreachable => {
            format!("route {destination} unreachable table {table} metric {metric}")
        }
    }
}
