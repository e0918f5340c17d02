//! Leases: what devices obtain, renew and end by themselves, and when they lose it.

mod ending;
mod filters;
mod holder;
mod names;
mod quota;
mod relocation;
mod whole;
mod withdrawal;

use std::collections::BTreeSet;
use std::net::IpAddr;

pub(super) use self::ending::{end, end_all, expire};
pub use self::holder::{Grant, granted};
pub(super) use self::withdrawal::withdraw;

use self::holder::{Holder, holder};
use super::Draft;
use super::ports::Site;
use crate::change::{EndLease, Parties, RequestLease};
use crate::configuration::Routing;
use crate::edit::{Key, Object};
use crate::protocol::{PortRange, Protocol};
use crate::refusal::{LeaseRefusal, Obstacle, Refusal};
use crate::state::{
    Device, DeviceId, Family, GatewayId, Lease, LeaseId, Mechanism, Opening, Settings, State,
    Subnet,
};

/// How long a port is kept for who had it, in seconds (RFC 6887 section 15).
const KEPT: u64 = 120;

/// The most ports of one lease.
const LARGEST_SET: u16 = 1024;

/// The most bytes of a description.
const DESCRIPTION: usize = 200;

/// The longest lifetime of UPnP in seconds, by which it says that there is no end.
const UPNP_LIFETIME: u32 = 604_800;

/// The lifetime in seconds that is given where one is asked for.
pub fn lifetime(settings: &Settings, mechanism: Mechanism, asked: u32) -> u32 {
    let (least, most) = (settings.lease_minimum, settings.lease_maximum);
    match mechanism {
        Mechanism::Pcp => asked.max(least).min(most),
        // More than was asked is not to be given (RFC 6886 section 3.3).
        Mechanism::NatPmp => asked.min(most),
        // Many clients ask for no end and never again. What is granted is not told, so it is what was asked for.
        Mechanism::Upnp => asked.min(most.max(UPNP_LIFETIME)),
    }
}

pub(super) fn request(draft: &mut Draft<'_>, wish: &RequestLease) -> Result<(), Refusal> {
    let (device, subnet) = parties(draft, wish.parties)?;
    if wish.internal == 0 {
        return whole::request(draft, device, subnet, wish);
    }
    let Some(protocol) = wish.protocol.filter(|_| wish.count > 0) else {
        return refuse(LeaseRefusal::AllPorts);
    };
    let hostnames = names::settle(subnet, wish)?;
    match holder(draft.state, draft.facts, &draft.uplinks, wish) {
        Some(Holder::Lease(lease)) => renew(draft, lease, (device, subnet), wish, hostnames),
        Some(Holder::Manual {
            address, external, ..
        }) => {
            let is_wished = wish.wished().is_none_or(|wished| wished == external);
            if wish.exact && !is_wished {
                return refuse(LeaseRefusal::Unavailable {
                    obstacle: Obstacle::Existing,
                    remaining: None,
                });
            }
            filters::check_held(&BTreeSet::new(), wish)?;
            check_address(draft, wish, address)
        }
        None => grant(draft, (device, subnet), wish, protocol, hostnames),
    }
}

/// The device whose port it is, if the one that asks may ask for that.
fn parties<'a>(
    draft: &Draft<'a>,
    parties: Parties,
) -> Result<(&'a Device, &'a Subnet), LeaseRefusal> {
    entitled(draft.state, parties, draft.now)
}

/// The same in any state, at a time.
fn entitled(
    state: &State,
    Parties { asking, owner }: Parties,
    now: u64,
) -> Result<(&Device, &Subnet), LeaseRefusal> {
    let find = |id: &DeviceId| {
        let device = state.devices.get(id)?;
        Some((device, state.subnets.get(&device.subnet)?))
    };
    let asking = find(&asking)
        .filter(|(device, _)| may_ask(device, now))
        .ok_or(LeaseRefusal::NotAllowed)?;
    if owner == asking.0.id {
        return Ok(asking);
    }
    find(&owner)
        .filter(|_| asking.0.port_policy.third_party)
        .filter(|(device, _)| may_answer(device, now))
        .filter(|(_, subnet)| subnet.id == asking.1.id)
        .ok_or(LeaseRefusal::ThirdParty)
}

