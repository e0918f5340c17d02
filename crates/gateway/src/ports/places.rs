//! Which public addresses the ports of devices have: one for each family, subnet, and egress that devices of it have chosen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use adit_model::facts::Facts;
use adit_model::state::lease::advertised;
use adit_model::state::{Device, DeviceId, Egress, Objects, State, SubnetId};
use adit_model::uplink::{self, Uplink};
use serde::{Deserialize, Serialize};

use super::Outlook;

/// What has the same addresses, however many devices there are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) subnet: SubnetId,
    /// What a device has chosen for itself.
    pub(super) egress: Option<Egress>,
}

/// The addresses of a place, as the Internet knows them; none where there is no way out, or nothing is translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Addresses {
    pub(super) ipv4: Option<IpAddr>,
    pub(super) ipv6: Option<Ipv6Addr>,
}

/// The places with their addresses, as they were last looked at.
#[derive(Debug, Default)]
pub(super) struct Places {
    seen: Option<(State, Arc<Facts>)>,
    members: BTreeMap<Place, BTreeSet<DeviceId>>,
    addresses: BTreeMap<Place, Addresses>,
}

impl Places {
    /// Looks at what changed; none where that cannot have moved anything.
    pub(super) fn follow(
        &mut self,
        state: &State,
        outlook: &Outlook,
    ) -> Option<&BTreeMap<Place, Addresses>> {
        let seen = self
            .seen
            .replace((state.clone(), Arc::clone(&outlook.facts)));
        let empty = Objects::default();
        let devices = seen.as_ref().map_or(&empty, |(state, _)| &state.devices);
        let is_elsewhere = self.note_members(devices, &state.devices);
        let is_same = !is_elsewhere
            && seen.is_some_and(|(before, facts)| {
                Arc::ptr_eq(&facts, &outlook.facts)
                    && before.uplinks == state.uplinks
                    && before.subnets == state.subnets
            });
        if is_same {
            return None;
        }
        let of = |members: &BTreeSet<DeviceId>| {
            let device = members.first().and_then(|id| state.devices.get(id));
            device.map_or(Addresses::default(), |device| {
                addresses_of(device, state, &outlook.facts, &outlook.uplinks)
            })
        };
        let members = self.members.iter();
        self.addresses = members
            .map(|(place, members)| (place.clone(), of(members)))
            .collect();
        Some(&self.addresses)
    }

    /// Whether there are other places than before.
    fn note_members(
        &mut self,
        before: &Objects<DeviceId, Device>,
        after: &Objects<DeviceId, Device>,
    ) -> bool {
        let mut is_other = false;
        for (id, difference) in before.difference(after) {
            let (before, after) = (
                difference.before.map(Place::of),
                difference.after.map(Place::of),
            );
            if before == after {
                continue;
            }
            if let Some(place) = after {
                let members = self.members.entry(place).or_default();
                is_other |= members.is_empty();
                members.insert(id);
            }
            if let Some(place) = before
                && let Some(members) = self.members.get_mut(&place)
            {
                members.remove(&id);
                if members.is_empty() {
                    self.members.remove(&place);
                    is_other = true;
                }
            }
        }
        is_other
    }
}

impl Place {
    fn of(device: &Device) -> Self {
        Self {
            subnet: device.subnet,
            egress: device.egress.clone(),
        }
    }
}

fn addresses_of(device: &Device, state: &State, facts: &Facts, uplinks: &[Uplink]) -> Addresses {
    let Some(subnet) = state.subnets.get(&device.subnet) else {
        return Addresses::default();
    };
    let ipv4 = uplink::place_ipv4(uplinks, facts, subnet, device);
    let ipv6 = uplink::place_ipv6(uplinks, facts, subnet, device);
    Addresses {
        ipv4: ipv4.map(|(_, local)| advertised(local.into(), uplinks)),
        ipv6: ipv6.map(|(_, local)| local),
    }
}

#[cfg(test)]
mod tests {
    use adit_model::change::{AddDevice, AddSubnet, Change, Ipv6Wish, Patch, SetDevice};
    use adit_model::decide::decide;
    use adit_model::facts::{AddressFact, RouteFact};
    use adit_model::key::PrivateKey;
    use adit_model::state::{Delivery, DeviceKind};

    use super::*;

    fn facts(routes: &[(&str, &str, u32)]) -> Facts {
        let mut facts = Facts {
            ipv6: true,
            gateway_key: Some(PrivateKey::from_random([9; 32]).public_key()),
            ..Facts::default()
        };
        for (interface, address) in [
            ("eth0", "203.0.113.2/24"),
            ("eth0", "2001:db8:1::2/64"),
            ("eth1", "198.18.2.2/24"),
            ("eth1", "2001:db8:2::2/64"),
        ] {
            facts.addresses.insert(AddressFact {
                interface: interface.into(),
                address: address.parse().unwrap(),
            });
        }
        for (interface, destination, metric) in routes {
            facts.routes.insert(RouteFact {
                destination: destination.parse().unwrap(),
                interface: (*interface).into(),
                gateway: None,
                metric: *metric,
                from_router_advertisement: false,
            });
        }
        facts
    }

