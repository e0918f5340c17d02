//! Whose traffic a change affects.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::configuration::Routing;
use crate::desired::derive;
use crate::facts::Facts;
use crate::key::{PresharedKey, PublicKey};
use crate::state::{Device, DeviceId, Forward, Pinhole, State};
use crate::uplink::{self, Uplink};

/// What happens to a device's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// It cannot connect any more.
    Disconnected,
    /// It needs its new configuration.
    Reconfigure,
    /// Connections through a forward or a pinhole end.
    Connections,
    /// It reaches others, or the gateway, where it did not, or no longer.
    Reach,
}

/// A device and what happens to its traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impact<'a> {
    /// The device, as it is before.
    pub device: &'a Device,
    /// What happens; never nothing.
    pub effects: BTreeSet<Effect>,
}

/// The devices whose traffic is affected when one state follows another, in the order of their ids.
pub fn between<'a>(before: &'a State, after: &State, facts: &Facts, now: u64) -> Vec<Impact<'a>> {
    let (old, new) = (View::new(before, facts), View::new(after, facts));
    let affected = before.devices.values().filter_map(|device| {
        let effects = effects(&old, &new, device, now);
        (!effects.is_empty()).then_some(Impact { device, effects })
    });
    affected.collect()
}

/// What happens to the traffic of one device.
pub(crate) fn on(
    before: &State,
    after: &State,
    facts: &Facts,
    now: u64,
    device: DeviceId,
) -> BTreeSet<Effect> {
    let (old, new) = (View::new(before, facts), View::new(after, facts));
    let device = before.devices.get(&device);
    device.map_or_else(BTreeSet::new, |device| effects(&old, &new, device, now))
}

struct View<'a> {
    state: &'a State,
    facts: &'a Facts,
    uplinks: Vec<Uplink>,
    mtu: u16,
}

/// All that a device's configuration is made of, but for its name.
#[derive(PartialEq)]
struct Configuration {
    keys: (PublicKey, PresharedKey),
    address: Ipv4Addr,
    subnet: Option<(Ipv4Net, Option<Ipv6Net>)>,
    routing: Routing,
    delegations: BTreeSet<IpNet>,
    endpoint: Option<String>,
    port: u16,
    mtu: u16,
    servers: Vec<IpAddr>,
}

impl<'a> View<'a> {
    fn new(state: &'a State, facts: &'a Facts) -> Self {
        Self {
            state,
            facts,
            uplinks: uplink::list(state, facts),
            mtu: derive::mtu(state, facts).0,
        }
    }

    fn configuration(&self, device: &Device) -> Configuration {
        let state = self.state;
        let subnet = state.subnets.get(&device.subnet);
        let endpoint = subnet
            .and_then(|subnet| uplink::endpoint_of(&self.uplinks, self.facts, subnet))
            .and_then(Uplink::endpoint_host);
        Configuration {
            keys: (device.public_key, device.preshared_key),
            address: device.ipv4,
            subnet: subnet.map(|subnet| (subnet.ipv4, subnet.ipv6)),
            routing: device.routing,
            delegations: (state.delegations_of(device.id))
                .map(|delegation| delegation.prefix)
                .collect(),
            endpoint,
            port: state.settings.listen_port,
            mtu: self.mtu,
            servers: state.settings.dns_servers.clone(),
        }
    }

    fn reach(&self, device: &Device) -> Option<(bool, bool)> {
        let subnet = self.state.subnets.get(&device.subnet)?;
        Some((subnet.peers, subnet.host_access))
    }

    fn forwards(&self, id: DeviceId) -> impl Iterator<Item = Forward> {
        let enabled = |forward: &&Forward| forward.enabled;
        let forwards = self.state.forwards_of(id).filter(enabled);
        forwards.map(|forward| Forward {
            label: String::new(),
            ..forward.clone()
        })
    }

    fn pinholes(&self, id: DeviceId) -> impl Iterator<Item = Pinhole> {
        let enabled = |pinhole: &&Pinhole| pinhole.enabled;
        let pinholes = self.state.pinholes_of(id).filter(enabled);
        pinholes.map(|pinhole| Pinhole {
            label: String::new(),
            ..pinhole.clone()
        })
    }
}

fn effects(old: &View<'_>, new: &View<'_>, device: &Device, now: u64) -> BTreeSet<Effect> {
    let mut effects = BTreeSet::new();
    if !device.is_active(now) {
        return effects;
    }
    let after = new.state.devices.get(&device.id);
    let Some(after) = after.filter(|after| after.is_active(now)) else {
        return [Effect::Disconnected].into();
    };
    if old.configuration(device) != new.configuration(after) {
        effects.insert(Effect::Reconfigure);
    }
    if old.reach(device) != new.reach(after) {
        effects.insert(Effect::Reach);
    }
    let forwards: Vec<Forward> = new.forwards(device.id).collect();
    let pinholes: Vec<Pinhole> = new.pinholes(device.id).collect();
    let ends = old.forwards(device.id).any(|it| !forwards.contains(&it))
        || old.pinholes(device.id).any(|it| !pinholes.contains(&it));
    if ends {
        effects.insert(Effect::Connections);
    }
    effects
}
