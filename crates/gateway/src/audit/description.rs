//! What a change did, told object by object and field by field, without secrets and within bounds.

use std::collections::{BTreeMap, BTreeSet};

use adit_api::timestamp::Timestamp;
use adit_api::types::log::{Action, FieldChange, LogEvent, LogObject, Verb};
use adit_model::change::Change;
use adit_model::edit::{Edit, Key, Object};
use adit_model::protocol::{PortRange, Protocol};
use adit_model::state::{DeviceId, State, SubnetId};
use serde_json::{Map, Value};

use super::{Note, who};
use crate::caller::Caller;

/// Objects that are told one by one: a subnet may take ten thousand devices along.
const TOLD: usize = 20;
/// Bytes of an entry, about, after which objects are counted only.
const LARGEST: usize = 4096;
/// Subjects that an entry is found by.
const SUBJECTS: usize = 400;

/// Fields that must not be told.
const SECRETS: &[&str] = &["preshared_key", "hash", "nonce"];
/// Fields that say nothing.
const EMPTY: &[&str] = &["id", "gateway"];

/// What a change asks for, and of which kind of object.
pub(crate) const fn action_of(change: &Change) -> (Action, &'static str) {
    match change {
        Change::AddSubnet(_) => (Action::Add, "subnet"),
        Change::SetSubnet(..) => (Action::Set, "subnet"),
        Change::RemoveSubnet { .. } => (Action::Remove, "subnet"),
        Change::AddDevice(_) => (Action::Add, "device"),
        Change::SetDevice(..) => (Action::Set, "device"),
        Change::RekeyDevice { .. } => (Action::Rekey, "device"),
        Change::RemoveDevice(_) => (Action::Remove, "device"),
        Change::AddForward(_) => (Action::Add, "forward"),
        Change::SetForward(..) => (Action::Set, "forward"),
        Change::RemoveForward(_) => (Action::Remove, "forward"),
        Change::AddPinhole(_) => (Action::Add, "pinhole"),
        Change::SetPinhole(..) => (Action::Set, "pinhole"),
        Change::RemovePinhole(_) => (Action::Remove, "pinhole"),
        Change::RequestLease(_) => (Action::Add, "lease"),
        Change::EndLease(_)
        | Change::EndLeases(_)
        | Change::RemoveLease(_)
        | Change::ExpireLeases(_) => (Action::Remove, "lease"),
        Change::SetUplink(..) => (Action::Set, "uplink"),
        Change::SetSettings(_) => (Action::Set, "settings"),
        Change::AddToken(_) => (Action::Add, "token"),
        Change::RemoveToken(_) => (Action::Remove, "token"),
        Change::Apply(_) => (Action::Apply, "declaration"),
        Change::Confirm => (Action::Confirm, "confirmation"),
        Change::TakeBack(_) => (Action::TakeBack, "confirmation"),
        Change::Import(_) => (Action::Import, "settings"),
    }
}

/// The entry for a change that led from one state to another by these edits; none when it changed nothing.
pub(crate) fn of_change(
    caller: &Caller,
    (action, kind): (Action, &str),
    before: &State,
    after: &State,
    edits: &[Edit],
) -> Option<Note> {
    let mut keys = changed(before, after, edits);
    // What was asked for comes first.
    keys.sort_by_key(|key| key.kind() != kind);
    let mut subjects = Vec::new();
    let mut objects: Vec<LogObject> = Vec::new();
    let mut size = 0;
    for key in &keys {
        let (old, new) = (before.object(*key), after.object(*key));
        let Some(shown) = new.as_ref().or(old.as_ref()) else {
            continue;
        };
        if subjects.len() < SUBJECTS {
            add_subjects(&mut subjects, shown, before, after);
        }
        if objects.len() >= TOLD || size >= LARGEST {
            continue;
        }
        let mut object = tell(shown, old.as_ref(), new.as_ref(), before, after);
        let length = serde_json::to_string(&object).map_or(0, |text| text.len());
        if length > LARGEST {
            object.fields.clear();
        }
        size += length.min(LARGEST);
        objects.push(object);
    }
    let awaited = before.confirmation.as_ref();
    let detail = match (action, awaited.filter(|_| after.confirmation.is_none())) {
        (Action::Confirm | Action::TakeBack, Some(awaited)) => {
            format!("the change of revision {}", awaited.revision)
        }
        _ => String::new(),
    };
    if keys.is_empty() && detail.is_empty() {
        return None;
    }
    let event = LogEvent {
        who: who(caller),
        action,
        more: keys.len() - objects.len(),
        objects,
        detail,
    };
    Some(Note { subjects, event })
}

/// Everything that edits change between two states; what is added has no id yet.
pub(crate) fn all_changes(before: &State, after: &State, edits: &[Edit]) -> Vec<LogObject> {
    let told = changed(before, after, edits).into_iter().filter_map(|key| {
        let (old, new) = (before.object(key), after.object(key));
        let shown = new.as_ref().or(old.as_ref())?;
        let object = tell(shown, old.as_ref(), new.as_ref(), before, after);
        let id = old.as_ref().map_or(0, |_| object.id);
        Some(LogObject { id, ..object })
    });
    told.collect()
}

/// What is not as it was, each once.
fn changed(before: &State, after: &State, edits: &[Edit]) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    let mut seen = BTreeSet::new();
    for edit in edits {
        let key = edit.key();
        let differs = before.object(key) != after.object(key);
        let is_told = !matches!(key, Key::Sequence | Key::Confirmation);
        if is_told && differs && seen.insert(key) {
            keys.push(key);
        }
    }
    keys
}

