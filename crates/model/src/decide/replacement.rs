//! Objects put in the place of others, all at once: what differs is taken out first and then put in by the rules for what is
//! new, so that nothing stands in its own way (two devices that change their addresses with each other), and nothing that
//! stays as it is can be refused.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{Draft, device, forward, pinhole, settings, subnet, uplink};
use crate::change::{DelegationWish, Patch, SetSettings};
use crate::configuration::Routing;
use crate::edit::{Edit, Key, Object};
use crate::name;
use crate::refusal::Refusal;
use crate::state::{
    DelegationId, Device, DeviceId, Forward, Pinhole, Settings, State, Subnet, Uplink,
};

/// What shall be there afterwards. What is not named here stays, with what it stands on.
#[derive(Clone, Debug, Default)]
pub(super) struct Replacement {
    /// Goes, with all that exists only for it.
    pub(super) removed: BTreeSet<Key>,
    pub(super) settings: Option<Settings>,
    pub(super) uplinks: Vec<Uplink>,
    pub(super) subnets: Vec<Subnet>,
    pub(super) devices: Vec<Placement>,
    pub(super) forwards: Vec<Forward>,
    pub(super) pinholes: Vec<Pinhole>,
}

/// A device with the prefixes that are routed to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) device: Device,
    /// Takes the lowest free address.
    pub(super) choose: bool,
    pub(super) delegations: BTreeSet<IpNet>,
}

/// An object that was refused, in words, and why.
pub(super) struct Refused {
    pub(super) object: String,
    pub(super) refusal: Refusal,
}

impl Replacement {
    /// Decides, and leaves the edits in the draft, whose state and sequence are what it is decided upon.
    pub(super) fn decide(self, draft: &mut Draft<'_>) -> Result<(), Refused> {
        let mut work = Work::begin(draft);
        let edits = work.replace(self)?;
        draft.sequence = work.scratch.sequence;
        draft.edits.extend(edits);
        Ok(())
    }
}

/// A replacement under way.
struct Work<'d, 'a> {
    draft: &'d Draft<'a>,
    /// The state without what was taken out, and with what was put in.
    scratch: State,
    devices: BTreeMap<DeviceId, Placement>,
    forwards: BTreeMap<Key, Forward>,
    pinholes: BTreeMap<Key, Pinhole>,
}

impl<'d, 'a> Work<'d, 'a> {
    fn begin(draft: &'d Draft<'a>) -> Self {
        let mut scratch = draft.state.clone();
        scratch.sequence = draft.sequence;
        Self {
            draft,
            scratch,
            devices: BTreeMap::new(),
            forwards: BTreeMap::new(),
            pinholes: BTreeMap::new(),
        }
    }

    fn replace(&mut self, replacement: Replacement) -> Result<Vec<Edit>, Refused> {
        let Replacement {
            removed,
            settings,
            uplinks,
            subnets,
            devices,
            forwards,
            pinholes,
        } = replacement;
        let state = self.draft.state;
        // What is not to change any more wins over what merely stood on something that moves.
        for placement in devices {
            self.devices.insert(placement.device.id, placement);
        }
        for forward in forwards {
            self.forwards.insert(Key::Forward(forward.id), forward);
        }
        for pinhole in pinholes {
            self.pinholes.insert(Key::Pinhole(pinhole.id), pinhole);
        }
        let uplinks: Vec<Uplink> = uplinks
            .into_iter()
            .filter(|uplink| state.uplinks.get(&uplink.id) != Some(uplink))
            .collect();
        let (moved, kept): (Vec<Subnet>, Vec<Subnet>) = subnets
            .into_iter()
            .filter(|subnet| state.subnets.get(&subnet.id) != Some(subnet))
            .partition(|subnet| {
                state.subnets.get(&subnet.id).is_none_or(|before| {
                    (before.ipv4, before.ipv6, &before.egress)
                        != (subnet.ipv4, subnet.ipv6, &subnet.egress)
                })
            });
        self.remove(&removed);
        self.lift_uplinks(&uplinks, &removed);
        self.lift_subnets(&moved);
        let changed_devices = self.lift_changed_devices();
        self.lift_ports();
        self.check_owners(&removed)?;
        for subnet in kept {
            let object = format!("subnet `{}`", subnet.name);
            check(object, name::check("subnet", &subnet.name))?;
            self.absorb(Object::Subnet(subnet));
        }
        for uplink in uplinks {
            let object = format!("uplink `{}`", uplink.name);
            let is_known = state.uplinks.contains_key(&uplink.id);
            self.put(object, |draft| uplink::put(draft, uplink, is_known))?;
        }
        if let Some(patch) = settings.and_then(|settings| patch(&state.settings, &settings)) {
            self.put("settings".to_owned(), |draft| settings::set(draft, patch))?;
        }
        for subnet in moved {
            let object = format!("subnet `{}`", subnet.name);
            self.put(object, |draft| subnet::put(draft, subnet))?;
        }
        self.put_devices(changed_devices)?;
        for forward in std::mem::take(&mut self.forwards).into_values() {
            let object = describe("forward", forward.port, forward.port_end);
            self.put_forward(object, forward)?;
        }
        for pinhole in std::mem::take(&mut self.pinholes).into_values() {
            let object = describe("pinhole", pinhole.port, pinhole.port_end);
            self.put_pinhole(object, pinhole)?;
        }
        self.check_names()?;
        Ok(difference(state, &self.scratch))
    }

