//! The only place where anything is decided: a change becomes edits, or is refused.

mod delegation;
mod device;
mod forward;
mod pinhole;
mod settings;
mod subnet;
mod token;
mod uplink;

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};

use crate::address::Occupied;
use crate::change::Change;
use crate::edit::{Edit, Key, Object};
use crate::facts::Facts;
use crate::protocol::{PortRange, Protocol};
use crate::refusal::Refusal;
use crate::state::{State, Subnet};
use crate::uplink::Uplink;

/// Random bytes that a decision may use.
pub type Random = [u8; 64];

/// Turns a change into edits, and changes nothing.
///
/// `now` is in seconds since 1970. The edits, absorbed in order, make the change; none means that it is so already.
///
/// # Errors
///
/// A [`Refusal`] that names the object, the reason and the way out.
pub fn decide(
    state: &State,
    change: Change,
    facts: &Facts,
    now: u64,
    random: &Random,
) -> Result<Vec<Edit>, Refusal> {
    let mut draft = Draft {
        state,
        facts,
        uplinks: crate::uplink::list(state, facts),
        now,
        random,
        sequence: state.sequence,
        edits: Vec::new(),
    };
    match change {
        Change::AddSubnet(wish) => subnet::add(&mut draft, wish)?,
        Change::SetSubnet(reference, patch) => subnet::set(&mut draft, &reference, patch)?,
        Change::RemoveSubnet { reference, force } => subnet::remove(&mut draft, &reference, force)?,
        Change::AddDevice(wish) => device::add(&mut draft, wish)?,
        Change::SetDevice(reference, patch) => device::set(&mut draft, &reference, patch)?,
        Change::RekeyDevice {
            reference,
            public_key,
        } => device::rekey(&mut draft, &reference, public_key)?,
        Change::RemoveDevice(reference) => device::remove(&mut draft, &reference)?,
        Change::AddForward(wish) => forward::add(&mut draft, wish)?,
        Change::SetForward(reference, patch) => forward::set(&mut draft, &reference, patch)?,
        Change::RemoveForward(reference) => {
            let key = Key::Forward(state.forward(&reference)?.id);
            draft.remove(key);
        }
        Change::AddPinhole(wish) => pinhole::add(&mut draft, wish)?,
        Change::SetPinhole(reference, patch) => pinhole::set(&mut draft, &reference, patch)?,
        Change::RemovePinhole(reference) => {
            let key = Key::Pinhole(state.pinhole(&reference)?.id);
            draft.remove(key);
        }
        Change::SetUplink(name, patch) => uplink::set(&mut draft, name, patch)?,
        Change::SetSettings(patch) => settings::set(&mut draft, patch)?,
        Change::AddToken(wish) => token::add(&mut draft, wish)?,
        Change::RemoveToken(reference) => {
            let key = Key::Token(state.token(&reference)?.id);
            draft.remove(key);
        }
    }
    Ok(draft.finish())
}

/// A decision in the making.
struct Draft<'a> {
    state: &'a State,
    facts: &'a Facts,
    uplinks: Vec<Uplink>,
    now: u64,
    random: &'a Random,
    sequence: u64,
    edits: Vec<Edit>,
}

impl Draft<'_> {
    fn next_id(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn set(&mut self, object: Object) {
        self.edits.push(Edit::Set(object));
    }

    fn remove(&mut self, key: Key) {
        self.edits.push(Edit::Remove(key));
    }

    /// The edits that really change something, and the sequence if ids were given.
    fn finish(mut self) -> Vec<Edit> {
        if self.sequence != self.state.sequence {
            self.edits.push(Edit::Set(Object::Sequence(self.sequence)));
        }
        let state = self.state;
        self.edits.retain(|edit| match edit {
            Edit::Set(object) => state.object(object.key()).as_ref() != Some(object),
            Edit::Remove(_) => true,
        });
        self.edits
    }

    /// The addresses of a prefix on an uplink that cannot be a device's: the uplink's own, its next hops, and the
    /// subnet-router anycast address of the link (RFC 4291 section 2.6.1).
    fn reserved(&self, prefix: Ipv6Net) -> Vec<(Ipv6Addr, String)> {
        let mut reserved = Vec::new();
        for uplink in &self.uplinks {
            let on_link = uplink.on_link.iter().filter_map(|net| match net {
                IpNet::V6(net) if net.contains(&prefix) || prefix.contains(net) => Some(*net),
                IpNet::V4(_) | IpNet::V6(_) => None,
            });
            let anycast: BTreeSet<Ipv6Addr> = on_link.map(|net| net.network()).collect();
            if anycast.is_empty() {
                continue;
            }
            let own = uplink
                .ipv6
                .iter()
                .map(|address| (*address, format!("this host (uplink {})", uplink.name)));
            let hops = uplink.next_hops.iter().filter_map(|hop| match hop {
                std::net::IpAddr::V6(hop) => {
                    Some((*hop, format!("the next hop of uplink {}", uplink.name)))
                }
                std::net::IpAddr::V4(_) => None,
            });
            let routers = anycast.iter().map(|address| {
                (
                    *address,
                    format!("the routers of uplink {} (anycast)", uplink.name),
                )
            });
            reserved.extend(
                own.chain(hops)
                    .chain(routers)
                    .filter(|(address, _)| prefix.contains(address)),
            );
        }
        reserved
    }

    /// What is taken of a subnet's prefix; refuses when two hosts would have one address.
    fn occupied(&self, subnet: &Subnet) -> Result<Occupied, Refusal> {
        let mut occupied = Occupied::default();
        let Some(prefix) = subnet.ipv6 else {
            return Ok(occupied);
        };
        let reserved = self.reserved(prefix);
        let gateway = (subnet.gateway_ipv4(), "the gateway".to_owned());
        let devices = self
            .state
            .devices_of(subnet.id)
            .map(|device| (device.ipv4, format!("device `{}`", device.name)));
        for (address, owner) in reserved {
            occupied.take_host(address, owner);
        }
        for (ipv4, owner) in std::iter::once(gateway).chain(devices) {
            let address = crate::address::host_ipv6(prefix, ipv4);
            if let Some(first) = occupied.owner(address) {
                return Err(Refusal::Ipv6Collision {
                    prefix,
                    address,
                    first: first.to_owned(),
                    second: owner,
                });
            }
            occupied.take_host(address, owner);
        }
        for delegation in self.state.delegations.values() {
            let IpNet::V6(net) = delegation.prefix else {
                continue;
            };
            if !prefix.contains(&net) {
                continue;
            }
            let owner = self
                .state
                .devices
                .get(&delegation.device)
                .map_or("?", |device| device.name.as_str());
            if let Some((address, second)) = occupied.inside(net) {
                let first = format!("the delegation {net} of device `{owner}`");
                return Err(Refusal::Ipv6Collision {
                    prefix,
                    address,
                    first,
                    second: second.to_owned(),
                });
            }
            occupied.take_prefix(net, format!("device `{owner}` (delegation {net})"));
        }
        Ok(occupied)
    }
}

/// Checks ports as they came from outside.
fn check_ports(first: u16, last: u16) -> Result<PortRange, Refusal> {
    PortRange::new(first, last).ok_or_else(|| Refusal::SettingInvalid {
        setting: "port",
        reason: format!("{first}-{last} is no range of ports from 1 to 65535"),
    })
}

/// All protocols where none was named.
fn or_all(protocols: BTreeSet<Protocol>) -> BTreeSet<Protocol> {
    if protocols.is_empty() {
        Protocol::ALL.into()
    } else {
        protocols
    }
}
