//! What a host that is to become a gateway has to offer: its uplinks' addresses by class, and what would be wrong.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use serde::Serialize;

use crate::address;
use crate::change::Change;
use crate::decide::decide;
use crate::diagnosis::{Daemon, Examination, diagnose};
use crate::problem::Problem;
use crate::refusal::Refusal;
use crate::uplink::{SHORTEST_PROXIED, Uplink, has_ipv6, list};

/// Problems that are none before there is a gateway.
const EXPECTED: [&str; 5] = [
    "daemon-stopped",
    "forwarding-off",
    "tunnel-missing",
    "tunnel-down",
    "firewall-missing",
];

/// An uplink with what its provider gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SurveyedUplink {
    /// Its interface.
    pub name: String,
    /// Its IPv4 address.
    pub ipv4: Ipv4Class,
    /// Its IPv6 addresses.
    pub ipv6: Ipv6Class,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether it has the best default route.
    pub default: bool,
}

/// What IPv4 address an uplink has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "class")]
pub enum Ipv4Class {
    /// One that the Internet reaches.
    Public {
        /// The address.
        address: Ipv4Addr,
    },
    /// A private one, to which the provider translates another.
    OneToOneNat {
        /// The private address.
        local: Ipv4Addr,
        /// What the Internet sees, if that was said.
        advertised: Option<Ipv4Addr>,
    },
    /// None.
    None,
}

/// What IPv6 addresses an uplink has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "class")]
pub enum Ipv6Class {
    /// A prefix on the link in which the host has an address of its own choice.
    Prefix {
        /// The prefix.
        prefix: Ipv6Net,
    },
    /// The same, so small that few devices have room in it.
    Narrow {
        /// The prefix.
        prefix: Ipv6Net,
    },
    /// A prefix on the link in which the host was lent an address: others may have theirs there, too.
    Shared {
        /// The prefix.
        prefix: Ipv6Net,
    },
    /// A single address.
    Single {
        /// The address.
        address: Ipv6Addr,
    },
    /// None.
    None,
}

impl Ipv6Class {
    /// The prefix that devices can have addresses of, as far as this host can tell.
    pub fn own_prefix(self) -> Option<Ipv6Net> {
        match self {
            Self::Prefix { prefix } | Self::Narrow { prefix } => Some(prefix),
            Self::Shared { .. } | Self::Single { .. } | Self::None => None,
        }
    }
}

/// All uplinks, the one with the best default route first. `lent` are the IPv6 addresses that are this host's for a time
/// only: by router advertisement, or DHCP.
pub fn survey(examination: &Examination, lent: &BTreeSet<Ipv6Addr>) -> Vec<SurveyedUplink> {
    let facts = &examination.facts;
    let state = examination.state.clone().unwrap_or_default();
    let best = facts
        .default_interface(false)
        .or_else(|| facts.default_interface(true))
        .map(|route| route.interface.as_str());
    let mut uplinks: Vec<SurveyedUplink> = list(&state, facts)
        .into_iter()
        .map(|uplink| SurveyedUplink {
            ipv4: ipv4_class(&uplink),
            ipv6: if has_ipv6(facts) {
                ipv6_class(examination, &uplink, lent)
            } else {
                Ipv6Class::None
            },
            mtu: uplink.mtu,
            default: best == Some(uplink.name.as_str()),
            name: uplink.name,
        })
        .collect();
    uplinks.sort_by_key(|uplink| !uplink.default);
    uplinks
}

/// What would be wrong once these changes are made; of a gateway that does not run what is there is known.
///
/// # Errors
///
/// One of the changes is refused.
pub fn foresee(
    mut examination: Examination,
    changes: Vec<Change>,
) -> Result<Vec<Problem>, Refusal> {
    let mut state = examination.state.take().unwrap_or_default();
    for change in changes {
        // Of random bytes only addresses are made that mean nothing here.
        let edits = decide(
            &state,
            change,
            &examination.facts,
            examination.now,
            &[0x5a; 64],
        )?;
        for edit in edits {
            state.absorb(&edit);
        }
    }
    examination.state = Some(state);
    let is_new = examination.daemon == Daemon::Stopped;
    Ok(diagnose(&examination)
        .into_iter()
        .filter(|problem| !(is_new && EXPECTED.contains(&problem.code.as_str())))
        .collect())
}

fn ipv4_class(uplink: &Uplink) -> Ipv4Class {
    let Some(local) = uplink.local_ipv4() else {
        return Ipv4Class::None;
    };
    match uplink.advertised {
        Some(advertised) if advertised != local => Ipv4Class::OneToOneNat {
            local,
            advertised: Some(advertised),
        },
        Some(_) => Ipv4Class::Public { address: local },
        None if address::is_private(local) => Ipv4Class::OneToOneNat {
            local,
            advertised: None,
        },
        None => Ipv4Class::Public { address: local },
    }
}

fn ipv6_class(examination: &Examination, uplink: &Uplink, lent: &BTreeSet<Ipv6Addr>) -> Ipv6Class {
    let global: Vec<Ipv6Net> = examination
        .facts
        .addresses
        .iter()
        .filter(|fact| fact.interface == uplink.name)
        .filter_map(|fact| match fact.address {
            IpNet::V6(net) => Some(net),
            IpNet::V4(_) => None,
        })
        .filter(|net| !net.addr().is_unicast_link_local() && !address::is_unique_local(net.addr()))
        .collect();
    // On a /127 and a /128 there is room for the host alone (RFC 6164).
    let has_room = |net: &&Ipv6Net| net.prefix_len() <= 126;
    let widest = |nets: &mut dyn Iterator<Item = &Ipv6Net>| {
        nets.min_by_key(|net| net.prefix_len()).map(Ipv6Net::trunc)
    };
    let mut own = global
        .iter()
        .filter(has_room)
        .filter(|net| !lent.contains(&net.addr()));
    if let Some(prefix) = widest(&mut own) {
        return if prefix.prefix_len() < SHORTEST_PROXIED {
            Ipv6Class::Prefix { prefix }
        } else {
            Ipv6Class::Narrow { prefix }
        };
    }
    // An address of its own beside a prefix of all says more than the prefix.
    let single = global
        .iter()
        .find(|net| net.prefix_len() > 126 && !lent.contains(&net.addr()));
    let address = single.map(Ipv6Net::addr).or_else(|| {
        let alone = global.iter().all(|net| net.prefix_len() > 126);
        global.first().filter(|_| alone).map(Ipv6Net::addr)
    });
    if let Some(address) = address {
        return Ipv6Class::Single { address };
    }
    match widest(&mut global.iter().filter(has_room)) {
        Some(prefix) => Ipv6Class::Shared { prefix },
        None => Ipv6Class::None,
    }
}
