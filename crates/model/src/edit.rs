//! Edits: one object set or removed. Stored, absorbed, told, audited, and undone by their inverse.

use serde::{Deserialize, Serialize};

use crate::state::{
    Confirmation, Delegation, DelegationId, Device, DeviceId, Forward, ForwardId, Lease, LeaseId,
    Pinhole, PinholeId, Settings, State, Subnet, SubnetId, Token, TokenId, Uplink, UplinkId,
};

/// One object, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "object", rename_all = "lowercase")]
pub enum Object {
    /// What was said about an uplink.
    Uplink(Uplink),
    /// A subnet.
    Subnet(Subnet),
    /// A device.
    Device(Device),
    /// A delegation.
    Delegation(Delegation),
    /// A forward.
    Forward(Forward),
    /// A pinhole.
    Pinhole(Pinhole),
    /// A lease.
    Lease(Lease),
    /// A token.
    Token(Token),
    /// The settings.
    Settings(Settings),
    /// The highest id given.
    Sequence(u64),
    /// The change that awaits its confirmation.
    Confirmation(Confirmation),
}

/// Names one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "lowercase")]
pub enum Key {
    /// An uplink's settings.
    Uplink(UplinkId),
    /// A subnet.
    Subnet(SubnetId),
    /// A device.
    Device(DeviceId),
    /// A delegation.
    Delegation(DelegationId),
    /// A forward.
    Forward(ForwardId),
    /// A pinhole.
    Pinhole(PinholeId),
    /// A lease.
    Lease(LeaseId),
    /// A token.
    Token(TokenId),
    /// The settings.
    Settings,
    /// The highest id given.
    Sequence,
    /// The change that awaits its confirmation.
    Confirmation,
}

/// A change of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Edit {
    /// The object is now this.
    Set(Object),
    /// The object is gone; settings go back to their defaults.
    Remove(Key),
}

/// Stored text that is not the object it should be.
#[derive(Debug, thiserror::Error)]
#[error("stored {kind} {id}: {reason}")]
pub struct ObjectError {
    kind: String,
    id: u64,
    reason: String,
}

impl Key {
    /// The kind's name, as it is stored.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Uplink(_) => "uplink",
            Self::Subnet(_) => "subnet",
            Self::Device(_) => "device",
            Self::Delegation(_) => "delegation",
            Self::Forward(_) => "forward",
            Self::Pinhole(_) => "pinhole",
            Self::Lease(_) => "lease",
            Self::Token(_) => "token",
            Self::Settings => "settings",
            Self::Sequence => "sequence",
            Self::Confirmation => "confirmation",
        }
    }

    /// The number within the kind; 0 where there is one object.
    pub const fn id(self) -> u64 {
        match self {
            Self::Uplink(id) => id.0,
            Self::Subnet(id) => id.0,
            Self::Device(id) => id.0,
            Self::Delegation(id) => id.0,
            Self::Forward(id) => id.0,
            Self::Pinhole(id) => id.0,
            Self::Lease(id) => id.0,
            Self::Token(id) => id.0,
            Self::Settings | Self::Sequence | Self::Confirmation => 0,
        }
    }
}

impl Object {
    /// What names it.
    pub const fn key(&self) -> Key {
        match self {
            Self::Uplink(object) => Key::Uplink(object.id),
            Self::Subnet(object) => Key::Subnet(object.id),
            Self::Device(object) => Key::Device(object.id),
            Self::Delegation(object) => Key::Delegation(object.id),
            Self::Forward(object) => Key::Forward(object.id),
            Self::Pinhole(object) => Key::Pinhole(object.id),
            Self::Lease(object) => Key::Lease(object.id),
            Self::Token(object) => Key::Token(object.id),
            Self::Settings(_) => Key::Settings,
            Self::Sequence(_) => Key::Sequence,
            Self::Confirmation(_) => Key::Confirmation,
        }
    }

    /// The object as JSON, without its kind.
    pub fn to_body(&self) -> serde_json::Value {
        let tagged = serde_json::to_value(self).unwrap_or_default();
        tagged.get("object").cloned().unwrap_or_default()
    }

