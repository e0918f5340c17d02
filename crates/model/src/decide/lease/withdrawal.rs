//! Leases that end because something else was changed: decided with that change, in the same revision.

use std::collections::BTreeSet;

use super::{entitled, quota};
use crate::change::Parties;
use crate::edit::{Edit, Key, Object};
use crate::facts::Facts;
use crate::protocol::{PortRange, Protocol};
use crate::state::{Device, DeviceId, Forward, Lease, LeaseId, Opening, Pinhole, State};
use crate::uplink::{self, Uplink};

/// The removals of leases that cannot stay with what edits make of a state.
pub(in crate::decide) fn withdraw(
    state: &State,
    edits: &[Edit],
    facts: &Facts,
    now: u64,
) -> Vec<Edit> {
    if state.leases.is_empty() || edits.iter().all(is_indifferent) {
        return Vec::new();
    }
    let mut after = state.clone();
    for edit in edits {
        after.absorb(edit);
    }
    let uplinks = uplink::list(&after, facts);
    let mut withdrawn = BTreeSet::new();
    let mut moving: BTreeSet<DeviceId> = BTreeSet::new();
    let mut places_moved = false;
    for edit in edits {
        match edit {
            Edit::Remove(Key::Device(id)) => {
                withdrawn.extend(state.leases_of(*id).map(|lease| lease.id));
                withdrawn.extend(state.leases_asked_by(*id).map(|lease| lease.id));
            }
            Edit::Set(Object::Device(device)) => {
                let before = state.devices.get(&device.id);
                places_moved |= before.is_some_and(|before| before.egress != device.egress);
                moving.extend(before.filter(|it| moves(it, device)).map(|it| it.id));
                of_device(&after, before, device, now, &mut withdrawn);
            }
            Edit::Set(Object::Subnet(subnet)) => {
                let before = state.subnets.get(&subnet.id);
                let moves = before.is_some_and(|before| {
                    (before.ipv6, before.ipv4, &before.egress)
                        != (subnet.ipv6, subnet.ipv4, &subnet.egress)
                });
                places_moved |= moves;
                let devices = after.devices_of(subnet.id).filter(|_| moves);
                moving.extend(devices.map(|device| device.id));
            }
            Edit::Set(Object::Forward(forward)) => {
                under_forward(&after, forward, (&uplinks, facts), &mut withdrawn);
            }
            Edit::Set(Object::Pinhole(pinhole)) => {
                under_pinhole(&after, pinhole, &mut withdrawn);
            }
            Edit::Set(Object::Settings(settings)) => {
                let before = &state.settings;
                let snat = (settings.snat_first, settings.snat_last);
                if (before.snat_first, before.snat_last) != snat {
                    let range = PortRange::new(snat.0, snat.1);
                    let leases = range.map(|range| after.leases_on(None, range));
                    withdrawn.extend(leases.into_iter().flatten().map(|lease| lease.id));
                }
                if before.listen_port != settings.listen_port {
                    let range = PortRange::new(settings.listen_port, settings.listen_port);
                    let leases = range.map(|range| after.leases_on(None, range));
                    let leases = leases.into_iter().flatten();
                    let udp = leases.filter(|lease| lease.protocol == Some(Protocol::Udp));
                    withdrawn.extend(udp.map(|lease| lease.id));
                }
            }
            Edit::Set(Object::Uplink(_)) | Edit::Remove(Key::Uplink(_)) => places_moved = true,
            Edit::Set(
                Object::Delegation(_)
                | Object::Lease(_)
                | Object::Token(_)
                | Object::Sequence(_)
                | Object::Confirmation(_),
            )
            | Edit::Remove(_) => {}
        }
    }
    if !moving.is_empty() {
        let of_before = uplink::list(state, facts);
        let leases = moving.iter().flat_map(|id| state.leases_of(*id));
        let moved = leases.filter(|lease| {
            let known = (state, of_before.as_slice());
            is_moved(lease, known, (&after, &uplinks), facts)
        });
        withdrawn.extend(moved.map(|lease| lease.id));
    }
    if places_moved {
        where_they_meet(&after, (&uplinks, facts), &mut withdrawn);
    }
    // What goes for another reason leaves room.
    for edit in edits {
        if let Edit::Set(Object::Device(device)) = edit
            && (state.devices.get(&device.id))
                .is_some_and(|before| before.lease_quota() > device.lease_quota())
        {
            withdrawn.extend(quota::beyond(&after, device, &withdrawn));
        }
    }
    let known = withdrawn
        .into_iter()
        .filter(|id| after.leases.contains_key(id));
    known.map(|id| Edit::Remove(Key::Lease(id))).collect()
}

