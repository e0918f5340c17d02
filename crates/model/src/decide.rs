//! The only place where anything is decided: a change becomes edits, or is refused.

mod confirmation;
mod declaration;
mod delegation;
mod device;
mod forward;
mod import;
pub mod lease;
mod occupancy;
mod pinhole;
mod ports;
mod replacement;
mod settings;
mod subnet;
mod token;
mod uplink;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::address::Occupied;
use crate::change::Change;
use crate::edit::{Edit, Key, Object};
use crate::facts::Facts;
use crate::protocol::{PortRange, Protocol};
use crate::refusal::Refusal;
use crate::state::{DelegationId, DeviceId, State, Subnet};
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
    let mut draft = Draft::new(state, facts, now, random);
    let settles = matches!(change, Change::Confirm | Change::TakeBack(_));
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
        Change::RequestLease(wish) => lease::request(&mut draft, &wish)?,
        Change::EndLease(wish) => lease::end(&mut draft, &wish)?,
        Change::EndLeases(wish) => lease::end_all(&mut draft, wish)?,
        Change::RemoveLease(reference) => {
            let key = Key::Lease(state.lease(&reference)?.id);
            draft.remove(key);
        }
        Change::ExpireLeases(wish) => lease::expire(&mut draft, &wish),
        Change::SetUplink(name, patch) => uplink::set(&mut draft, name, patch)?,
        Change::SetSettings(patch) => settings::set(&mut draft, patch)?,
        Change::AddToken(wish) => token::add(&mut draft, wish)?,
        Change::RemoveToken(reference) => {
            let key = Key::Token(state.token(&reference)?.id);
            draft.remove(key);
        }
        Change::Confirm => confirmation::confirm(&mut draft)?,
        Change::TakeBack(revision) => confirmation::take_back(&mut draft, revision),
        Change::Apply(declaration) => declaration::apply(&mut draft, declaration.declaration)?,
        Change::Import(import) => import::import(&mut draft, *import)?,
    }
    let mut edits = draft.finish();
    let withdrawn = lease::withdraw(state, &edits, facts, now);
    edits.extend(withdrawn);
    // What devices open gives way to what is taken back, and does not come back with it.
    let is_in_the_way = edits.iter().any(|edit| !is_of_leases(edit));
    if !settles && is_in_the_way && state.confirmation.is_some() {
        confirmation::check_later(state, &edits, facts, now, random)?;
    }
    Ok(edits)
}

/// [`decide`] for a change that is taken back unless it is confirmed until `deadline`, in seconds since 1970; or, where
/// there is a `source`, only if it may cut off whoever comes from there.
///
/// # Errors
///
/// As [`decide`], and where another change awaits its confirmation.
pub fn decide_awaiting(
    state: &State,
    change: Change,
    facts: &Facts,
    now: u64,
    random: &Random,
    (deadline, source): (u64, Option<IpAddr>),
) -> Result<Vec<Edit>, Refusal> {
    let settles = matches!(change, Change::Confirm | Change::TakeBack(_));
    let mut edits = decide(state, change, facts, now, random)?;
    if settles || edits.is_empty() {
        return Ok(edits);
    }
    let mut after = state.clone();
    for edit in &edits {
        after.absorb(edit);
    }
    let is_needed = source.is_none_or(|source| {
        crate::confirmation::may_cut_off(state, &after, &edits, facts, now, source)
    });
    if !is_needed {
        return Ok(edits);
    }
    if state.settings.gateway_key != after.settings.gateway_key {
        return Err(Refusal::NotTakenBack {
            reason: "the gateway's private key becomes another".to_owned(),
        });
    }
    if let Some(other) = &state.confirmation {
        return Err(Refusal::AwaitsConfirmation {
            revision: other.revision,
            reason: "it needs a confirmation of its own".to_owned(),
        });
    }
    edits.push(crate::confirmation::awaiting(
        state, &after, &edits, deadline,
    ));
    Ok(edits)
}

