//! What is desired, kept along with the state it comes from: where little changed, little is derived.
//!
//! What objects contribute depends on themselves, their device, their subnet and the host. Where subnets, settings and
//! the host stay, the objects that changed are found, and those that they may meet; what these contributed before is
//! taken out, and what they contribute now is put in.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Context, Desired, Frame, Inputs, Part, derive, firewall, names, sysctls};
use crate::facts::Facts;
use crate::protocol::{PortRange, Protocol};
use crate::state::{
    DeviceId, Family, Forward, ForwardId, Lease, LeaseId, Opening, PinholeId, State,
};

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
    leases: BTreeSet<LeaseId>,
    /// Whose forwards and leases are touched.
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

        let mut waiting = Waiting {
            forwards: (old.forwards.difference(&new.forwards))
                .map(|(id, _)| id)
                .collect(),
            pinholes: (old.pinholes.difference(&new.pinholes))
                .map(|(id, _)| id)
                .collect(),
            leases: (old.leases.difference(&new.leases))
                .map(|(id, _)| id)
                .chain(old.leases_ending(earlier, later))
                .collect(),
        };
        for state in states {
            for device in &touched.devices {
                let forwards = state.forwards_of(*device);
                waiting.forwards.extend(forwards.map(|forward| forward.id));
                let pinholes = state.pinholes_of(*device);
                waiting.pinholes.extend(pinholes.map(|pinhole| pinhole.id));
                let leases = state.leases_of(*device);
                waiting.leases.extend(leases.map(|lease| lease.id));
            }
        }
        while touched.take(&mut waiting, states) {}
        touched.targets.extend(&touched.devices);
        touched
    }

    /// Takes one of those that wait, with what it may meet; false when none is left.
    fn take(&mut self, waiting: &mut Waiting, states: [&State; 2]) -> bool {
        if let Some(id) = waiting.forwards.pop() {
            if self.forwards.insert(id) {
                for state in states {
                    if let Some(forward) = state.forwards.get(&id) {
                        self.targets.insert(forward.device);
                        waiting.add_neighbors(state, forward);
                    }
                }
            }
            return true;
        }
        if let Some(id) = waiting.leases.pop() {
            if self.leases.insert(id) {
                for state in states {
                    if let Some(lease) = state.leases.get(&id) {
                        self.targets.insert(lease.device);
                        waiting.add_neighbors_of_lease(state, lease);
                    }
                }
            }
            return true;
        }
        // Two pinholes of one device and the same ports would be one element.
        if let Some(id) = waiting.pinholes.pop() {
            if self.pinholes.insert(id) {
                for state in states {
                    if let Some(pinhole) = state.pinholes.get(&id) {
                        waiting.add_alike(state, pinhole.device, pinhole.ports());
                    }
                }
            }
            return true;
        }
        false
    }

    fn is_empty(&self) -> bool {
        self.devices.is_empty()
            && self.forwards.is_empty()
            && self.pinholes.is_empty()
            && self.leases.is_empty()
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
        for lease in self.leases.iter().filter_map(|id| state.leases.get(id)) {
            firewall::lease(context, lease, &mut part);
        }
        part
    }
}

/// What may be touched, and has not been looked at.
struct Waiting {
    forwards: Vec<ForwardId>,
    pinholes: Vec<PinholeId>,
    leases: Vec<LeaseId>,
}

impl Waiting {
    /// Those that may want what a forward wants: a public port, or a port of its device.
    fn add_neighbors(&mut self, state: &State, forward: &Forward) {
        let Some(ports) = forward.ports() else {
            return;
        };
        if let Some(hostname) = &forward.hostname {
            // Whether those without a name are translated depends on whether there is one with a name.
            let same = state.forwards_named(forward.port, hostname);
            self.forwards.extend(same.map(|other| other.id));
            self.add_at_gateway(state, ports);
            return;
        }
        self.add_at_gateway(state, ports);
        if let Some(targets) = targets_of(forward) {
            self.add_at_device(state, forward.device, targets);
        }
    }

    fn add_neighbors_of_lease(&mut self, state: &State, lease: &Lease) {
        let Some(ports) = lease.external_ports() else {
            return;
        };
        for hostname in &lease.hostnames {
            let same = state.forwards_named(lease.external, hostname);
            self.forwards.extend(same.map(|other| other.id));
        }
        match lease.opening {
            Opening::Forward | Opening::Outbound => {
                self.add_at_gateway(state, ports);
                if let Some(targets) = lease.internal_ports() {
                    self.add_at_device(state, lease.device, targets);
                }
            }
            Opening::Pinhole => self.add_alike(state, lease.device, Some(ports)),
        }
    }

    fn add_at_gateway(&mut self, state: &State, ports: PortRange) {
        let forwards = state.plain_forwards_on(ports).into_iter();
        self.forwards.extend(forwards.map(|other| other.id));
        let leases = state.leases_on(None, ports).into_iter();
        self.leases.extend(leases.map(|other| other.id));
    }

    fn add_at_device(&mut self, state: &State, device: DeviceId, targets: PortRange) {
        let forwards = state.forwards_of(device);
        let met = forwards
            .filter(|other| other.hostname.is_none())
            .filter(|other| targets_of(other).is_some_and(|theirs| theirs.overlaps(targets)));
        self.forwards.extend(met.map(|other| other.id));
        for family in [Family::Ipv4, Family::Ipv6] {
            for protocol in Protocol::ALL.map(Some) {
                let leases = state.leases_at((device, family, protocol), targets);
                self.leases.extend(leases.into_iter().map(|other| other.id));
            }
        }
    }

    /// The pinholes of a device with the same ports, and its leases that meet them.
    fn add_alike(&mut self, state: &State, device: DeviceId, ports: Option<PortRange>) {
        let pinholes = state.pinholes_of(device);
        let alike = pinholes.filter(|other| other.ports() == ports);
        self.pinholes.extend(alike.map(|other| other.id));
        if let Some(ports) = ports {
            let leases = state.leases_on(Some(device), ports).into_iter();
            self.leases.extend(leases.map(|other| other.id));
        }
    }
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
