//! A change of one kernel object, and how it reads.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::desired::address::Address;
use crate::desired::firewall::Endpoint;
use crate::desired::link::Link;
use crate::desired::neighbor::ProxyNeighbor;
use crate::desired::route::{MAIN_TABLE, Route, RouteTarget};
use crate::desired::rule::{MARK_MASK, Rule};
use crate::desired::wireguard::Peer;
use crate::key::{PrivateKey, PublicKey};

/// A change of one kernel object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Stops answering for an address.
    RemoveNeighbor(ProxyNeighbor),
    /// Removes a rule.
    RemoveRule(Rule),
    /// Removes a route.
    RemoveRoute(Route),
    /// Removes an address.
    RemoveAddress(Address),
    /// Removes a peer.
    RemovePeer(PublicKey),
    /// Takes prefixes from a peer, so that others may get them.
    ShrinkPeer(PublicKey, Peer),
    /// Changes a setting; its prior value is put on record.
    SetSysctl(String, String),
    /// Makes the tunnel interface and sets it up.
    CreateLink(Link),
    /// Sets the MTU of the tunnel interface and sets it up.
    SetLink(Link),
    /// Sets the private key, the port, or both.
    SetInterface {
        /// The key, if it differs.
        private_key: Option<PrivateKey>,
        /// The port, if it differs.
        listen_port: Option<u16>,
    },
    /// Replaces the whole table.
    ReplaceFirewall,
    /// Turns the table that is known to be there into the wanted one.
    UpdateFirewall,
    /// Adds a peer, or makes it exactly this.
    SetPeer(PublicKey, Peer),
    /// Adds an address.
    AddAddress(Address),
    /// Adds a route.
    AddRoute(Route),
    /// Adds a rule.
    AddRule(Rule),
    /// Answers for an address.
    AddNeighbor(ProxyNeighbor),
    /// Deletes the tunnel interface, and with it the process that carries it.
    RemoveLink(String),
    /// Deletes the table.
    RemoveFirewall,
    /// Gives a setting the value back that it had before us.
    RestoreSysctl(String),
    /// Ends tracked connections that no longer agree with the rest.
    SweepConntrack(Sweep),
}

/// Which tracked connections have to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Destinations whose meaning has changed.
    pub endpoints: BTreeSet<Endpoint<IpAddr>>,
    /// Destinations that led nowhere before: nobody but this host itself had their connections, so that these may end a
    /// moment later.
    pub opened: BTreeSet<Endpoint<IpAddr>>,
    /// Prefixes that were taken from a peer.
    pub prefixes: BTreeSet<IpNet>,
    /// Networks that the rules guard better than before: what began untranslated.
    pub unguarded: BTreeSet<IpNet>,
}

impl Step {
    /// The kind of object that it changes: a word for counters.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RemoveNeighbor(_) | Self::AddNeighbor(_) => "neighbor",
            Self::RemoveRule(_) | Self::AddRule(_) => "rule",
            Self::RemoveRoute(_) | Self::AddRoute(_) => "route",
            Self::RemoveAddress(_) | Self::AddAddress(_) => "address",
            Self::RemovePeer(_) | Self::ShrinkPeer(..) | Self::SetPeer(..) => "peer",
            Self::SetSysctl(..) | Self::RestoreSysctl(_) => "sysctl",
            Self::CreateLink(_) | Self::SetLink(_) | Self::RemoveLink(_) => "link",
            Self::SetInterface { .. } => "wireguard",
            Self::ReplaceFirewall | Self::UpdateFirewall | Self::RemoveFirewall => "firewall",
            Self::SweepConntrack(_) => "conntrack",
        }
    }

    /// The object that it changes, for people.
    pub fn object(&self) -> String {
        match self {
            Self::RemoveNeighbor(neighbor) | Self::AddNeighbor(neighbor) => {
                Neighbor(neighbor).to_string()
            }
            Self::RemoveRule(rule) | Self::AddRule(rule) => RuleText(rule).to_string(),
            Self::RemoveRoute(route) | Self::AddRoute(route) => RouteText(route).to_string(),
            Self::RemoveAddress(address) | Self::AddAddress(address) => {
                format!("address {} dev {}", address.address, address.interface)
            }
            Self::RemovePeer(key) | Self::ShrinkPeer(key, _) | Self::SetPeer(key, _) => {
                format!("peer {key}")
            }
            Self::SetSysctl(path, _) | Self::RestoreSysctl(path) => format!("setting {path}"),
            Self::CreateLink(link) | Self::SetLink(link) => format!("interface {}", link.name),
            Self::RemoveLink(name) => format!("interface {name}"),
            Self::SetInterface { .. } => "WireGuard interface".to_owned(),
            Self::ReplaceFirewall | Self::UpdateFirewall | Self::RemoveFirewall => {
                "nftables table".to_owned()
            }
            Self::SweepConntrack(_) => "tracked connections".to_owned(),
        }
    }

    /// What it does to it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::RemoveNeighbor(_)
            | Self::RemoveRule(_)
            | Self::RemoveRoute(_)
            | Self::RemoveAddress(_)
            | Self::RemovePeer(_)
            | Self::RemoveLink(_)
            | Self::RemoveFirewall => "remove",
            Self::AddAddress(_) | Self::AddRoute(_) | Self::AddRule(_) | Self::AddNeighbor(_) => {
                "add"
            }
            Self::SetSysctl(..)
            | Self::SetLink(_)
            | Self::SetInterface { .. }
            | Self::SetPeer(..) => "set",
            Self::ShrinkPeer(..) => "shrink",
            Self::CreateLink(_) => "create",
            Self::ReplaceFirewall => "replace",
            Self::UpdateFirewall => "update",
            Self::RestoreSysctl(_) => "restore",
            Self::SweepConntrack(_) => "end",
        }
    }
}