    /// Forwards name advertised addresses, and are looked at again when one of those is another.
    fn lift_uplinks(&mut self, uplinks: &[Uplink], removed: &BTreeSet<Key>) {
        let state = self.draft.state;
        let advertised = |id| state.uplinks.get(&id).and_then(|uplink| uplink.advertised);
        let gone = state
            .uplinks
            .keys()
            .filter(|id| removed.contains(&Key::Uplink(**id)));
        let moves = gone.copied().any(|id| advertised(id).is_some())
            || uplinks
                .iter()
                .any(|uplink| advertised(uplink.id) != uplink.advertised);
        for uplink in uplinks {
            self.scratch.absorb(&Edit::Remove(Key::Uplink(uplink.id)));
        }
        if moves {
            for forward in state.forwards.values() {
                if forward.address.is_some() {
                    self.lift_forward(forward);
                }
            }
        }
    }

    /// Devices of a subnet that moves are looked at again, with what leads to them.
    fn lift_subnets(&mut self, moved: &[Subnet]) {
        let state = self.draft.state;
        for subnet in moved {
            self.scratch.absorb(&Edit::Remove(Key::Subnet(subnet.id)));
            for device in state.devices_of(subnet.id) {
                self.lift_device(device);
            }
        }
    }

    /// What exists only for a device that goes, goes along; what shall lead to another is put in again.
    fn remove(&mut self, removed: &BTreeSet<Key>) {
        let state = self.draft.state;
        for key in removed {
            self.scratch.absorb(&Edit::Remove(*key));
            let Key::Device(id) = key else {
                continue;
            };
            let delegations = state.delegations_of(*id).map(|it| Key::Delegation(it.id));
            let forwards = state.forwards_of(*id).map(|it| Key::Forward(it.id));
            let pinholes = state.pinholes_of(*id).map(|it| Key::Pinhole(it.id));
            let leases = state.leases_of(*id).map(|it| Key::Lease(it.id));
            let tokens = state.tokens.values();
            let tokens = tokens
                .filter(|token| token.device == Some(*id))
                .map(|token| Key::Token(token.id));
            let ports = forwards.chain(pinholes).chain(leases);
            for key in delegations.chain(ports).chain(tokens) {
                self.scratch.absorb(&Edit::Remove(key));
            }
        }
    }

    /// The devices that are to be put in again, after all that moves was taken out.
    fn lift_changed_devices(&mut self) -> Vec<(Placement, bool)> {
        let state = self.draft.state;
        let mut changed = Vec::new();
        for placement in std::mem::take(&mut self.devices).into_values() {
            let id = placement.device.id;
            let is_lifted = !self.scratch.devices.contains_key(&id);
            let Some(before) = state.devices.get(&id) else {
                changed.push((placement, true));
                continue;
            };
            let delegations: BTreeSet<IpNet> =
                state.delegations_of(id).map(|it| it.prefix).collect();
            let after = &placement.device;
            let narrows = after.routing == Routing::Split && before.routing != Routing::Split;
            let moves = placement.choose
                || narrows
                || delegations != placement.delegations
                || (
                    before.subnet,
                    before.ipv4,
                    before.public_key,
                    &before.egress,
                ) != (after.subnet, after.ipv4, after.public_key, &after.egress);
            if moves && !is_lifted {
                self.lift_device(before);
                // It was noted as it is.
                self.devices.remove(&id);
            }
            if moves || is_lifted || before != after {
                changed.push((placement, moves || is_lifted));
            }
        }
        changed
    }

