//! What is desired, kept along with the state it comes from: where little changed, little is derived.
//!
//! What objects contribute depends on themselves, their device, their subnet and the host. Where subnets, settings and
//! the host stay, the objects that changed are found, and those that they may meet; what these contributed before is
//! taken out, and what they contribute now is put in.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Context, Desired, Frame, Inputs, Part, derive, firewall, names, sysctls};
use crate::facts::Facts;
use crate::protocol::PortRange;
use crate::state::{DeviceId, Forward, ForwardId, PinholeId, State};

/// What was derived last, and from what.
#[derive(Debug)]
pub struct Derivation {
    desired: Arc<Desired>,
    state: State,
    facts: Facts,
    frame: Frame,
    now: u64,
}

impl Derivation {
    /// Derives everything.
    pub fn new(inputs: &Inputs<'_>) -> Self {
        Self {
            desired: Arc::new(derive(inputs)),
            state: inputs.state.clone(),
            facts: inputs.facts.clone(),
            frame: Frame::new(inputs),
            now: inputs.now,
        }
    }

    /// What was derived last.
    pub fn desired(&self) -> &Arc<Desired> {
        &self.desired
    }

    /// Derives what the inputs lead to: the same as [`derive`]. Interface and key are those of the first time.
    pub fn update(&mut self, inputs: &Inputs<'_>) -> &Arc<Desired> {
        let is_local = self.facts == *inputs.facts
            && self.state.subnets == inputs.state.subnets
            && self.state.uplinks == inputs.state.uplinks
            && self.state.settings == inputs.state.settings;
        if !is_local {
            *self = Self::new(inputs);
            return &self.desired;
        }
        let before = Inputs {
            state: &self.state,
            facts: &self.facts,
            now: self.now,
            ..*inputs
        };
        let touched = Touched::between(&before, inputs);
        if !touched.is_empty() {
            let after = Context {
                inputs,
                frame: &self.frame,
            };
            let before = Context {
                inputs: &before,
                frame: &self.frame,
            };
            let desired = Arc::make_mut(&mut self.desired);
            touched
                .part(&after)
                .replace(&touched.part(&before), desired);
            names::finish(&after, desired);
            desired.sysctls = sysctls(&after, desired);
        }
        self.state = inputs.state.clone();
        self.now = inputs.now;
        &self.desired
    }
}

/// What may contribute something else than before.
#[derive(Default)]
struct Touched {
    devices: BTreeSet<DeviceId>,
    forwards: BTreeSet<ForwardId>,
    pinholes: BTreeSet<PinholeId>,
    /// Whose forwards are touched.
    targets: BTreeSet<DeviceId>,
}

impl Touched {
    fn between(before: &Inputs<'_>, after: &Inputs<'_>) -> Self {
        let states = [before.state, after.state];
        let mut touched = Self::default();
        let [old, new] = states;
        let changed = old.devices.difference(&new.devices);
        touched.devices.extend(changed.map(|(id, _)| id));
        for (_, delegation) in old.delegations.difference(&new.delegations) {
            let versions = [delegation.before, delegation.after];
            let devices = versions.into_iter().flatten().map(|it| it.device);
            touched.devices.extend(devices);
        }
        let (earlier, later) = (before.now.min(after.now), before.now.max(after.now));
        touched.devices.extend(old.expiring(earlier, later));

        let mut forwards: Vec<ForwardId> = (old.forwards.difference(&new.forwards))
            .map(|(id, _)| id)
            .collect();
        let mut pinholes: Vec<PinholeId> = (old.pinholes.difference(&new.pinholes))
            .map(|(id, _)| id)
            .collect();
        for state in states {
            for device in &touched.devices {
                forwards.extend(state.forwards_of(*device).map(|forward| forward.id));
                pinholes.extend(state.pinholes_of(*device).map(|pinhole| pinhole.id));
            }
        }
        while let Some(id) = forwards.pop() {
            if !touched.forwards.insert(id) {
                continue;
            }
            for state in states {
                if let Some(forward) = state.forwards.get(&id) {
                    touched.targets.insert(forward.device);
                    forwards.extend(neighbors_of(state, forward));
                }
            }
        }
        // Two pinholes of one device and the same ports would be one element.
        while let Some(id) = pinholes.pop() {
            if !touched.pinholes.insert(id) {
                continue;
            }
            for state in states {
                if let Some(pinhole) = state.pinholes.get(&id) {
                    let alike = (state.pinholes_of(pinhole.device))
                        .filter(|other| other.ports() == pinhole.ports());
                    pinholes.extend(alike.map(|other| other.id));
                }
            }
        }
        touched.targets.extend(&touched.devices);
        touched
    }

    fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.forwards.is_empty() && self.pinholes.is_empty()
    }

    /// What all of it contributes.
    fn part(&self, context: &Context<'_>) -> Part {
        let state = context.inputs.state;
        let mut part = Part::default();
        for device in self.devices.iter().filter_map(|id| state.devices.get(id)) {
            part.add_device(context, device);
        }
        for device in self.targets.iter().filter_map(|id| state.devices.get(id)) {
            firewall::hairpins(context, device, &mut part);
        }
        for forward in self.forwards.iter().filter_map(|id| state.forwards.get(id)) {
            firewall::forward(context, forward, &mut part);
        }
        for pinhole in self.pinholes.iter().filter_map(|id| state.pinholes.get(id)) {
            firewall::pinhole(context, pinhole, &mut part);
        }
        part
    }
}

/// The forwards that may want what a forward wants: a public port, or a port of its device.
fn neighbors_of(state: &State, forward: &Forward) -> Vec<ForwardId> {
    let Some(ports) = forward.ports() else {
        return Vec::new();
    };
    if let Some(hostname) = &forward.hostname {
        // Whether those without a name are translated depends on whether there is one with a name.
        let same = state.forwards_named(forward.port, hostname);
        let plain = state.plain_forwards_on(ports).into_iter();
        return same.chain(plain).map(|other| other.id).collect();
    }
    let targets = targets_of(forward);
    let at_device = state
        .forwards_of(forward.device)
        .filter(|other| other.hostname.is_none())
        .filter(|other| match (targets_of(other), targets) {
            (Some(theirs), Some(ours)) => theirs.overlaps(ours),
            (_, _) => false,
        });
    let at_gateway = state.plain_forwards_on(ports).into_iter();
    at_gateway.chain(at_device).map(|other| other.id).collect()
}

/// The ports on the device; a range keeps its numbers.
fn targets_of(forward: &Forward) -> Option<PortRange> {
    let ports = forward.ports()?;
    if ports.is_single() {
        PortRange::new(forward.target_port, forward.target_port)
    } else {
        Some(ports)
    }
}
