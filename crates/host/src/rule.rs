//! Policy routing rules that carry our protocol number.

use std::collections::BTreeSet;
use std::net::IpAddr;

use adit_model::desired::route::PROTOCOL;
use adit_model::desired::rule::{MARK_MASK, Rule};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use crate::netlink::{Cause, Netlink, NetlinkError};

/// What the kernel reports where no prefix length is suppressed.
const NOT_SUPPRESSED: u32 = u32::MAX;

/// Every rule of ours.
pub async fn observe(netlink: &Netlink) -> Result<BTreeSet<Rule>, NetlinkError> {
    let mut rules = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        match list(netlink, family).await {
            Ok(messages) => rules.extend(messages.iter().filter_map(rule_of)),
            Err(Cause::Kernel(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) => {}
            Err(cause) => return Err(NetlinkError::because("observe", "rules")(cause)),
        }
    }
    Ok(rules)
}

/// Adds a rule; one that is there is added already.
pub async fn add(netlink: &Netlink, rule: &Rule) -> Result<(), NetlinkError> {
    let added = netlink
        .change(
            RouteNetlinkMessage::NewRule(message(rule)),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .await;
    match added {
        // The protocol number is part of what the kernel compares, so this is ours.
        Ok(()) | Err(Cause::Kernel(Errno::EEXIST)) => Ok(()),
        Err(cause) => Err(NetlinkError::because("add", object(rule))(cause)),
    }
}

/// Removes a rule; one that is not there is removed already.
///
/// The kernel takes a source of length zero and a missing interface as "any", so of several rules of ours with one
/// priority another may go; what is missing then is put back by the next pass.
pub async fn remove(netlink: &Netlink, rule: &Rule) -> Result<(), NetlinkError> {
    let removed = netlink
        .change(RouteNetlinkMessage::DelRule(message(rule)), 0)
        .await;
    netlink
        .removed(removed)
        .map_err(NetlinkError::because("remove", object(rule)))
}

async fn list(netlink: &Netlink, family: AddressFamily) -> Result<Vec<RuleMessage>, Cause> {
    let mut message = RuleMessage::default();
    message.header.family = family;
    let answers = netlink.dump(RouteNetlinkMessage::GetRule(message)).await?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRule(message) => Some(message),
            _ => None,
        })
        .collect())
}

fn message(rule: &Rule) -> RuleMessage {
    let source = rule.source.addr();
    let mut message = RuleMessage::default();
    message.header.family = match source {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.action = RuleAction::ToTable;
    message.header.src_len = rule.source.prefix_len();
    message.header.dst_len = rule.destination.map_or(0, |net| net.prefix_len());
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
    ];
    if rule.source.prefix_len() > 0 {
        message.attributes.push(RuleAttribute::Source(source));
    }
    if let Some(destination) = rule.destination {
        message
            .attributes
            .push(RuleAttribute::Destination(destination.addr()));
    }
    if let Some(interface) = &rule.input_interface {
        message
            .attributes
            .push(RuleAttribute::Iifname(interface.clone()));
    }
    if let Some(mark) = rule.mark {
        message.attributes.push(RuleAttribute::FwMark(mark));
        message.attributes.push(RuleAttribute::FwMask(MARK_MASK));
    }
    if let Some(length) = rule.suppress_prefix_length {
        message
            .attributes
            .push(RuleAttribute::SuppressPrefixLen(length));
    }
    message
}

pub(crate) fn rule_of(message: &RuleMessage) -> Option<Rule> {
    let mut ours = false;
    let mut source = match message.header.family {
        AddressFamily::Inet => IpNet::from(Ipv4Net::default()),
        AddressFamily::Inet6 => IpNet::from(Ipv6Net::default()),
        _ => return None,
    };
    let mut rule = Rule {
        priority: 0,
        source,
        destination: None,
        input_interface: None,
        mark: None,
        table: message.header.table.into(),
        suppress_prefix_length: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Protocol(protocol) => {
                ours = *protocol == RouteProtocol::Other(PROTOCOL);
            }
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Source(address) => {
                source = IpNet::new(*address, message.header.src_len).ok()?;
            }
            RuleAttribute::Destination(address) => {
                rule.destination = Some(IpNet::new(*address, message.header.dst_len).ok()?);
            }
            RuleAttribute::Iifname(interface) => rule.input_interface = Some(interface.clone()),
            RuleAttribute::FwMark(mark) if *mark != 0 => rule.mark = Some(*mark),
            RuleAttribute::SuppressPrefixLen(length) if *length != NOT_SUPPRESSED => {
                rule.suppress_prefix_length = Some(*length);
            }
            _ => {}
        }
    }
    rule.source = source;
    ours.then_some(rule)
}

fn object(rule: &Rule) -> String {
    let interface = rule
        .input_interface
        .as_ref()
        .map(|interface| format!(" iif {interface}"))
        .unwrap_or_default();
    format!(
        "rule {} from {}{interface} lookup {}",
        rule.priority, rule.source, rule.table
    )
}