    /// Forwards and pinholes that are to be put in again; those that are as they shall be are forgotten.
    fn lift_ports(&mut self) {
        let state = self.draft.state;
        for (key, forward) in std::mem::take(&mut self.forwards) {
            let before = state.forwards.get(&forward.id);
            let is_there = self.scratch.forwards.contains_key(&forward.id);
            if is_there && before == Some(&forward) {
                continue;
            }
            self.forwards.insert(key, forward);
        }
        for (key, pinhole) in std::mem::take(&mut self.pinholes) {
            let before = state.pinholes.get(&pinhole.id);
            let is_there = self.scratch.pinholes.contains_key(&pinhole.id);
            if is_there && before == Some(&pinhole) {
                continue;
            }
            self.pinholes.insert(key, pinhole);
        }
        // Those that only get another label, or are switched off, are not in anybody's way where they are.
        let moves_forward = |forward: &Forward| {
            let before = self.scratch.forwards.get(&forward.id);
            before.is_some_and(|before| !is_same_way(before, forward))
        };
        let moving: Vec<Key> = self
            .forwards
            .iter()
            .filter(|(_, forward)| moves_forward(forward))
            .map(|(key, _)| *key)
            .collect();
        let moves_pinhole = |pinhole: &Pinhole| {
            let before = self.scratch.pinholes.get(&pinhole.id);
            before.is_some_and(|before| !is_same_hole(before, pinhole))
        };
        let digging: Vec<Key> = self
            .pinholes
            .iter()
            .filter(|(_, pinhole)| moves_pinhole(pinhole))
            .map(|(key, _)| *key)
            .collect();
        for key in moving.into_iter().chain(digging) {
            self.scratch.absorb(&Edit::Remove(key));
        }
    }

    fn lift_device(&mut self, device: &Device) {
        let state = self.draft.state;
        if !self.scratch.devices.contains_key(&device.id) {
            return;
        }
        let delegations: BTreeSet<IpNet> = (state.delegations_of(device.id))
            .map(|delegation| delegation.prefix)
            .collect();
        for delegation in state.delegations_of(device.id) {
            let key = Key::Delegation(delegation.id);
            self.scratch.absorb(&Edit::Remove(key));
        }
        for forward in state.forwards_of(device.id) {
            self.lift_forward(forward);
        }
        for pinhole in state.pinholes_of(device.id) {
            let key = Key::Pinhole(pinhole.id);
            if self.scratch.pinholes.contains_key(&pinhole.id) {
                self.scratch.absorb(&Edit::Remove(key));
                self.pinholes.entry(key).or_insert_with(|| pinhole.clone());
            }
        }
        self.scratch.absorb(&Edit::Remove(Key::Device(device.id)));
        self.devices.entry(device.id).or_insert_with(|| Placement {
            device: device.clone(),
            choose: false,
            delegations,
        });
    }

    fn lift_forward(&mut self, forward: &Forward) {
        let key = Key::Forward(forward.id);
        if self.scratch.forwards.contains_key(&forward.id) {
            self.scratch.absorb(&Edit::Remove(key));
            self.forwards.entry(key).or_insert_with(|| forward.clone());
        }
    }

    /// Nothing may stand on what goes.
    fn check_owners(&self, removed: &BTreeSet<Key>) -> Result<(), Refused> {
        for key in removed {
            let Key::Subnet(id) = key else {
                continue;
            };
            let devices = self.scratch.devices_of(*id).count();
            if let (1.., Some(subnet)) = (devices, self.draft.state.subnets.get(id)) {
                let subnet = subnet.name.clone();
                let object = format!("subnet `{subnet}`");
                return check(object, Err(Refusal::SubnetInUse { subnet, devices }));
            }
        }
        Ok(())
    }

