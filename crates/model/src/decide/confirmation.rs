//! A change confirmed or taken back, and what later changes may not do until then.

use std::collections::BTreeSet;

use super::replacement::{Placement, Refused, Replacement, difference};
use super::{Draft, Random};
use crate::confirmation::taken_back;
use crate::edit::{Edit, Key, Object};
use crate::facts::Facts;
use crate::refusal::Refusal;
use crate::state::{Confirmation, State};

pub(super) fn confirm(draft: &mut Draft<'_>) -> Result<(), Refusal> {
    if draft.state.confirmation.is_none() {
        return Err(Refusal::NothingToConfirm {
            revision: draft.state.revision,
        });
    }
    draft.remove(Key::Confirmation);
    Ok(())
}

/// Nothing about it is asked: whatever could be in the way was refused before.
pub(super) fn take_back(draft: &mut Draft<'_>, revision: u64) {
    let state = draft.state;
    let awaiting = state.confirmation.as_ref();
    if awaiting.is_some_and(|confirmation| confirmation.revision == revision) {
        draft.edits.extend(difference(state, &taken_back(state)));
        draft.remove(Key::Confirmation);
    }
}

/// Refuses a later change after which the one that awaits its confirmation could not be taken back.
pub(super) fn check_later(
    state: &State,
    edits: &[Edit],
    facts: &Facts,
    now: u64,
    random: &Random,
) -> Result<(), Refusal> {
    let mut later = state.clone();
    for edit in edits {
        later.absorb(edit);
    }
    let Some(confirmation) = state.confirmation.as_deref() else {
        return Ok(());
    };
    let refuse = |reason: String| Refusal::AwaitsConfirmation {
        revision: confirmation.revision,
        reason,
    };
    let result = taken_back(&later);
    if let Some(reason) = left_behind(confirmation, &later, &result) {
        return Err(refuse(reason));
    }
    let mut draft = Draft::new(&later, facts, now, random);
    replacement(confirmation, &later, &result)
        .decide(&mut draft)
        .map_err(|Refused { object, refusal }| refuse(format!("{object}: {refusal}")))
}

/// What the way back puts in place of what is there.
fn replacement(confirmation: &Confirmation, later: &State, result: &State) -> Replacement {
    let mut replacement = Replacement::default();
    let mut devices = BTreeSet::new();
    for undo in &confirmation.undo {
        let (now, then) = (later.object(undo.key), result.object(undo.key));
        for delegation in [&now, &then] {
            if let Some(Object::Delegation(delegation)) = delegation {
                devices.insert(delegation.device);
            }
        }
        if now == then {
            continue;
        }
        match then {
            None => {
                replacement.removed.insert(undo.key);
            }
            Some(Object::Uplink(uplink)) => replacement.uplinks.push(uplink),
            Some(Object::Subnet(subnet)) => replacement.subnets.push(subnet),
            Some(Object::Device(device)) => {
                devices.insert(device.id);
            }
            Some(Object::Forward(forward)) => replacement.forwards.push(forward),
            Some(Object::Pinhole(pinhole)) => replacement.pinholes.push(pinhole),
            Some(Object::Settings(settings)) => replacement.settings = Some(settings),
            // Delegations come with their device, and a token is in nobody's way but by its name.
            Some(
                Object::Delegation(_)
                | Object::Lease(_)
                | Object::Token(_)
                | Object::Sequence(_)
                | Object::Confirmation(_),
            ) => {}
        }
    }
    for id in devices {
        if let Some(device) = result.devices.get(&id) {
            replacement.devices.push(Placement {
                device: device.clone(),
                choose: false,
                delegations: (result.delegations_of(id)).map(|it| it.prefix).collect(),
            });
        }
    }
    replacement
}

/// Something that was added later, and for which there would be no place.
fn left_behind(confirmation: &Confirmation, later: &State, result: &State) -> Option<String> {
    for undo in &confirmation.undo {
        match undo.key {
            Key::Device(id) if !result.devices.contains_key(&id) => {
                let forward = result.forwards_of(id).next();
                let pinhole = result.pinholes_of(id).next();
                let delegation = result.delegations_of(id).next();
                let mut tokens = result.tokens.values();
                let is_met = forward.is_some()
                    || pinhole.is_some()
                    || delegation.is_some()
                    || tokens.any(|token| token.device == Some(id));
                if let (true, Some(device)) = (is_met, later.devices.get(&id)) {
                    return Some(format!(
                        "it is for device `{}`, which would go",
                        device.name
                    ));
                }
            }
            Key::Subnet(id) if !result.subnets.contains_key(&id) => {
                let is_met = result.devices_of(id).next().is_some();
                if let (true, Some(subnet)) = (is_met, later.subnets.get(&id)) {
                    return Some(format!("it is in subnet `{}`, which would go", subnet.name));
                }
            }
            Key::Token(id) => {
                let name = result.tokens.get(&id).map(|token| token.name.as_str());
                let mut others = result.tokens.values();
                let is_met =
                    others.any(|other| other.id != id && Some(other.name.as_str()) == name);
                if let (true, Some(name)) = (is_met, name) {
                    return Some(format!("there would be two tokens `{name}`"));
                }
            }
            Key::Device(_)
            | Key::Subnet(_)
            | Key::Uplink(_)
            | Key::Delegation(_)
            | Key::Forward(_)
            | Key::Pinhole(_)
            | Key::Lease(_)
            | Key::Settings
            | Key::Sequence
            | Key::Confirmation => {}
        }
    }
    None
}