    /// Reads what [`Object::to_body`] wrote.
    pub fn from_body(kind: &str, id: u64, body: serde_json::Value) -> Result<Self, ObjectError> {
        let error = |reason: String| ObjectError {
            kind: kind.to_owned(),
            id,
            reason,
        };
        let tagged = serde_json::json!({"kind": kind, "object": body});
        let object: Self =
            serde_json::from_value(tagged).map_err(|source| error(source.to_string()))?;
        if object.key().id() == id {
            Ok(object)
        } else {
            Err(error(format!("its body says {}", object.key().id())))
        }
    }
}

impl Edit {
    /// What it changes.
    pub const fn key(&self) -> Key {
        match self {
            Self::Set(object) => object.key(),
            Self::Remove(key) => *key,
        }
    }
}

impl State {
    /// The object that a key names.
    pub fn object(&self, key: Key) -> Option<Object> {
        match key {
            Key::Uplink(id) => self.uplinks.get(&id).cloned().map(Object::Uplink),
            Key::Subnet(id) => self.subnets.get(&id).cloned().map(Object::Subnet),
            Key::Device(id) => self.devices.get(&id).cloned().map(Object::Device),
            Key::Delegation(id) => self.delegations.get(&id).cloned().map(Object::Delegation),
            Key::Forward(id) => self.forwards.get(&id).cloned().map(Object::Forward),
            Key::Pinhole(id) => self.pinholes.get(&id).cloned().map(Object::Pinhole),
            Key::Lease(id) => self.leases.get(&id).cloned().map(Object::Lease),
            Key::Token(id) => self.tokens.get(&id).cloned().map(Object::Token),
            Key::Settings => Some(Object::Settings(self.settings.clone())),
            Key::Sequence => Some(Object::Sequence(self.sequence)),
            Key::Confirmation => {
                let confirmation = self.confirmation.as_deref().cloned();
                confirmation.map(Object::Confirmation)
            }
        }
    }

    /// Every object with the revision of its last write; where none is known, that of the state.
    pub fn objects(&self) -> impl Iterator<Item = (u64, Object)> {
        let keys = [Key::Settings, Key::Sequence, Key::Confirmation]
            .into_iter()
            .chain(self.uplinks.keys().copied().map(Key::Uplink))
            .chain(self.subnets.keys().copied().map(Key::Subnet))
            .chain(self.devices.keys().copied().map(Key::Device))
            .chain(self.delegations.keys().copied().map(Key::Delegation))
            .chain(self.forwards.keys().copied().map(Key::Forward))
            .chain(self.pinholes.keys().copied().map(Key::Pinhole))
            .chain(self.leases.keys().copied().map(Key::Lease))
            .chain(self.tokens.keys().copied().map(Key::Token));
        keys.filter_map(|key| {
            let version = self.version(key).unwrap_or(self.revision);
            Some((version, self.object(key)?))
        })
    }

    /// The revision of an object's last write; none for what is not there. That of a device moves with its delegations.
    pub fn version(&self, key: Key) -> Option<u64> {
        match key {
            // Stands for every uplink of which nothing was said.
            Key::Uplink(UplinkId(0)) => Some(0),
            Key::Uplink(id) => self.uplinks.version(&id),
            Key::Subnet(id) => self.subnets.version(&id),
            Key::Device(id) => self.devices.version(&id),
            Key::Delegation(id) => self.delegations.version(&id),
            Key::Forward(id) => self.forwards.version(&id),
            Key::Pinhole(id) => self.pinholes.version(&id),
            Key::Lease(id) => self.leases.version(&id),
            Key::Token(id) => self.tokens.version(&id),
            Key::Settings => Some(self.settings_version),
            Key::Sequence | Key::Confirmation => None,
        }
    }

    /// The edit that undoes an edit, taken before it is absorbed. Where others have seen the change already, the
    /// inverse of [`Key::Sequence`] is left out: ids that were given are not given again.
    pub fn inverse(&self, edit: &Edit) -> Edit {
        let key = edit.key();
        self.object(key).map_or(Edit::Remove(key), Edit::Set)
    }
}
