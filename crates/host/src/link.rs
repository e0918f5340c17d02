//! The tunnel interface: create, bring up, remove.

use adit_model::desired::link::Link;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use nix::errno::Errno;

use crate::netlink::{Cause, Netlink, NetlinkError};
use crate::sysctl;

/// An interface as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedLink {
    /// Name and MTU.
    pub link: Link,
    /// Kernel interface index.
    pub index: u32,
    /// Administratively up.
    pub up: bool,
}

/// The interface of this name, none if it does not exist.
pub async fn observe(netlink: &Netlink, name: &str) -> Result<Option<ObservedLink>, NetlinkError> {
    let message = netlink
        .link(name)
        .await
        .map_err(NetlinkError::because("observe", format!("link {name}")))?;
    Ok(message.map(|message| ObservedLink {
        link: Link {
            name: name.to_owned(),
            mtu: mtu_of(&message),
        },
        index: message.header.index,
        up: is_up(&message),
    }))
}

/// Creates a kernel WireGuard interface, down; false when this kernel has no such kind.
pub async fn create_wireguard(netlink: &Netlink, link: &Link) -> Result<bool, NetlinkError> {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(link.name.clone()),
        LinkAttribute::Mtu(link.mtu),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]),
    ];
    let created = netlink
        .change(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .await;
    match created {
        Ok(()) => Ok(true),
        Err(Cause::Kernel(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::ENOSYS)) => Ok(false),
        Err(cause) => Err(NetlinkError::because("create", object(link))(cause)),
    }
}

/// Gives our interface its MTU, keeps the kernel from inventing IPv6 addresses for it, and brings it up.
pub async fn set_mtu_up(netlink: &Netlink, link: &Link) -> Result<(), NetlinkError> {
    let because = NetlinkError::because("bring up", object(link));
    match set(netlink, link).await {
        Ok(()) => Ok(()),
        Err(cause) => Err(because(cause)),
    }
}

/// Removes an interface; one that does not exist is removed already.
pub async fn remove(netlink: &Netlink, name: &str) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    match netlink
        .change(RouteNetlinkMessage::DelLink(message), 0)
        .await
    {
        Ok(()) => Ok(()),
        Err(cause) if cause.is_gone() => Ok(()),
        Err(cause) => Err(NetlinkError::because("remove", format!("link {name}"))(
            cause,
        )),
    }
}

pub(crate) fn mtu_of(message: &LinkMessage) -> u32 {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        })
        .unwrap_or_default()
}

pub(crate) fn is_up(message: &LinkMessage) -> bool {
    message.header.flags.contains(LinkFlags::Up)
}

async fn set(netlink: &Netlink, link: &Link) -> Result<(), Cause> {
    let index = netlink
        .link(&link.name)
        .await?
        .ok_or_else(|| Cause::NoInterface(link.name.clone()))?
        .header
        .index;

    // In a request of its own and first: the kernel handles the flags of a request before its address families, and
    // an interface that comes up gets its link-local address at that moment.
    let mut silent = LinkMessage::default();
    silent.header.index = index;
    silent.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
        vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
    )])];

    let mut up = LinkMessage::default();
    up.header.index = index;
    up.header.flags = LinkFlags::Up;
    up.header.change_mask = LinkFlags::Up;
    up.attributes = vec![LinkAttribute::Mtu(link.mtu)];

    match netlink
        .change(RouteNetlinkMessage::SetLink(silent), 0)
        .await
    {
        // Without IPv6 there is nothing to keep the kernel from.
        Ok(()) | Err(Cause::Kernel(Errno::EAFNOSUPPORT)) => {}
        Err(cause) => return Err(cause),
    }
    use_ipv6(&link.name);
    netlink.change(RouteNetlinkMessage::SetLink(up), 0).await
}

/// A host may have IPv6 off for every new link, and use it all the same.
fn use_ipv6(name: &str) {
    let path = |link: &str| format!("net/ipv6/conf/{link}/disable_ipv6");
    let is_off = |link: &str| {
        sysctl::read(&path(link)).is_ok_and(|value| value.is_some_and(|value| value == "1"))
    };
    if is_off(name)
        && !is_off("all")
        && let Err(error) = sysctl::write(&path(name), "0")
    {
        tracing::warn!(%error, interface = name, "IPv6 is off on the interface, and stays off");
    }
}

fn object(link: &Link) -> String {
    format!("link {} (MTU {})", link.name, link.mtu)
}