fn tell(
    shown: &Object,
    old: Option<&Object>,
    new: Option<&Object>,
    before: &State,
    after: &State,
) -> LogObject {
    let key = shown.key();
    LogObject {
        kind: key.kind().to_owned(),
        id: key.id(),
        name: name_of(shown, before, after),
        verb: match (old, new) {
            (None, _) => Verb::Added,
            (Some(_), Some(_)) => Verb::Changed,
            (Some(_), None) => Verb::Removed,
        },
        fields: differences(old, new, before, after),
    }
}

/// An object is found by its id and name, and what leads to a device by the device, too.
fn add_subjects(subjects: &mut Vec<String>, object: &Object, before: &State, after: &State) {
    let key = object.key();
    let mut add = |subject: String| {
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
    };
    add(format!("{}/{}", key.kind(), key.id()));
    let device = match object {
        Object::Device(device) => Some(device.id),
        Object::Delegation(delegation) => Some(delegation.device),
        Object::Forward(forward) => Some(forward.device),
        Object::Pinhole(pinhole) => Some(pinhole.device),
        Object::Lease(lease) => Some(lease.device),
        Object::Uplink(_)
        | Object::Subnet(_)
        | Object::Token(_)
        | Object::Settings(_)
        | Object::Sequence(_)
        | Object::Confirmation(_) => {
            add(format!("{}/{}", key.kind(), name_of(object, before, after)));
            None
        }
    };
    if let Some(id) = device {
        add(format!("device/{id}"));
        // A device that is renamed is found by both names.
        for state in [before, after] {
            if let Some(device) = state.devices.get(&id) {
                add(format!("device/{}", device.name));
            }
        }
    }
}

fn name_of(object: &Object, before: &State, after: &State) -> String {
    match object {
        Object::Uplink(uplink) => uplink.name.clone(),
        Object::Subnet(subnet) => subnet.name.clone(),
        Object::Device(device) => device.name.clone(),
        Object::Delegation(delegation) => delegation.prefix.to_string(),
        Object::Forward(forward) => {
            let reach = reach(
                forward.port,
                forward.port_end,
                &forward.protocols,
                &device_name(forward.device, before, after),
            );
            match &forward.hostname {
                Some(hostname) => format!("{hostname} on {reach}"),
                None => reach,
            }
        }
        Object::Pinhole(pinhole) => reach(
            pinhole.port,
            pinhole.port_end,
            &pinhole.protocols,
            &device_name(pinhole.device, before, after),
        ),
        Object::Lease(lease) => {
            let device = device_name(lease.device, before, after);
            let last = lease.external_ports().map(PortRange::last);
            match lease.protocol {
                Some(protocol) => {
                    let last = last.unwrap_or(lease.external);
                    reach(lease.external, last, &[protocol].into(), &device)
                }
                None => format!("whatever comes in to {device}"),
            }
        }
        Object::Token(token) => token.name.clone(),
        Object::Settings(_) => "settings".to_owned(),
        Object::Sequence(_) => "sequence".to_owned(),
        Object::Confirmation(_) => "confirmation".to_owned(),
    }
}

/// `443/tcp to nas`
fn reach(first: u16, last: u16, protocols: &BTreeSet<Protocol>, device: &str) -> String {
    let ports = if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    };
    match protocols.first() {
        Some(protocol) if protocols.len() == 1 => format!("{ports}/{protocol} to {device}"),
        Some(_) | None => format!("{ports} to {device}"),
    }
}

fn device_name(id: DeviceId, before: &State, after: &State) -> String {
    let device = after.devices.get(&id).or_else(|| before.devices.get(&id));
    device.map_or_else(|| id.to_string(), |device| device.name.clone())
}

fn differences(
    old: Option<&Object>,
    new: Option<&Object>,
    before: &State,
    after: &State,
) -> BTreeMap<String, FieldChange> {
    let fields = |object: Option<&Object>| match object.map(Object::to_body) {
        Some(Value::Object(fields)) => fields,
        Some(_) | None => Map::new(),
    };
    let (old, new) = (fields(old), fields(new));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut differences = BTreeMap::new();
    for name in names {
        let (from, to) = (old.get(name), new.get(name));
        if from == to || EMPTY.contains(&name.as_str()) {
            continue;
        }
        let shown = |value: Option<&Value>| show(name, value, before, after);
        let change = FieldChange {
            from: shown(from),
            to: shown(to),
        };
        if !(change.from.is_null() && change.to.is_null()) {
            differences.insert(name.clone(), change);
        }
    }
    differences
}

/// A field as people know it.
fn show(name: &str, value: Option<&Value>, before: &State, after: &State) -> Value {
    let Some(value) = value else {
        return Value::Null;
    };
    if SECRETS.contains(&name) {
        return Value::from("hidden");
    }
    let is_empty = value.as_str() == Some("") || value.as_array().is_some_and(Vec::is_empty);
    if is_empty {
        return Value::Null;
    }
    match (name, value.as_u64()) {
        ("device", Some(id)) => device_name(DeviceId(id), before, after).into(),
        ("subnet", Some(id)) => {
            let id = SubnetId(id);
            let subnet = after.subnets.get(&id).or_else(|| before.subnets.get(&id));
            subnet.map_or_else(|| value.clone(), |subnet| subnet.name.clone().into())
        }
        ("expires", Some(seconds)) => Timestamp(seconds).to_string().into(),
        _ => value.clone(),
    }
}
