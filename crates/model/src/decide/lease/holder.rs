//! What leads to a port of a device already, and what a device is told of it.

use std::net::IpAddr;

use super::{Device, EndLease, Family, Lease, LeaseId, Mechanism, Opening, RequestLease};
use crate::facts::Facts;
use crate::hostname;
use crate::protocol::{PortRange, Protocol};
use crate::state::State;
use crate::state::lease::advertised;
use crate::uplink::Uplink;

/// What leads to a port already.
pub(super) enum Holder<'a> {
    Lease(&'a Lease),
    Manual {
        address: IpAddr,
        external: u16,
        /// The revision of the last write of what leads there.
        version: u64,
    },
}

/// What a device is told of its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The lease; none where an administrator has opened the port.
    pub lease: Option<LeaseId>,
    /// The public address, as the Internet knows it.
    pub address: IpAddr,
    /// The public port.
    pub external: u16,
    /// How many ports in a row.
    pub count: u16,
    /// For how long, in seconds; `u32::MAX`: for ever.
    pub lifetime: u32,
    /// The revision of the last write of what leads there.
    pub version: u64,
    /// Whether it is all ports at once.
    pub is_whole: bool,
    /// Whether it was obtained by the mechanism of the request; otherwise it is only told.
    pub is_own: bool,
}

/// What a request led to that was not refused, or would lead to if nothing has to be changed for it.
pub fn granted(state: &State, facts: &Facts, wish: &RequestLease, now: u64) -> Option<Grant> {
    let uplinks = crate::uplink::list(state, facts);
    match holder(state, facts, &uplinks, wish)? {
        Holder::Lease(lease) => {
            let (address, _) = state.lease_place(lease, &uplinks, facts)?;
            let is_by_external = matched_by_external(wish, lease.opening);
            let offset = match wish.internal.checked_sub(lease.internal) {
                Some(offset) if !is_by_external => offset,
                Some(_) | None => 0,
            };
            let asked = super::lifetime(&state.settings, wish.mechanism, wish.lifetime);
            let rest = u32::try_from(lease.expires.saturating_sub(now)).unwrap_or(u32::MAX);
            Some(Grant {
                lease: Some(lease.id),
                address: advertised(address, &uplinks),
                external: lease.external.saturating_add(offset),
                count: lease.count.saturating_sub(offset),
                lifetime: asked.min(rest),
                version: state.leases.version(&lease.id).unwrap_or(state.revision),
                is_whole: lease.is_whole(),
                is_own: lease.mechanism == wish.mechanism,
            })
        }
        Holder::Manual {
            address,
            external,
            version,
        } => Some(Grant {
            lease: None,
            address: advertised(address, &uplinks),
            external,
            count: 1,
            lifetime: u32::MAX,
            version,
            is_whole: false,
            is_own: false,
        }),
    }
}

/// UPnP names what it means by the public port.
fn matched_by_external(wish: &RequestLease, opening: Opening) -> bool {
    wish.mechanism == Mechanism::Upnp && opening == Opening::Forward
}

pub(super) fn holder<'a>(
    state: &'a State,
    facts: &Facts,
    uplinks: &[Uplink],
    wish: &RequestLease,
) -> Option<Holder<'a>> {
    let device = state.devices.get(&wish.parties.owner)?;
    if wish.internal == 0 {
        let lease = super::whole::find(state, device.id, wish.family, wish.protocol);
        return lease.map(Holder::Lease);
    }
    let port = PortRange::new(wish.internal, wish.internal)?;
    let is_forward = match wish.family {
        Family::Ipv4 => true,
        Family::Ipv6 => state.subnets.get(&device.subnet)?.local_ipv6().is_some(),
    };
    if wish.mechanism == Mechanism::Upnp && is_forward {
        let external = wish.wished().and_then(|port| PortRange::new(port, port));
        let leases = external.map(|external| state.leases_on(None, external));
        let mut own = leases.into_iter().flatten().filter(|lease| {
            lease.is_open()
                && lease.device == device.id
                && lease.mechanism == Mechanism::Upnp
                && lease.protocol == wish.protocol
                && lease.family == wish.family
        });
        if let Some(lease) = own.next() {
            return Some(Holder::Lease(lease));
        }
        let by_internal = if wish.exact {
            None
        } else {
            let leases = state.leases_at((device.id, wish.family, wish.protocol), port);
            let mut own = leases
                .into_iter()
                .filter(|lease| lease.is_open() && lease.mechanism == Mechanism::Upnp);
            own.next()
        };
        return by_internal.map(Holder::Lease);
    }
    let leases = state.leases_at((device.id, wish.family, wish.protocol), port);
    let mut leases = leases.into_iter().filter(|lease| {
        lease.is_open()
            && !lease.is_whole()
            && match (lease.opening, wish.remote) {
                (Opening::Outbound, remote) => lease.remote == remote,
                (Opening::Forward | Opening::Pinhole, remote) => remote.is_none(),
            }
    });
    if let Some(lease) = leases.next() {
        return Some(Holder::Lease(lease));
    }
    if wish.remote.is_some() {
        return None;
    }
    if !wish.hostnames.is_empty() {
        return find_named(state, facts, uplinks, device, wish);
    }
    let side = (wish.family, wish.protocol?, wish.internal);
    find_manual(state, facts, uplinks, device, side)
}