/// Whether an edit can have no lease in its way.
const fn is_indifferent(edit: &Edit) -> bool {
    matches!(
        edit,
        Edit::Set(
            Object::Lease(_)
                | Object::Token(_)
                | Object::Sequence(_)
                | Object::Confirmation(_)
                | Object::Delegation(_)
        ) | Edit::Remove(
            Key::Lease(_)
                | Key::Token(_)
                | Key::Sequence
                | Key::Confirmation
                | Key::Forward(_)
                | Key::Pinhole(_)
                | Key::Delegation(_)
        )
    )
}

/// Whether its leases may be at other addresses.
fn moves(before: &Device, after: &Device) -> bool {
    (before.subnet, before.ipv4, &before.egress) != (after.subnet, after.ipv4, &after.egress)
}

/// Whether a lease leads from or to another address than the one that its device was told. What had none stays: it waits for one.
fn is_moved(
    lease: &Lease,
    (before, of_before): (&State, &[Uplink]),
    (after, of_after): (&State, &[Uplink]),
    facts: &Facts,
) -> bool {
    let place = |state: &State, uplinks| state.lease_place(lease, uplinks, facts).map(|it| it.0);
    let known = place(before, of_before);
    before.lease_target(lease) != after.lease_target(lease)
        || (known.is_some() && known != place(after, of_after))
}

fn of_device(
    after: &State,
    before: Option<&Device>,
    device: &Device,
    now: u64,
    withdrawn: &mut BTreeSet<LeaseId>,
) {
    let is_outside = |lease: &&Lease| {
        if lease.is_whole() {
            return !device.may_open_all();
        }
        let ports = lease.external_ports();
        ports.is_none_or(|ports| !device.may_open(ports, lease.is_named()))
    };
    let policy_moves = before.is_none_or(|before| before.port_policy != device.port_policy);
    let own = after
        .leases_of(device.id)
        .filter(|lease| !is_entitled(after, lease, now) || (policy_moves && is_outside(lease)));
    withdrawn.extend(own.map(|lease| lease.id));
    let asked = after.leases_asked_by(device.id);
    let lost = asked.filter(|lease| !is_entitled(after, lease, now));
    withdrawn.extend(lost.map(|lease| lease.id));
}

/// Whether who asked for a lease might ask for it now.
fn is_entitled(after: &State, lease: &Lease, now: u64) -> bool {
    let parties = Parties {
        asking: lease.asking.unwrap_or(lease.device),
        owner: lease.device,
    };
    entitled(after, parties, now).is_ok()
}

fn under_forward(
    after: &State,
    forward: &Forward,
    (uplinks, facts): (&[Uplink], &Facts),
    withdrawn: &mut BTreeSet<LeaseId>,
) {
    let place = || {
        let device = after.devices.get(&forward.device)?;
        let subnet = after.subnets.get(&device.subnet)?;
        Some(forward.local_addresses(subnet, device, uplinks, facts))
    };
    let (Some(locals), Some(range)) = (place(), forward.ports()) else {
        return;
    };
    let leases = after.leases_on(None, range).into_iter();
    let met = leases.filter(|lease| {
        lease.is_of(&forward.protocols)
            && !lease.shares_with(forward)
            && after
                .lease_place(lease, uplinks, facts)
                .is_none_or(|(address, _)| locals.contains(&address))
    });
    withdrawn.extend(met.map(|lease| lease.id));
}

/// Addresses are others now: of what meets there, a forward stays, and of leases the oldest.
fn where_they_meet(
    after: &State,
    (uplinks, facts): (&[Uplink], &Facts),
    withdrawn: &mut BTreeSet<LeaseId>,
) {
    for forward in after.forwards.values() {
        under_forward(after, forward, (uplinks, facts), withdrawn);
    }
    let place = |lease: &Lease| {
        let place = after.lease_place(lease, uplinks, facts);
        place.map(|(address, _)| address)
    };
    for lease in after.leases.values() {
        let Some(range) = lease.external_ports() else {
            continue;
        };
        let is_hosted = match lease.opening {
            Opening::Forward | Opening::Outbound => true,
            Opening::Pinhole => false,
        };
        if !is_hosted || withdrawn.contains(&lease.id) {
            continue;
        }
        let local = place(lease);
        let younger = after.leases_on(None, range).into_iter().filter(|other| {
            other.id > lease.id
                && other.protocol == lease.protocol
                && !lease.is_beside(other)
                && (other.device, other.internal) != (lease.device, lease.internal)
                && place(other) == local
        });
        withdrawn.extend(younger.map(|other| other.id));
    }
}

fn under_pinhole(after: &State, pinhole: &Pinhole, withdrawn: &mut BTreeSet<LeaseId>) {
    let Some(range) = pinhole.ports() else {
        return;
    };
    let leases = after.leases_on(Some(pinhole.device), range).into_iter();
    let met = leases.filter(|lease| {
        // One port more or less is nothing to who has all of them.
        let is_covered = !lease.is_whole() || range == PortRange::ALL;
        lease.opening == Opening::Pinhole && is_covered && lease.is_of(&pinhole.protocols)
    });
    withdrawn.extend(met.map(|lease| lease.id));
}