/// Whether a device may open ports by itself now.
fn may_ask(device: &Device, now: u64) -> bool {
    device.has_auto_ports() && may_answer(device, now)
}

/// Whether what comes from the Internet could be answered by a device.
fn may_answer(device: &Device, now: u64) -> bool {
    device.is_active(now) && device.routing != Routing::Split
}

fn renew(
    draft: &mut Draft<'_>,
    lease: &Lease,
    owner: (&Device, &Subnet),
    wish: &RequestLease,
    hostnames: BTreeSet<String>,
) -> Result<(), Refusal> {
    let remaining = || {
        let rest = lease.expires.saturating_sub(draft.now);
        u32::try_from(rest).unwrap_or(u32::MAX)
    };
    // What is over and not ended yet is nobody's: who asks for the same port has it from now on.
    let is_over = lease.expires <= draft.now;
    let is_own = is_over || lease.mechanism == wish.mechanism;
    if is_own && !is_over && lease.nonce != wish.nonce {
        let remaining = remaining();
        return refuse(LeaseRefusal::WrongNonce { remaining });
    }
    let offset = wish.internal.saturating_sub(lease.internal);
    let is_overwritten = lease.mechanism == Mechanism::Upnp && lease.opening == Opening::Forward;
    let external = if is_overwritten {
        lease.external
    } else {
        lease.external.saturating_add(offset)
    };
    if wish.exact && wish.wished().is_some_and(|wished| wished != external) {
        return refuse(LeaseRefusal::Unavailable {
            obstacle: Obstacle::Existing,
            remaining: Some(remaining()),
        });
    }
    let place = draft
        .state
        .lease_place(lease, &draft.uplinks, draft.facts)
        .ok_or(LeaseRefusal::NoAddress)?;
    match lease.opening {
        Opening::Forward | Opening::Pinhole => check_address(draft, wish, place.0)?,
        // What is suggested for one that is there already does not count (RFC 6887 section 12.3).
        Opening::Outbound => {}
    }
    let mut after = match place.1 {
        None => lease.clone(),
        Some(_) => relocation::relocated(draft, lease, owner, wish, place.0)?,
    };
    if is_over {
        after.mechanism = wish.mechanism;
        after.nonce = wish.nonce;
        after.filters.clear();
        after.description = shortened(&wish.description);
    }
    let lifetime = lifetime(&draft.state.settings, wish.mechanism, wish.lifetime);
    let needed = draft.now + u64::from(lifetime);
    let slack = Lease::lag(lifetime);
    if is_own {
        after.asking = wish.parties.other();
        filters::set(&mut after, wish)?;
        names::set(draft, &mut after, hostnames, place.0)?;
        filters::check_names(&after)?;
        if is_overwritten {
            after.internal = wish.internal;
            after.description = shortened(&wish.description);
        }
        // Of an outbound lease the time is never shortened (RFC 6887 section 12.3).
        let most = match lease.opening {
            Opening::Forward | Opening::Pinhole => needed + slack,
            Opening::Outbound => u64::MAX,
        };
        let is_covered = (needed..=most).contains(&lease.expires);
        if !is_covered {
            after.expires = needed + slack;
        }
    } else {
        filters::check_held(&lease.filters, wish)?;
        names::check_held(lease, &hostnames)?;
        if lease.nonce.is_none() && lease.expires < needed {
            // Whoever made it keeps it as long as before at least.
            after.expires = needed + slack;
        }
    }
    draft.set(Object::Lease(after));
    Ok(())
}