    fn outlook(state: &State, facts: &Arc<Facts>) -> Outlook {
        Outlook {
            revision: state.revision,
            facts: Arc::clone(facts),
            uplinks: uplink::list(state, facts).into(),
        }
    }

    fn make(state: &mut State, change: Change, facts: &Facts) {
        let edits = decide(state, change, facts, 1000, &[7; 64]).unwrap();
        for edit in &edits {
            state.absorb(edit);
        }
    }

    fn device(number: u8, egress: Option<&str>) -> Change {
        Change::AddDevice(AddDevice {
            name: format!("device{number}"),
            subnet: None,
            kind: DeviceKind::Server,
            routing: None,
            ipv4: None,
            public_key: PrivateKey::from_random([number; 32]).public_key(),
            egress: egress.map(|name| Egress::Interface(name.into())),
            delegate: Vec::new(),
            expires: None,
            port_policy: Default::default(),
        })
    }

    /// The addresses of those without an egress of their own, and of those with one.
    fn addresses(places: &BTreeMap<Place, Addresses>) -> Vec<(bool, String, String)> {
        let text = |address: Option<IpAddr>| address.map_or("-".into(), |it| it.to_string());
        let places = places.iter();
        places
            .map(|(place, addresses)| {
                let ipv6 = addresses.ipv6.map(IpAddr::V6);
                (place.egress.is_some(), text(addresses.ipv4), text(ipv6))
            })
            .collect()
    }

    #[test]
    fn places_follow_the_best_default_route_and_the_choice_of_devices() {
        let first = Arc::new(facts(&[
            ("eth0", "0.0.0.0/0", 0),
            ("eth0", "::/0", 0),
            ("eth1", "0.0.0.0/0", 200),
            ("eth1", "::/0", 200),
        ]));
        let mut state = State::default();
        let subnet = AddSubnet {
            name: "lan".into(),
            ipv4: "10.59.0.0/24".parse().unwrap(),
            ipv6: Ipv6Wish::Private,
            delivery: Delivery::Auto,
            egress: None,
            peers: true,
            host_access: false,
            gateway_address: true,
            force: false,
        };
        make(&mut state, Change::AddSubnet(subnet), &first);
        make(&mut state, device(1, None), &first);
        make(&mut state, device(2, None), &first);
        let mut places = Places::default();
        let eth0 = |own| (own, "203.0.113.2".to_owned(), "2001:db8:1::2".to_owned());
        let eth1 = |own| (own, "198.18.2.2".to_owned(), "2001:db8:2::2".to_owned());
        let mut follow = |state: &State, facts: &Arc<Facts>| {
            let followed = places.follow(state, &outlook(state, facts));
            followed.map(addresses)
        };
        assert_eq!(follow(&state, &first), Some(vec![eth0(false)]));
        assert_eq!(follow(&state, &first), None);
        make(&mut state, device(3, None), &first);
        assert_eq!(follow(&state, &first), None, "one more of the same");
        make(&mut state, device(4, Some("eth1")), &first);
        let both = Some(vec![eth0(false), eth1(true)]);
        assert_eq!(follow(&state, &first), both);

        // The metrics alone, for IPv4; the uplinks are as they were.
        let second = Arc::new(facts(&[
            ("eth0", "0.0.0.0/0", 300),
            ("eth0", "::/0", 0),
            ("eth1", "0.0.0.0/0", 200),
            ("eth1", "::/0", 200),
        ]));
        let mixed = (false, "198.18.2.2".to_owned(), "2001:db8:1::2".to_owned());
        assert_eq!(follow(&state, &second), Some(vec![mixed, eth1(true)]));
        // An uplink without a default route is none.
        let third = Arc::new(facts(&[("eth1", "0.0.0.0/0", 200), ("eth1", "::/0", 200)]));
        let one = Some(vec![eth1(false), eth1(true)]);
        assert_eq!(follow(&state, &third), one);
        let set = SetDevice {
            egress: Patch::Clear,
            ..SetDevice::default()
        };
        make(&mut state, Change::SetDevice("device4".into(), set), &third);
        assert_eq!(follow(&state, &third), Some(vec![eth1(false)]));
        let none = Some(vec![(false, "-".to_owned(), "-".to_owned())]);
        assert_eq!(follow(&state, &Arc::new(facts(&[]))), none);
    }
}
