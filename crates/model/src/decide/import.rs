//! Another server's configuration taken over: a list of changes, all or none.

use super::{Draft, decide};
use crate::change::{
    AddDevice, AddForward, AddSubnet, Change, DelegationWish, Ipv6Wish, Patch, SetForward,
    SetSettings, SetUplink,
};
use crate::edit::{Edit, Object};
use crate::facts::Facts;
use crate::import::{Import, ImportedDevice, ImportedForward, ImportedSubnet};
use crate::key::PresharedKey;
use crate::refusal::Refusal;
use crate::state::{Delivery, Device, PortPolicy, State};

pub(super) fn import(draft: &mut Draft<'_>, import: Import) -> Result<(), Refusal> {
    let key = import.private_key.public_key();
    if draft.facts.gateway_key != Some(key) && !draft.state.devices.is_empty() {
        return Err(Refusal::ImportKeyTaken {
            devices: draft.state.devices.len(),
        });
    }
    let mut work = Work {
        facts: Facts {
            gateway_key: Some(key),
            ..draft.facts.clone()
        },
        state: draft.state.clone(),
        draft,
    };
    let settings = SetSettings {
        listen_port: Some(import.listen_port),
        mtu: import.mtu.map_or(Patch::Keep, Patch::Set),
        dns_servers: Some(import.dns_servers).filter(|servers| !servers.is_empty()),
        ..SetSettings::default()
    };
    work.make("the server", Change::SetSettings(settings))?;
    let mut settings = work.state.settings.clone();
    settings.gateway_key = Some(key);
    work.replace(Object::Settings(settings));
    if let Some(endpoint) = import.endpoint
        && work.draft.uplinks.len() == 1
    {
        let patch = SetUplink {
            endpoint: Patch::Set(endpoint),
            ..SetUplink::default()
        };
        work.make("the server's host name", Change::SetUplink(None, patch))?;
    }
    for subnet in import.subnets {
        work.subnet(subnet)?;
    }
    for device in import.devices {
        work.device(device)?;
    }
    for forward in import.forwards {
        work.forward(forward)?;
    }
    Ok(())
}

/// The state as far as it is taken over.
struct Work<'a, 'b> {
    draft: &'a mut Draft<'b>,
    state: State,
    facts: Facts,
}

impl Work<'_, '_> {
    /// Decides on a part, and tells of a refusal where it stands in the file.
    fn make(&mut self, place: &str, change: Change) -> Result<Vec<Edit>, Refusal> {
        let (now, random) = (self.draft.now, self.draft.random);
        let decided = decide(&self.state, change, &self.facts, now, random);
        let edits = decided.map_err(|refusal| Refusal::ImportRefused {
            place: place.to_owned(),
            reason: refusal.to_string(),
            hint: refusal.hint(),
        })?;
        for edit in &edits {
            self.push(edit.clone());
        }
        Ok(edits)
    }

    fn push(&mut self, edit: Edit) {
        self.state.absorb(&edit);
        match edit {
            // The draft says it once, at its end.
            Edit::Set(Object::Sequence(sequence)) => self.draft.sequence = sequence,
            edit @ (Edit::Set(_) | Edit::Remove(_)) => self.draft.edits.push(edit),
        }
    }

    /// Says something else of an object that was said just now.
    fn replace(&mut self, object: Object) {
        let edit = Edit::Set(object);
        let before = self
            .draft
            .edits
            .iter()
            .rposition(|other| other.key() == edit.key());
        if let Some(before) = before {
            self.draft.edits.remove(before);
        }
        self.push(edit);
    }

    fn subnet(&mut self, subnet: ImportedSubnet) -> Result<(), Refusal> {
        let change = AddSubnet {
            name: subnet.name,
            ipv4: subnet.ipv4,
            ipv6: subnet.ipv6.map_or(Ipv6Wish::None, Ipv6Wish::Prefix),
            delivery: Delivery::Auto,
            egress: None,
            gateway_address: true,
            peers: true,
            // A plain server lets its peers reach it: a resolver on it, or its shell.
            host_access: true,
            force: true,
        };
        self.make(&subnet.place, Change::AddSubnet(change))?;
        Ok(())
    }

    fn device(&mut self, device: ImportedDevice) -> Result<(), Refusal> {
        let is_past = device
            .expires
            .is_some_and(|expires| expires <= self.draft.now);
        let delegate = device.delegations.into_iter().map(DelegationWish::Prefix);
        let change = AddDevice {
            name: device.name,
            subnet: Some(device.subnet),
            kind: device.kind,
            routing: None,
            ipv4: device.ipv4,
            public_key: device.public_key,
            delegate: delegate.collect(),
            expires: device.expires.filter(|_| !is_past),
            egress: None,
            port_policy: PortPolicy::default(),
        };
        let edits = self.make(&device.place, Change::AddDevice(change))?;
        let added = edits.into_iter().find_map(|edit| match edit {
            Edit::Set(Object::Device(device)) => Some(device),
            Edit::Set(_) | Edit::Remove(_) => None,
        });
        if let Some(added) = added {
            self.replace(Object::Device(Device {
                preshared_key: device.preshared_key.unwrap_or(PresharedKey::NONE),
                enabled: device.enabled && !is_past,
                ..added
            }));
        }
        Ok(())
    }

    fn forward(&mut self, forward: ImportedForward) -> Result<(), Refusal> {
        let change = AddForward {
            address: forward.address,
            port: forward.port,
            port_end: forward.port,
            protocols: forward.protocols,
            device: forward.device,
            target_port: Some(forward.target_port),
            hostname: None,
            label: forward.label,
        };
        let edits = self.make(&forward.place, Change::AddForward(change))?;
        if forward.enabled {
            return Ok(());
        }
        for edit in edits {
            if let Edit::Set(Object::Forward(added)) = edit {
                let patch = SetForward {
                    enabled: Some(false),
                    ..SetForward::default()
                };
                let reference = added.id.to_string();
                self.make(&forward.place, Change::SetForward(reference, patch))?;
            }
        }
        Ok(())
    }
}