/// A decision in the making.
struct Draft<'a> {
    state: &'a State,
    facts: &'a Facts,
    uplinks: Vec<Uplink>,
    /// Addresses that can be no device's, with their owners in words.
    reserved: BTreeMap<IpAddr, String>,
    /// Delegations that this change takes back.
    revoked: BTreeSet<DelegationId>,
    now: u64,
    random: &'a Random,
    sequence: u64,
    /// Leases give way to what is decided, instead of being in its way.
    overrides_leases: bool,
    edits: Vec<Edit>,
}

impl<'a> Draft<'a> {
    fn new(state: &'a State, facts: &'a Facts, now: u64, random: &'a Random) -> Self {
        let uplinks = crate::uplink::list(state, facts);
        Self {
            state,
            facts,
            reserved: crate::uplink::reserved(&uplinks, facts),
            uplinks,
            revoked: BTreeSet::new(),
            now,
            random,
            sequence: state.sequence,
            overrides_leases: false,
            edits: Vec::new(),
        }
    }
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
        let owner = |edit: &Edit| match edit {
            Edit::Set(Object::Delegation(delegation)) => Some(delegation.device),
            Edit::Remove(Key::Delegation(id)) => state.delegations.get(id).map(|it| it.device),
            Edit::Set(_) | Edit::Remove(_) => None,
        };
        // Who looks at a device sees its delegations: its version tells of their changes too.
        let touched: BTreeSet<DeviceId> = self.edits.iter().filter_map(owner).collect();
        self.edits.retain(|edit| match edit {
            Edit::Set(Object::Device(device)) if touched.contains(&device.id) => true,
            Edit::Set(object) => state.object(object.key()).as_ref() != Some(object),
            Edit::Remove(_) => true,
        });
        self.edits
    }

    /// The first address of a network that can be no device's, and its owner.
    fn reserved_in(&self, network: IpNet) -> Option<(IpAddr, &str)> {
        self.reserved
            .range(network.network()..=network.broadcast())
            .next()
            .map(|(address, owner)| (*address, owner.as_str()))
    }

    /// Refuses a prefix in which two hosts would have one address.
    fn check_collisions(&self, subnet: &Subnet) -> Result<(), Refusal> {
        self.survey(subnet, None).1.map_or(Ok(()), Err)
    }

    /// What is taken of a subnet's prefix, and the first collision in it. Where the host itself got a device's address
    /// later, a collision must not stop changes that have nothing to do with it.
    fn survey(&self, subnet: &Subnet, without: Option<DeviceId>) -> (Occupied, Option<Refusal>) {
        let mut occupied = Occupied::default();
        let Some(prefix) = subnet.ipv6 else {
            return (occupied, None);
        };
        for delegation in self.state.delegations.values() {
            match delegation.prefix {
                IpNet::V6(net)
                    if prefix.contains(&net) && !self.revoked.contains(&delegation.id) =>
                {
                    let name = self
                        .state
                        .devices
                        .get(&delegation.device)
                        .map_or("?", |device| device.name.as_str());
                    occupied.take_prefix(net, format!("device `{name}` (delegation {net})"));
                }
                IpNet::V4(_) | IpNet::V6(_) => {}
            }
        }
        let mut collision = None;
        let mut take = |address: Ipv6Addr, owner: String| match occupied.owner(address) {
            Some(first) => {
                collision.get_or_insert_with(|| Refusal::Ipv6Collision {
                    prefix,
                    address,
                    first: first.to_owned(),
                    second: owner,
                });
            }
            None => occupied.take_host(address, owner),
        };
        let whole = IpNet::V6(prefix);
        for (address, owner) in self.reserved.range(whole.network()..=whole.broadcast()) {
            if let IpAddr::V6(address) = address {
                take(*address, owner.clone());
            }
        }
        let host = |ipv4| crate::address::host_ipv6(prefix, ipv4);
        // In a narrow prefix the gateway's address may be the host's own on the uplink: then it has it already.
        let gateway = host(subnet.gateway_ipv4());
        if !self.facts.has_address(IpAddr::V6(gateway)) {
            take(gateway, "the gateway".to_owned());
        }
        for device in self.state.devices_of(subnet.id) {
            if Some(device.id) != without {
                take(host(device.ipv4), format!("device `{}`", device.name));
            }
        }
        (occupied, collision)
    }
}

const fn is_of_leases(edit: &Edit) -> bool {
    matches!(edit.key(), Key::Lease(_) | Key::Sequence)
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
