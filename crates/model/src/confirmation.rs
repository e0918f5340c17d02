//! Changes that are taken back unless somebody confirms that the gateway can still be reached.
//!
//! Taking a change back undoes what it did, field by field: what others changed later stays as they made it. So that this is
//! possible at any time until then, `decide` refuses later changes that would be in its way.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::edit::{Edit, Key, Object};
use crate::facts::Facts;
use crate::impact::{self, Effect};
use crate::state::confirmation::{Confirmation, Undo};
use crate::state::{DeviceId, State};

/// How long a change that may cut off whoever made it awaits its confirmation, in seconds.
pub const USUAL: u64 = 60;

/// The shortest and the longest that a change may await its confirmation, in seconds.
pub const BOUNDS: (u64, u64) = (1, 3600);

/// The edit that makes a change await its confirmation. The change leads from one state to the other, whose revision is
/// that of the change.
pub fn awaiting(before: &State, after: &State, edits: &[Edit], deadline: u64) -> Edit {
    let mut seen = BTreeSet::new();
    let keys = edits.iter().map(Edit::key);
    // Leases do not come back: who had them asks again.
    let keys = keys.filter(|key| !matches!(key, Key::Sequence | Key::Confirmation | Key::Lease(_)));
    let undo = keys.filter(|key| seen.insert(*key)).map(|key| Undo {
        key,
        before: before.object(key),
        after: after.object(key),
    });
    Edit::Set(Object::Confirmation(Confirmation {
        revision: after.revision,
        deadline,
        undo: undo.filter(|undo| undo.before != undo.after).collect(),
    }))
}

/// The state without the change that awaits its confirmation; what was changed later stays.
pub fn taken_back(state: &State) -> State {
    let mut result = state.clone();
    let Some(confirmation) = &state.confirmation else {
        return result;
    };
    for undo in &confirmation.undo {
        match (&undo.before, &undo.after, state.object(undo.key)) {
            (None, Some(_), Some(_)) => result.absorb(&Edit::Remove(undo.key)),
            (Some(before), None, None) => result.absorb(&Edit::Set(before.clone())),
            (Some(before), Some(after), Some(now)) => {
                if let Some(object) = merge(before, after, &now) {
                    result.absorb(&Edit::Set(object));
                }
            }
            // It went later, or was removed and is not missed: ids are not used again.
            (_, Some(_), None) | (None, None, _) | (Some(_), None, Some(_)) => {}
        }
    }
    result.absorb(&Edit::Remove(Key::Confirmation));
    drop_orphans(state, confirmation, &mut result);
    result
}

/// Whether a change may cut off somebody who comes from an address: it is one inside the tunnel, and what its connection
/// hangs on is not the same afterwards.
pub fn may_cut_off(
    before: &State,
    after: &State,
    edits: &[Edit],
    facts: &Facts,
    now: u64,
    source: IpAddr,
) -> bool {
    let inside = before.subnets.values().any(|subnet| match source {
        IpAddr::V4(address) => subnet.ipv4.contains(&address),
        IpAddr::V6(address) => subnet.ipv6.is_some_and(|prefix| prefix.contains(&address)),
    });
    let delegation = before.delegations_between(source, source).next();
    let device = before
        .device_at(source)
        .map(|device| device.id)
        .or(delegation.map(|delegation| delegation.device));
    let Some(device) = device else {
        return inside;
    };
    let removes = edits.iter().any(|edit| matches!(edit, Edit::Remove(_)));
    removes || is_touched(before, after, facts, now, device)
}

fn is_touched(before: &State, after: &State, facts: &Facts, now: u64, device: DeviceId) -> bool {
    let impact = impact::on(before, after, facts, now, device);
    let others = |mut settings: crate::state::Settings| {
        settings.dns_servers.clear();
        settings
    };
    others(before.settings.clone()) != others(after.settings.clone())
        || before.uplinks != after.uplinks
        || impact.iter().any(|effect| match effect {
            Effect::Disconnected | Effect::Reconfigure | Effect::Reach => true,
            Effect::Connections => false,
        })
}

/// The fields that the change made as they were before it, and those that were changed later as they are.
fn merge(before: &Object, after: &Object, now: &Object) -> Option<Object> {
    let fields = |object: &Object| {
        let body = object.to_body();
        body.as_object().cloned().unwrap_or_default()
    };
    let (before, after, now_fields) = (fields(before), fields(after), fields(now));
    let names: BTreeSet<&String> = before.keys().chain(now_fields.keys()).collect();
    let mut merged = Map::new();
    for name in names {
        let kept = now_fields.get(name);
        let value = if kept == after.get(name) {
            before.get(name)
        } else {
            kept
        };
        merged.extend(value.map(|value| (name.clone(), value.clone())));
    }
    let key = now.key();
    Object::from_body(key.kind(), key.id(), Value::Object(merged)).ok()
}

/// What would lead to something that was removed later stays as the later change left it.
fn drop_orphans(state: &State, confirmation: &Confirmation, result: &mut State) {
    for is_device in [true, false] {
        for undo in &confirmation.undo {
            let is_orphan = match result.object(undo.key) {
                Some(Object::Device(device)) => {
                    is_device && !result.subnets.contains_key(&device.subnet)
                }
                Some(Object::Delegation(it)) => !result.devices.contains_key(&it.device),
                Some(Object::Forward(it)) => !result.devices.contains_key(&it.device),
                Some(Object::Pinhole(it)) => !result.devices.contains_key(&it.device),
                Some(Object::Token(it)) => it
                    .device
                    .is_some_and(|device| !result.devices.contains_key(&device)),
                Some(
                    Object::Lease(_)
                    | Object::Uplink(_)
                    | Object::Subnet(_)
                    | Object::Settings(_)
                    | Object::Sequence(_)
                    | Object::Confirmation(_),
                )
                | None => false,
            };
            if is_orphan {
                let kept = state.object(undo.key);
                result.absorb(&kept.map_or(Edit::Remove(undo.key), Edit::Set));
            }
        }
    }
}