/// What an administrator made that leads to the port that a device wants to end.
pub(super) fn manual<'a>(
    state: &'a State,
    facts: &Facts,
    uplinks: &[Uplink],
    device: &Device,
    wish: &EndLease,
    port: u16,
) -> Option<Holder<'a>> {
    let side = (wish.family, wish.protocol?, port);
    find_manual(state, facts, uplinks, device, side)
}

/// Where all of the names lead to the port already.
fn find_named<'a>(
    state: &'a State,
    facts: &Facts,
    uplinks: &[Uplink],
    device: &Device,
    wish: &RequestLease,
) -> Option<Holder<'a>> {
    let subnet = state.subnets.get(&device.subnet)?;
    let mut version = 0;
    let mut places = wish.hostnames.iter().map(|name| {
        let name = hostname::parse(name).ok()?;
        state.forwards_of(device.id).find_map(|forward| {
            let is_meant = forward.enabled
                && forward.hostname.as_ref() == Some(&name)
                && forward.target_port == wish.internal
                && (wish.protocol).is_some_and(|protocol| forward.protocols.contains(&protocol));
            let locals = forward.local_addresses(subnet, device, uplinks, facts);
            let mut locals = locals.into_iter().filter(|_| is_meant);
            let address = locals.find(|address| Family::of(*address) == wish.family)?;
            version = version.max(state.forwards.version(&forward.id).unwrap_or_default());
            Some((address, forward.port))
        })
    });
    let (address, external) = places.next()??;
    let is_one = places.all(|place| place == Some((address, external)));
    is_one.then_some(Holder::Manual {
        address,
        external,
        version,
    })
}

fn find_manual<'a>(
    state: &'a State,
    facts: &Facts,
    uplinks: &[Uplink],
    device: &Device,
    (family, protocol, internal): (Family, Protocol, u16),
) -> Option<Holder<'a>> {
    let subnet = state.subnets.get(&device.subnet)?;
    if family == Family::Ipv6 && subnet.local_ipv6().is_none() {
        let address = subnet.ipv6_of(device.ipv4).map(IpAddr::V6)?;
        let mut pinholes = state.pinholes_of(device.id).filter(|pinhole| {
            pinhole.enabled
                && pinhole.protocols.contains(&protocol)
                && pinhole
                    .ports()
                    .is_some_and(|ports| ports.contains(internal))
        });
        return pinholes.next().map(|pinhole| Holder::Manual {
            address,
            external: internal,
            version: state.pinholes.version(&pinhole.id).unwrap_or_default(),
        });
    }
    let forwards = state.forwards_of(device.id);
    let mut whole = forwards.filter(|forward| forward.hostname.is_none());
    whole.find_map(|forward| {
        let ports = forward.ports()?;
        let offset = internal.checked_sub(forward.target_port)?;
        let external = ports.first().checked_add(offset)?;
        if !forward.enabled || !forward.protocols.contains(&protocol) || !ports.contains(external) {
            return None;
        }
        let mut addresses = forward
            .local_addresses(subnet, device, uplinks, facts)
            .into_iter();
        let address = addresses.find(|address| Family::of(*address) == family)?;
        Some(Holder::Manual {
            address,
            external,
            version: state.forwards.version(&forward.id).unwrap_or_default(),
        })
    })
}
