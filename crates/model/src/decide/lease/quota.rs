//! What a device may have at a time: the ports that it has open, and those that are only kept for it, which give way.
//!
//! Ports that are kept are in everyone else's way, so who opens and ends without end must not have more of them than who
//! opens and leaves it at that.

use std::collections::BTreeSet;

use super::refuse;
use crate::decide::Draft;
use crate::refusal::{LeaseRefusal, Refusal};
use crate::state::{Device, Lease, LeaseId, State};

/// How many ports a device may still open.
pub(super) fn left(draft: &Draft<'_>, device: &Device) -> Result<u32, Refusal> {
    let limit = device.lease_quota();
    match limit.saturating_sub(draft.state.leased_ports(device.id)) {
        0 => refuse(LeaseRefusal::Quota { limit }),
        left => Ok(left),
    }
}

/// What can be kept no more for a device that opens so many ports, beside what is `taken` of that anyway: what was ended first.
pub(super) fn crowded_out(
    draft: &Draft<'_>,
    device: &Device,
    count: u16,
    taken: &BTreeSet<LeaseId>,
) -> BTreeSet<LeaseId> {
    let state = draft.state;
    let weight = |id| state.leases.get(id).map_or(0, |it| u32::from(it.weight()));
    let mut kept = state.kept_ports(device.id);
    kept = kept.saturating_sub(taken.iter().map(weight).sum());
    let open = state.leased_ports(device.id).saturating_add(count.into());
    let room = device.lease_quota().saturating_sub(open);
    let rest = state.leases_kept(device.id);
    let rest = rest.filter(|lease| !taken.contains(&lease.id));
    rest.take_while(|lease| {
        let is_over = kept > room;
        kept = kept.saturating_sub(lease.weight().into());
        is_over
    })
    .map(|lease| lease.id)
    .collect()
}

/// What a device can have no more whose quota is a lower one, beside what is `withdrawn` anyway: first what is only kept, and of what
/// is open the youngest.
pub(super) fn beyond(
    after: &State,
    device: &Device,
    withdrawn: &BTreeSet<LeaseId>,
) -> BTreeSet<LeaseId> {
    let stays = |lease: &&Lease| !withdrawn.contains(&lease.id);
    let weight = |lease: &Lease| u32::from(lease.weight());
    let mut taken: u32 = after.leases_of(device.id).filter(stays).map(weight).sum();
    let kept = after.leases_kept(device.id);
    let open = after.leases_of(device.id).rev();
    kept.chain(open.filter(|lease| lease.is_open()))
        .filter(stays)
        .take_while(|lease| {
            let is_over = taken > device.lease_quota();
            taken = taken.saturating_sub(weight(lease));
            is_over
        })
        .map(|lease| lease.id)
        .collect()
}
