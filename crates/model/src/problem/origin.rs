//! What still names the host that a gateway was restored from.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::{Problem, problem};
use crate::facts::Facts;
use crate::key::PublicKey;
use crate::state::{Egress, State};
use crate::uplink;

/// How many devices are named in one problem.
const NAMED: usize = 20;

/// What the host was like that a backup was made on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Its uplinks.
    pub uplinks: Vec<OriginUplink>,
}

/// An uplink of that host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginUplink {
    /// Its interface.
    pub name: String,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// What the Internet saw of it.
    pub advertised: Option<Ipv4Addr>,
    /// What devices were told to connect to.
    pub endpoint: Option<String>,
}

impl Origin {
    /// What a host is like.
    pub fn of(state: &State, facts: &Facts) -> Self {
        let uplinks = uplink::list(state, facts).into_iter().map(|uplink| {
            let ipv4 = uplink.ipv4.iter().copied().map(IpAddr::V4);
            let ipv6 = uplink.ipv6.iter().copied().map(IpAddr::V6);
            OriginUplink {
                addresses: ipv4.chain(ipv6).collect(),
                endpoint: uplink.endpoint_host(),
                advertised: uplink.advertised,
                name: uplink.name,
            }
        });
        Self {
            uplinks: uplinks.collect(),
        }
    }

    /// All addresses by which the host was known.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let advertised = |uplink: &OriginUplink| uplink.advertised.map(IpAddr::V4);
        let uplinks = self.uplinks.iter();
        uplinks
            .flat_map(|uplink| uplink.addresses.iter().copied().chain(advertised(uplink)))
            .collect()
    }
}

/// What names an address of the old host that this one does not have. `is_connected` tells of a device whether it found the
/// way here since.
pub fn of_origin(
    state: &State,
    facts: &Facts,
    origin: &Origin,
    is_connected: impl Fn(&PublicKey) -> bool,
) -> Vec<Problem> {
    let uplinks = uplink::list(state, facts);
    let is_here = |address: &IpAddr| {
        uplinks.iter().any(|uplink| {
            let advertised = uplink.advertised.map(IpAddr::V4);
            uplink.has(*address) && (advertised != Some(*address) || is_local(facts, *address))
        })
    };
    let old: BTreeSet<IpAddr> = (origin.addresses().into_iter())
        .filter(|address| !is_here(address))
        .collect();
    // The same host, as it was.
    if old.is_empty() {
        return Vec::new();
    }
    let code = "old-address";
    let mut problems = Vec::new();
    for said in state.uplinks.values() {
        let is_there = uplinks.iter().any(|uplink| uplink.name == said.name);
        let literal = said.endpoint.as_ref().and_then(|text| text.parse().ok());
        let object = format!("uplink {}", said.name);
        if let Some(address) = said.advertised.filter(|it| old.contains(&IpAddr::V4(*it))) {
            problems.push(problem(
                code,
                object.clone(),
                format!("it is said to be advertised as {address}, an address of the host that this gateway was restored from"),
                format!("say what the Internet sees here: `adit uplink set {} --advertised ADDRESS`, or `none`", said.name),
            ));
        }
        if let Some(address) = literal.filter(|address| old.contains(address)) {
            problems.push(problem(
                code,
                object,
                format!("devices are told to connect to {address}, an address of the host that this gateway was restored from"),
                format!("say where it is now: `adit uplink set {} --endpoint NAME`", said.name),
            ));
        } else if let (false, Some(endpoint), Some(uplink)) =
            (is_there, &said.endpoint, uplinks.first())
        {
            problems.push(problem(
                code,
                object,
                format!("the host that this gateway was restored from had it, and this one does not; configurations no longer name its endpoint {endpoint}"),
                format!("`adit uplink set {} --endpoint {endpoint}`, and let {endpoint} lead here", uplink.name),
            ));
        }
    }
    for forward in state.forwards.values() {
        if let Some(address) = forward.address.filter(|address| old.contains(address)) {
            problems.push(problem(
                code,
                format!("forward {}", forward.id),
                format!("it is on {address}, an address of the host that this gateway was restored from"),
                format!("`adit forward remove {}`, and add it without an address, or with one of this host", forward.id),
            ));
        }
    }
    let stale = |egress: &Option<Egress>| match egress {
        Some(Egress::Address(address)) => old.contains(address),
        Some(Egress::Interface(name)) => !uplinks.iter().any(|uplink| uplink.name == *name),
        None => false,
    };
    let subnets = state.subnets.values();
    let subnets = subnets.filter(|subnet| stale(&subnet.egress));
    let devices = state.devices.values();
    let devices = devices.filter(|device| stale(&device.egress));
    let leaving = subnets
        .map(|subnet| ("subnet", &subnet.name, &subnet.egress))
        .chain(devices.map(|device| ("device", &device.name, &device.egress)));
    for (kind, name, egress) in leaving {
        let egress = egress
            .as_ref()
            .map_or_else(String::new, ToString::to_string);
        problems.push(problem(
            code,
            format!("{kind} {name}"),
            format!("its traffic is to leave by {egress}, which the host that this gateway was restored from had"),
            format!("`adit {kind} set {name} --egress ADDRESS` with one of this host, or `none`"),
        ));
    }
    for subnet in state.subnets.values() {
        if let Some(prefix) = subnet.global_ipv6() {
            problems.push(problem(
                code,
                format!("subnet {}", subnet.name),
                format!("its prefix {prefix} was delivered to the host that this gateway was restored from"),
                format!("have it delivered here, or take one that is: `adit subnet set {} --ipv6 PREFIX`; devices need their new configuration then", subnet.name),
            ));
        }
    }
    find_devices(state, origin, &old, is_connected, &mut problems);
    problems
}

/// Devices that were told an address, not a name, and did not come.
fn find_devices(
    state: &State,
    origin: &Origin,
    old: &BTreeSet<IpAddr>,
    is_connected: impl Fn(&PublicKey) -> bool,
    problems: &mut Vec<Problem>,
) {
    let mut told = origin.uplinks.iter().filter_map(|uplink| {
        let address = uplink.endpoint.as_ref()?.parse().ok()?;
        old.contains(&address).then_some(address)
    });
    let Some(address) = told.next() else {
        return;
    };
    let away: Vec<&str> = state
        .devices
        .values()
        .filter(|device| device.enabled && !is_connected(&device.public_key))
        .map(|device| device.name.as_str())
        .collect();
    if away.is_empty() {
        return;
    }
    let named = away[..away.len().min(NAMED)].join(", ");
    let more = match away.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    problems.push(problem(
        "old-address",
        "devices",
        format!("their configurations name {address}, an address of the host that this gateway was restored from, and they did not connect here yet: {named}{more}"),
        "bring them their new configuration (`adit device config NAME`), or change the line `Endpoint` on them; with a name (`adit uplink set --endpoint NAME`) the next move needs none of it",
    ));
}

fn is_local(facts: &Facts, address: IpAddr) -> bool {
    let mut addresses = facts.addresses.iter();
    addresses.any(|fact| fact.address.addr() == address)
}