impl Sweep {
    /// Whether there is nothing to sweep.
    pub fn is_empty(&self) -> bool {
        self.opened.is_empty() && !self.is_urgent()
    }

    /// Whether something of it has to end before it is said that the rules are in force.
    pub fn is_urgent(&self) -> bool {
        !(self.endpoints.is_empty() && self.prefixes.is_empty() && self.unguarded.is_empty())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.verb(), self.object())?;
        match self {
            Self::ShrinkPeer(_, peer) | Self::SetPeer(_, peer) => {
                write!(formatter, " to {}", Prefixes(&peer.allowed_ips))
            }
            Self::SetSysctl(_, value) => write!(formatter, " to {value}"),
            Self::CreateLink(link) | Self::SetLink(link) => {
                write!(formatter, " with MTU {}", link.mtu)
            }
            Self::SetInterface {
                private_key,
                listen_port,
            } => {
                let key = private_key.is_some().then_some(" a new private key");
                write!(formatter, " to{}", key.unwrap_or_default())?;
                match listen_port {
                    Some(port) => write!(formatter, " UDP port {port}"),
                    None => Ok(()),
                }
            }
            Self::SweepConntrack(sweep) => write!(
                formatter,
                " of {} endpoints and {} prefixes",
                sweep.endpoints.len() + sweep.opened.len(),
                sweep.prefixes.len() + sweep.unguarded.len()
            ),
            Self::RemoveNeighbor(_)
            | Self::RemoveRule(_)
            | Self::RemoveRoute(_)
            | Self::RemoveAddress(_)
            | Self::RemovePeer(_)
            | Self::ReplaceFirewall
            | Self::UpdateFirewall
            | Self::AddAddress(_)
            | Self::AddRoute(_)
            | Self::AddRule(_)
            | Self::AddNeighbor(_)
            | Self::RemoveLink(_)
            | Self::RemoveFirewall
            | Self::RestoreSysctl(_) => Ok(()),
        }
    }
}

struct Neighbor<'a>(&'a ProxyNeighbor);
struct RouteText<'a>(&'a Route);
struct RuleText<'a>(&'a Rule);
struct Prefixes<'a>(&'a BTreeSet<IpNet>);

impl fmt::Display for Neighbor<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "proxy neighbour {} dev {}",
            self.0.address, self.0.interface
        )
    }
}

impl fmt::Display for RouteText<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Route {
            table,
            destination,
            metric,
            target,
        } = self.0;
        match target {
            RouteTarget::Interface { interface, gateway } => {
                write!(formatter, "route {destination}")?;
                if let Some(gateway) = gateway {
                    write!(formatter, " via {gateway}")?;
                }
                write!(formatter, " dev {interface}")?;
            }
            RouteTarget::Local { interface } => {
                write!(formatter, "route local {destination} dev {interface}")?;
            }
            RouteTarget::Unreachable => write!(formatter, "route unreachable {destination}")?,
        }
        if *table != MAIN_TABLE {
            write!(formatter, " table {table}")?;
        }
        write!(formatter, " metric {metric}")
    }
}

impl fmt::Display for RuleText<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rule {
            priority,
            source,
            destination,
            input_interface,
            mark,
            table,
            suppress_prefix_length,
        } = self.0;
        write!(formatter, "rule {priority} from {source}")?;
        if let Some(destination) = destination {
            write!(formatter, " to {destination}")?;
        }
        if let Some(interface) = input_interface {
            write!(formatter, " iif {interface}")?;
        }
        if let Some(mark) = mark {
            write!(formatter, " fwmark {mark:#x}/{MARK_MASK:#x}")?;
        }
        write!(formatter, " lookup {table}")?;
        match suppress_prefix_length {
            Some(length) => write!(formatter, " suppress_prefixlength {length}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Prefixes<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut prefixes = self.0.iter();
        let Some(first) = prefixes.next() else {
            return formatter.write_str("nothing");
        };
        write!(formatter, "{first}")?;
        prefixes.try_for_each(|prefix| write!(formatter, ", {prefix}"))
    }
}