fn check_address(draft: &Draft<'_>, wish: &RequestLease, local: IpAddr) -> Result<(), Refusal> {
    let known = crate::state::lease::advertised(local, &draft.uplinks);
    let is_other = wish
        .address
        .is_some_and(|address| !address.is_unspecified() && address != local && address != known);
    // A connection cannot begin anew from another address (RFC 6887 section 12.3).
    if (wish.exact || wish.remote.is_some()) && is_other {
        return refuse(LeaseRefusal::Unavailable {
            obstacle: Obstacle::Address,
            remaining: None,
        });
    }
    Ok(())
}

fn grant(
    draft: &mut Draft<'_>,
    (device, subnet): (&Device, &Subnet),
    wish: &RequestLease,
    protocol: Protocol,
    hostnames: BTreeSet<String>,
) -> Result<(), Refusal> {
    let left = quota::left(draft, device)?;
    let opening = opening(subnet, wish);
    let mut lease = begun(draft, device, wish, opening);
    lease.hostnames = hostnames;
    filters::set(&mut lease, wish)?;
    let address = lease
        .local_address(subnet, device, &draft.uplinks, draft.facts)
        .ok_or(LeaseRefusal::NoAddress)?;
    let site = Site {
        device,
        subnet,
        opening,
        family: wish.family,
        mechanism: wish.mechanism,
        protocol,
        address,
        internal: wish.internal,
        hostnames: &lease.hostnames.clone(),
    };
    check_address(draft, wish, address)?;
    names::check(
        draft,
        &lease,
        wish.external.unwrap_or(wish.internal),
        address,
    )?;
    let count = fitting(draft, device.id, wish, left);
    let (range, taken) = match choose(draft, &site, wish, count)? {
        Choice::Free(range) => (range, taken_again(draft, &site, wish, range)),
        Choice::Shared(range) => (range, BTreeSet::new()),
    };
    lease.external = range.first();
    lease.count = range.last() - range.first() + 1;
    let crowded_out = quota::crowded_out(draft, device, lease.count, &taken);
    for id in taken.into_iter().chain(crowded_out) {
        draft.remove(Key::Lease(id));
    }
    lease.id = LeaseId(draft.next_id());
    draft.set(Object::Lease(lease));
    Ok(())
}

/// A lease without an id, whose port nobody has chosen yet.
fn begun(draft: &Draft<'_>, device: &Device, wish: &RequestLease, opening: Opening) -> Lease {
    let lifetime = lifetime(&draft.state.settings, wish.mechanism, wish.lifetime);
    Lease {
        id: LeaseId(0),
        gateway: GatewayId::default(),
        device: device.id,
        asking: wish.parties.other(),
        mechanism: wish.mechanism,
        family: wish.family,
        opening,
        protocol: wish.protocol,
        internal: wish.internal,
        external: wish.internal,
        count: 1,
        nonce: wish.nonce,
        filters: BTreeSet::new(),
        remote: wish.remote,
        hostnames: BTreeSet::new(),
        description: shortened(&wish.description),
        expires: draft.now + u64::from(lifetime) + Lease::lag(lifetime),
        kept: None,
    }
}

fn opening(subnet: &Subnet, wish: &RequestLease) -> Opening {
    match (wish.remote, wish.family) {
        (Some(_), _) => Opening::Outbound,
        (None, Family::Ipv6) if subnet.local_ipv6().is_none() => Opening::Pinhole,
        (None, Family::Ipv4 | Family::Ipv6) => Opening::Forward,
    }
}