    /// Those that name an address come first, so that no other is given it.
    fn put_devices(&mut self, mut changed: Vec<(Placement, bool)>) -> Result<(), Refused> {
        let state = self.draft.state;
        changed.sort_by_key(|(placement, _)| (placement.choose, placement.device.id));
        // Those that stay where they are have their new names before others get the old ones.
        let (moved, kept): (Vec<_>, Vec<_>) = changed.into_iter().partition(|(_, moves)| *moves);
        for (Placement { device, .. }, _) in kept {
            let object = format!("device `{}`", device.name);
            check(object, name::check("device", &device.name))?;
            self.absorb(Object::Device(device));
        }
        for (placement, _) in moved {
            let Placement {
                device,
                choose,
                delegations,
            } = placement;
            let object = format!("device `{}`", device.name);
            let id = device.id;
            let wishes: Vec<DelegationWish> = delegations
                .into_iter()
                .map(DelegationWish::Prefix)
                .collect();
            let edits = self.decide(object, |draft| device::put(draft, device, choose, &wishes))?;
            let known: BTreeMap<IpNet, DelegationId> = (state.delegations_of(id))
                .map(|delegation| (delegation.prefix, delegation.id))
                .collect();
            for edit in edits {
                match edit {
                    Edit::Set(Object::Delegation(mut delegation)) => {
                        if let Some(id) = known.get(&delegation.prefix) {
                            delegation.id = *id;
                        }
                        self.absorb(Object::Delegation(delegation));
                    }
                    edit @ (Edit::Set(_) | Edit::Remove(_)) => self.scratch.absorb(&edit),
                }
            }
        }
        Ok(())
    }

    fn put_forward(&mut self, object: String, forward: Forward) -> Result<(), Refused> {
        if self.scratch.forwards.contains_key(&forward.id) {
            check(object, name::check_label(&forward.label))?;
            self.absorb(Object::Forward(forward));
            return Ok(());
        }
        self.put(object, |draft| forward::put(draft, forward))
    }

    fn put_pinhole(&mut self, object: String, pinhole: Pinhole) -> Result<(), Refused> {
        if self.scratch.pinholes.contains_key(&pinhole.id) {
            check(object, name::check_label(&pinhole.label))?;
            self.absorb(Object::Pinhole(pinhole));
            return Ok(());
        }
        self.put(object, |draft| pinhole::put(draft, pinhole))
    }

