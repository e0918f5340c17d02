//! All ports of a protocol at once, or of all protocols whatever comes in (RFC 6887 section 11.1: internal port 0).
//!
//! What cannot be had in its entirety has to be UNSUPP_PROTOCOL (section 11.3), and is for everyone that the administrator has not
//! allowed it (NOT_AUTHORIZED of section 7.4 would be true as well, but less is told that way). Of an IPv4 address, and of the IPv6
//! address of this host, other devices and the host itself need ports; only an address of the device's own is given whole.

use std::collections::BTreeSet;

use super::ending::release;
use super::{begun, check_address, quota, refuse, renew};
use crate::change::{EndLease, RequestLease};
use crate::decide::Draft;
use crate::edit::{Key, Object};
use crate::protocol::Protocol;
use crate::refusal::{LeaseRefusal, Refusal};
use crate::state::{Device, DeviceId, Family, Lease, LeaseId, Mechanism, Opening, State, Subnet};

pub(super) fn request(
    draft: &mut Draft<'_>,
    device: &Device,
    subnet: &Subnet,
    wish: &RequestLease,
) -> Result<(), Refusal> {
    let is_own_address = wish.family == Family::Ipv6 && subnet.global_ipv6().is_some();
    let is_meant = wish.mechanism == Mechanism::Pcp && wish.remote.is_none();
    // No single port is that of all.
    let is_single = wish.exact && wish.external.is_some();
    if !is_own_address || !is_meant || is_single || !device.may_open_all() {
        return refuse(LeaseRefusal::AllPorts);
    }
    if !wish.hostnames.is_empty() {
        return refuse(LeaseRefusal::Hostnames);
    }
    // Filters of single ports are looked up in the same set, where ranges must not overlap.
    if !wish.filters.is_empty() {
        return refuse(LeaseRefusal::Filters { limit: 0 });
    }
    let mut lease = begun(draft, device, wish, Opening::Pinhole);
    (lease.internal, lease.external, lease.count) = Lease::WHOLE;
    let address = lease
        .local_address(subnet, device, &draft.uplinks, draft.facts)
        .ok_or(LeaseRefusal::NoAddress)?;
    check_address(draft, wish, address)?;
    if let Some(lease) = find(draft.state, device.id, wish.family, wish.protocol) {
        let wish = RequestLease {
            exact: false,
            external: None,
            ..wish.clone()
        };
        return renew(draft, lease, (device, subnet), &wish, BTreeSet::new());
    }
    quota::left(draft, device)?;
    for id in quota::crowded_out(draft, device, lease.weight(), &BTreeSet::new()) {
        draft.remove(Key::Lease(id));
    }
    lease.id = LeaseId(draft.next_id());
    draft.set(Object::Lease(lease));
    Ok(())
}

pub(super) fn end(draft: &mut Draft<'_>, device: DeviceId, wish: &EndLease) -> Result<(), Refusal> {
    match find(draft.state, device, wish.family, wish.protocol) {
        Some(lease) if lease.nonce != wish.nonce => {
            let rest = lease.expires.saturating_sub(draft.now);
            let remaining = u32::try_from(rest).unwrap_or(u32::MAX);
            refuse(LeaseRefusal::WrongNonce { remaining })
        }
        Some(lease) => {
            release(draft, lease);
            Ok(())
        }
        None => Ok(()),
    }
}

/// The lease of all ports of a protocol, or of all protocols, that a device has.
pub(super) fn find(
    state: &State,
    device: DeviceId,
    family: Family,
    protocol: Option<Protocol>,
) -> Option<&Lease> {
    let mut leases = state.leases_of(device);
    leases.find(|lease| {
        lease.is_open() && lease.is_whole() && lease.family == family && lease.protocol == protocol
    })
}