/// How many ports can be given at once: no more than the device may have, and none that it has already.
fn fitting(draft: &Draft<'_>, device: DeviceId, wish: &RequestLease, left: u32) -> u16 {
    let left = u16::try_from(left).unwrap_or(u16::MAX);
    let end = u16::MAX - wish.internal;
    let most = wish
        .count
        .min(left)
        .min(LARGEST_SET)
        .min(end.saturating_add(1));
    let rest = PortRange::new(wish.internal, wish.internal.saturating_add(most - 1));
    let side = (device, wish.family, wish.protocol);
    let met = rest.map(|rest| draft.state.leases_at(side, rest));
    let first = (met.into_iter().flatten())
        .filter(|lease| lease.is_open() && lease.internal > wish.internal)
        .map(|lease| lease.internal - wish.internal)
        .min();
    first.map_or(most, |first| most.min(first)).max(1)
}

enum Choice {
    /// Ports that nobody has.
    Free(PortRange),
    /// A port that the device has for the same port of its own.
    Shared(PortRange),
}

fn choose(
    draft: &Draft<'_>,
    site: &Site<'_>,
    wish: &RequestLease,
    count: u16,
) -> Result<Choice, Refusal> {
    if site.opening == Opening::Outbound
        && let Some(port) = shared(draft, site, wish)
    {
        let range = PortRange::new(port, port).ok_or(LeaseRefusal::Exhausted)?;
        return match wish.wished() {
            Some(wished) if wished != port => refuse(LeaseRefusal::Unavailable {
                obstacle: Obstacle::Existing,
                remaining: None,
            }),
            Some(_) | None => Ok(Choice::Shared(range)),
        };
    }
    let outwards = replicated(draft, site, wish);
    // What is asked for an outbound port cannot be exchanged for another (RFC 6887 section 12.3).
    let is_exact = wish.exact || (site.opening == Opening::Outbound && wish.wished().is_some());
    if is_exact {
        let first = wish.wished().or(outwards).unwrap_or(wish.internal);
        if outwards.is_some_and(|outwards| outwards != first) {
            return refuse(LeaseRefusal::Unavailable {
                obstacle: Obstacle::Existing,
                remaining: None,
            });
        }
        let range = first
            .checked_add(count - 1)
            .and_then(|last| PortRange::new(first, last));
        let Some(range) = range else {
            return refuse(LeaseRefusal::AllPorts);
        };
        return match site.obstacle(draft, range) {
            None => Ok(Choice::Free(range)),
            Some(blocked) => refuse(LeaseRefusal::Unavailable {
                obstacle: blocked.obstacle,
                remaining: blocked.until.map(|until| {
                    let rest = until.saturating_sub(draft.now);
                    u32::try_from(rest).unwrap_or(u32::MAX)
                }),
            }),
        };
    }
    let remainder = wish.parity.then_some(wish.internal % 2);
    let own = match site.opening {
        Opening::Pinhole => Some(wish.internal),
        Opening::Forward | Opening::Outbound => None,
    };
    let before = kept(draft, site, wish).map(|lease| lease.external);
    let candidates: Vec<u16> = [outwards, wish.wished(), before, own]
        .into_iter()
        .flatten()
        .filter(|port| remainder.is_none_or(|remainder| port % 2 == remainder))
        .collect();
    let start = place_of(site.device.id, wish.internal);
    // What is found is as many as are wished for, or the half of it, and so on.
    let mut searched = None;
    let mut count = count;
    loop {
        let is_wanted = |range: &PortRange| range.last() - range.first() == count - 1;
        let mut wished = candidates.iter().filter_map(|first| {
            let last = first.checked_add(count - 1)?;
            PortRange::new(*first, last)
        });
        let found = wished
            .find(|range| site.obstacle(draft, *range).is_none())
            .or_else(|| {
                let search = || site.search(draft, count, start, remainder);
                searched.get_or_insert_with(search).filter(is_wanted)
            });
        if let Some(range) = found {
            return Ok(Choice::Free(range));
        }
        count /= 2;
        if count == 0 {
            return refuse(LeaseRefusal::Exhausted);
        }
    }
}