    /// What got its name where it is may have the name of something that stays.
    fn check_names(&self) -> Result<(), Refused> {
        let before = self.draft.state;
        for (id, change) in before.devices.difference(&self.scratch.devices) {
            let Some(device) = change.after else {
                continue;
            };
            let named = self.scratch.devices_named(&device.name);
            if named.into_iter().any(|other| other.id != id) {
                return Err(taken("device", &device.name));
            }
        }
        for (id, change) in before.subnets.difference(&self.scratch.subnets) {
            let Some(subnet) = change.after else {
                continue;
            };
            let mut others = self.scratch.subnets.values();
            if others.any(|other| other.id != id && other.name == subnet.name) {
                return Err(taken("subnet", &subnet.name));
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        object: String,
        put: impl FnOnce(&mut Draft<'_>) -> Result<(), Refusal>,
    ) -> Result<(), Refused> {
        for edit in self.decide(object, put)? {
            self.scratch.absorb(&edit);
        }
        Ok(())
    }

    fn decide(
        &self,
        object: String,
        put: impl FnOnce(&mut Draft<'_>) -> Result<(), Refusal>,
    ) -> Result<Vec<Edit>, Refused> {
        let Draft {
            facts, now, random, ..
        } = *self.draft;
        let mut draft = Draft::new(&self.scratch, facts, now, random);
        draft.overrides_leases = true;
        check(object, put(&mut draft))?;
        Ok(draft.finish())
    }

    fn absorb(&mut self, object: Object) {
        self.scratch.absorb(&Edit::Set(object));
    }
}

fn describe(kind: &str, first: u16, last: u16) -> String {
    if first == last {
        format!("{kind} {first}")
    } else {
        format!("{kind} {first}-{last}")
    }
}

fn check(object: String, result: Result<(), Refusal>) -> Result<(), Refused> {
    result.map_err(|refusal| Refused { object, refusal })
}

fn taken(kind: &'static str, name: &str) -> Refused {
    let object = format!("{kind} `{name}`");
    let name = name.to_owned();
    let refusal = Refusal::NameTaken { kind, name };
    Refused { object, refusal }
}

/// Whether a forward is in nobody's way where another version of it is: only what it says differs, or it is switched off.
fn is_same_way(before: &Forward, after: &Forward) -> bool {
    let opens = after.enabled && !before.enabled;
    let same = Forward {
        label: before.label.clone(),
        enabled: before.enabled,
        ..after.clone()
    };
    same == *before && !opens
}

fn is_same_hole(before: &Pinhole, after: &Pinhole) -> bool {
    let same = Pinhole {
        label: before.label.clone(),
        enabled: before.enabled,
        ..after.clone()
    };
    same == *before
}

/// The settings that differ; none where all are the same.
fn patch(before: &Settings, after: &Settings) -> Option<SetSettings> {
    let Settings {
        listen_port,
        dns_servers,
        snat_first,
        snat_last,
        mtu,
        clamp_mtu,
        connection_limit,
        lease_minimum,
        lease_maximum,
        // It goes with the private key, which nothing declares or takes back.
        gateway_key: _,
    } = after.clone();
    let snat = (snat_first, snat_last);
    let patch = SetSettings {
        listen_port: (before.listen_port != listen_port).then_some(listen_port),
        dns_servers: (before.dns_servers != dns_servers).then_some(dns_servers),
        snat_ports: ((before.snat_first, before.snat_last) != snat).then_some(snat),
        mtu: match mtu {
            _ if before.mtu == mtu => Patch::Keep,
            Some(mtu) => Patch::Set(mtu),
            None => Patch::Clear,
        },
        clamp_mtu: (before.clamp_mtu != clamp_mtu).then_some(clamp_mtu),
        connection_limit: (before.connection_limit != connection_limit).then_some(connection_limit),
        lease_minimum: (before.lease_minimum != lease_minimum).then_some(lease_minimum),
        lease_maximum: (before.lease_maximum != lease_maximum).then_some(lease_maximum),
    };
    (patch != SetSettings::default()).then_some(patch)
}

/// The edits that lead from one state to another.
pub(super) fn difference(before: &State, after: &State) -> Vec<Edit> {
    let mut keys: Vec<Key> = Vec::new();
    let mut touched = BTreeSet::new();
    for (id, change) in before.delegations.difference(&after.delegations) {
        keys.push(Key::Delegation(id));
        touched.extend(change.before.map(|delegation| delegation.device));
        touched.extend(change.after.map(|delegation| delegation.device));
    }
    for (id, _) in before.devices.difference(&after.devices) {
        touched.insert(id);
    }
    let forwards = before.forwards.difference(&after.forwards);
    keys.extend(forwards.map(|(id, _)| Key::Forward(id)));
    let pinholes = before.pinholes.difference(&after.pinholes);
    keys.extend(pinholes.map(|(id, _)| Key::Pinhole(id)));
    let leases = before.leases.difference(&after.leases);
    keys.extend(leases.map(|(id, _)| Key::Lease(id)));
    let tokens = before.tokens.difference(&after.tokens);
    keys.extend(tokens.map(|(id, _)| Key::Token(id)));
    keys.extend(touched.into_iter().map(Key::Device));
    let subnets = before.subnets.difference(&after.subnets);
    keys.extend(subnets.map(|(id, _)| Key::Subnet(id)));
    let uplinks = before.uplinks.difference(&after.uplinks);
    keys.extend(uplinks.map(|(id, _)| Key::Uplink(id)));
    if before.settings != after.settings {
        keys.push(Key::Settings);
    }
    let gone = keys
        .iter()
        .filter(|key| after.object(**key).is_none() && before.object(**key).is_some())
        .map(|key| Edit::Remove(*key));
    let set = keys.iter().rev().filter_map(|key| after.object(*key));
    gone.chain(set.map(Edit::Set)).collect()
}
