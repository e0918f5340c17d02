//! The end of leases: because their device wants it, or their time is over.

use std::collections::BTreeSet;

use super::{KEPT, holder, parties, refuse, whole};
use crate::change::{EndLease, EndLeases, ExpireLeases, LeasePort, Parties};
use crate::decide::Draft;
use crate::edit::{Key, Object};
use crate::protocol::PortRange;
use crate::refusal::{LeaseRefusal, Refusal};
use crate::state::{Lease, LeaseId, Opening};

/// Ends what is there; what is not there has ended.
pub(in crate::decide) fn end(draft: &mut Draft<'_>, wish: &EndLease) -> Result<(), Refusal> {
    let (device, _) = parties(draft, wish.parties)?;
    if wish.port == LeasePort::Internal(0) {
        return whole::end(draft, device.id, wish);
    }
    let state = draft.state;
    let is_meant = |lease: &&Lease| {
        lease.is_open()
            && !lease.is_whole()
            && lease.protocol == wish.protocol
            && lease.family == wish.family
    };
    let found: Vec<&Lease> = match wish.port {
        LeasePort::Internal(port) => {
            let Some(port) = PortRange::new(port, port) else {
                return refuse(LeaseRefusal::AllPorts);
            };
            let side = (device.id, wish.family, wish.protocol);
            state
                .leases_at(side, port)
                .into_iter()
                .filter(is_meant)
                .collect()
        }
        LeasePort::External(port) => {
            let Some(port) = PortRange::new(port, port) else {
                return refuse(LeaseRefusal::AllPorts);
            };
            let leases = state.leases_on(None, port).into_iter();
            leases
                .filter(|lease| lease.device == device.id && is_meant(lease))
                .collect()
        }
        LeasePort::Id(id) => state
            .leases
            .get(&id)
            .into_iter()
            .filter(|lease| lease.device == device.id && lease.is_open())
            .collect(),
    };
    let (outbound, inbound): (Vec<&Lease>, Vec<&Lease>) = found
        .into_iter()
        .partition(|lease| lease.opening == Opening::Outbound);
    let own = inbound
        .iter()
        .find(|lease| lease.mechanism == wish.mechanism);
    match own {
        Some(lease) if lease.nonce != wish.nonce => {
            let rest = lease.expires.saturating_sub(draft.now);
            let remaining = u32::try_from(rest).unwrap_or(u32::MAX);
            refuse(LeaseRefusal::WrongNonce { remaining })
        }
        Some(lease) => {
            release(draft, lease);
            Ok(())
        }
        None if !inbound.is_empty() => refuse(LeaseRefusal::NotOwner),
        None if !outbound.is_empty() => refuse(LeaseRefusal::Outbound),
        None => match wish.port {
            LeasePort::Internal(port)
                if holder::manual(state, draft.facts, &draft.uplinks, device, wish, port)
                    .is_some() =>
            {
                refuse(LeaseRefusal::NotOwner)
            }
            LeasePort::Internal(_) | LeasePort::External(_) | LeasePort::Id(_) => Ok(()),
        },
    }
}

pub(in crate::decide) fn end_all(draft: &mut Draft<'_>, wish: EndLeases) -> Result<(), Refusal> {
    let (device, _) = parties(draft, Parties::own(wish.device))?;
    let leases: Vec<&Lease> = (draft.state.leases_of(device.id))
        .filter(|lease| lease.is_open() && lease.mechanism == wish.mechanism)
        .filter(|lease| lease.protocol == Some(wish.protocol))
        .collect();
    for lease in leases {
        release(draft, lease);
    }
    Ok(())
}

pub(in crate::decide) fn expire(draft: &mut Draft<'_>, wish: &ExpireLeases) {
    let state = draft.state;
    let ended = state.leases_ended(draft.now);
    let told = wish.over.iter().filter(|(id, expires)| {
        let lease = state.leases.get(id);
        lease.is_some_and(|lease| lease.expires == *expires)
    });
    let over: BTreeSet<LeaseId> = told.map(|(id, _)| *id).chain(ended).collect();
    let mut removed = BTreeSet::new();
    for device in state.expiring(wish.since, draft.now) {
        removed.extend(state.leases_of(device).map(|lease| lease.id));
        removed.extend(state.leases_asked_by(device).map(|lease| lease.id));
    }
    for lease in over.iter().filter_map(|id| state.leases.get(id)) {
        if removed.contains(&lease.id) {
            continue;
        }
        // What ended while the gateway was away is not kept as long again.
        let since = lease.expires.min(draft.now);
        if lease.is_open() && since + KEPT > draft.now {
            let mut ended = lease.clone();
            ended.kept = Some(since + KEPT);
            draft.set(Object::Lease(ended));
        } else if lease.end() <= draft.now {
            removed.insert(lease.id);
        }
    }
    for id in removed {
        draft.remove(Key::Lease(id));
    }
}

/// Ends a lease, and keeps its port for the device a while.
pub(super) fn release(draft: &mut Draft<'_>, lease: &Lease) {
    let mut ended = lease.clone();
    ended.kept = Some(draft.now + KEPT);
    draft.set(Object::Lease(ended));
}