/// The public port that what a device sends from a port has already.
fn shared(draft: &Draft<'_>, site: &Site<'_>, wish: &RequestLease) -> Option<u16> {
    if matches!(site.address, IpAddr::V6(_)) && site.subnet.local_ipv6().is_none() {
        return Some(wish.internal);
    }
    let inbound = RequestLease {
        remote: None,
        external: None,
        ..wish.clone()
    };
    let existing = match holder(draft.state, draft.facts, &draft.uplinks, &inbound) {
        Some(Holder::Lease(lease)) => {
            let offset = wish.internal.saturating_sub(lease.internal);
            Some(lease.external.saturating_add(offset))
        }
        Some(Holder::Manual { external, .. }) => Some(external),
        None => None,
    };
    outwards(draft, site, wish).or(existing)
}

/// The public port that what is opened for a port of a device is to have since what that sends has it (RFC 6887 section 11.3).
/// Names are on the port that they were asked for, and UPnP calls its mappings by it.
fn replicated(draft: &Draft<'_>, site: &Site<'_>, wish: &RequestLease) -> Option<u16> {
    let is_replicated = site.opening == Opening::Forward
        && wish.mechanism != Mechanism::Upnp
        && wish.hostnames.is_empty();
    is_replicated.then(|| outwards(draft, site, wish))?
}

/// The public port of the outbound leases of a port of a device, if they are in force.
fn outwards(draft: &Draft<'_>, site: &Site<'_>, wish: &RequestLease) -> Option<u16> {
    let port = PortRange::new(wish.internal, wish.internal)?;
    let side = (site.device.id, wish.family, wish.protocol);
    let leases = draft.state.leases_at(side, port).into_iter();
    let mut outbound = leases.filter(|lease| {
        let place = || (draft.state).lease_place(lease, &draft.uplinks, draft.facts);
        lease.is_open()
            && lease.opening == Opening::Outbound
            && place().is_some_and(|(_, conflict)| conflict.is_none())
    });
    outbound.next().map(|lease| lease.external)
}

/// The port that is kept for a device since it had it for the same port of its own.
fn kept<'a>(draft: &Draft<'a>, site: &Site<'_>, wish: &RequestLease) -> Option<&'a Lease> {
    let port = PortRange::new(wish.internal, wish.internal)?;
    let side = (site.device.id, wish.family, wish.protocol);
    let mut leases = draft.state.leases_at(side, port).into_iter();
    leases.rfind(|lease| !lease.is_open() && !lease.is_whole() && lease.opening == site.opening)
}

/// What was kept for the device and is taken by it now.
fn taken_again(
    draft: &Draft<'_>,
    site: &Site<'_>,
    wish: &RequestLease,
    range: PortRange,
) -> BTreeSet<LeaseId> {
    let place = match site.opening {
        Opening::Forward | Opening::Outbound => None,
        Opening::Pinhole => Some(site.device.id),
    };
    let taken = draft.state.leases_on(place, range).into_iter();
    taken
        .filter(|lease| {
            let is_own = lease.device == site.device.id && lease.protocol == Some(site.protocol);
            is_own && lease.family == site.family && !lease.is_open() && !lease.is_whole()
        })
        .map(|lease| lease.id)
        .chain(kept(draft, site, wish).map(|lease| lease.id))
        .collect()
}

/// A number for a port of a device that is the same at all times and unlike those of others (FNV-1a).
fn place_of(device: DeviceId, internal: u16) -> u64 {
    let bytes = device
        .0
        .to_le_bytes()
        .into_iter()
        .chain(internal.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The lowest bits of neighbours are alike.
    hash ^ (hash >> 29)
}

fn shortened(text: &str) -> String {
    let mut short = String::new();
    for character in text.chars().filter(|character| !character.is_control()) {
        if short.len() + character.len_utf8() > DESCRIPTION {
            break;
        }
        short.push(character);
    }
    short
}

fn refuse<T>(reason: LeaseRefusal) -> Result<T, Refusal> {
    Err(reason.into())
}
