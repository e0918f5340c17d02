//! What is taken in a subnet: looked up where it is asked for. Only where several IPv4 addresses of a subnet would give one
//! IPv6 address is everything surveyed first; such a prefix is small.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv6Net};

use super::Draft;
use crate::address::{self, Occupied};
use crate::state::{Delegation, DelegationId, Device, DeviceId, State, Subnet};

/// What is taken in a subnet, without the hosts of one device that is about to move, and the delegations that are about
/// to be revoked.
pub(super) enum Occupancy<'a> {
    Surveyed(Occupied),
    Indexed(Lookup<'a>),
}

pub(super) struct Lookup<'a> {
    state: &'a State,
    subnet: Subnet,
    without: Option<DeviceId>,
    revoked: BTreeSet<DelegationId>,
    /// What is no device's in the state: the gateway, the host, and what the change itself took so far.
    others: Occupied,
}

impl<'a> Occupancy<'a> {
    pub(super) fn of(draft: &Draft<'a>, subnet: &Subnet, without: Option<DeviceId>) -> Self {
        if !subnet.embeds() {
            return Self::Surveyed(draft.survey(subnet, without).0);
        }
        let mut others = Occupied::default();
        if let Some(prefix) = subnet.ipv6 {
            let whole = IpNet::V6(prefix);
            for (address, owner) in draft.reserved.range(whole.network()..=whole.broadcast()) {
                if let IpAddr::V6(address) = address {
                    others.take_host(*address, owner.as_str());
                }
            }
        }
        if let Some(gateway) = subnet.gateway_ipv6() {
            others.take_host(gateway, "the gateway");
        }
        Self::Indexed(Lookup {
            state: draft.state,
            subnet: subnet.clone(),
            without,
            revoked: draft.revoked.clone(),
            others,
        })
    }

    pub(super) fn take_host(&mut self, address: Ipv6Addr, owner: String) {
        self.own().take_host(address, owner);
    }

    pub(super) fn take_prefix(&mut self, prefix: Ipv6Net, owner: String) {
        self.own().take_prefix(prefix, owner);
    }

    /// The owner of an address.
    pub(super) fn owner(&self, address: Ipv6Addr) -> Option<String> {
        self.inside(Ipv6Net::from(address)).map(|(_, owner)| owner)
    }

    /// The first thing taken inside a prefix, or around it, and its owner.
    pub(super) fn inside(&self, prefix: Ipv6Net) -> Option<(Ipv6Addr, String)> {
        match self {
            Self::Surveyed(occupied) => occupied
                .inside(prefix)
                .map(|(first, owner)| (first, owner.to_owned())),
            Self::Indexed(lookup) => lookup
                .first_in(prefix.network().into(), prefix.broadcast().into())
                .map(|taken| (taken.first.into(), taken.owner)),
        }
    }

    /// The lowest free prefix of a length in a prefix.
    pub(super) fn lowest_free(&self, within: Ipv6Net, length: u8) -> Option<Ipv6Net> {
        match self {
            Self::Surveyed(occupied) => occupied.lowest_free(within, length),
            Self::Indexed(lookup) => address::lowest_free_prefix(within, length, |first, last| {
                lookup.first_in(first, last).map(|taken| taken.run)
            }),
        }
    }

    /// The lowest free host address of the subnet; `reserved` are addresses that can be no device's.
    pub(super) fn lowest_free_host(
        &self,
        state: &State,
        subnet: &Subnet,
        reserved: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        match self {
            Self::Surveyed(occupied) => {
                let taken: BTreeSet<Ipv4Addr> = state
                    .devices_of(subnet.id)
                    .map(|device| device.ipv4)
                    .chain([subnet.gateway_ipv4()])
                    .collect();
                address::lowest_free_ipv4(subnet.ipv4, subnet.ipv6, |address| {
                    let ipv6 = subnet.ipv6_of(address);
                    !taken.contains(&address)
                        && !reserved(address)
                        && ipv6.is_none_or(|ipv6| occupied.owner(ipv6).is_none())
                })
            }
            Self::Indexed(lookup) => lookup.lowest_free_host(reserved),
        }
    }

    fn own(&mut self) -> &mut Occupied {
        match self {
            Self::Surveyed(occupied) => occupied,
            Self::Indexed(lookup) => &mut lookup.others,
        }
    }
}

/// Something that is taken.
struct Taken {
    first: u128,
    /// Nothing is free from `first` to here.
    run: u128,
    owner: String,
}

impl<'a> Lookup<'a> {
    /// The first thing that is taken in a span.
    fn first_in(&self, first: u128, last: u128) -> Option<Taken> {
        let delegation = self.delegation_in(first, last);
        let other = self.others.overlap(first, last);
        let other = other.map(|(first, run, owner)| Taken {
            first,
            run,
            owner: owner.to_owned(),
        });
        let device = self.device_in(first, last);
        // Of two that begin at one address the first is meant.
        [delegation, other, device]
            .into_iter()
            .flatten()
            .min_by_key(|taken| taken.first)
    }

    fn delegation_in(&self, first: u128, last: u128) -> Option<Taken> {
        let (delegation, net) = self.delegations_in(first, last).next()?;
        let start = u128::from(net.network());
        let run = self.state.end_of_delegations(net.network());
        // A run joins what is about to be revoked, too.
        let freed =
            self.revoked
                .iter()
                .filter_map(|id| match self.state.delegations.get(id)?.prefix {
                    IpNet::V6(net) => Some(u128::from(net.network())),
                    IpNet::V4(_) => None,
                });
        let limit = freed.filter(|freed| *freed > start).min();
        let run = run.map_or(start, u128::from);
        let device = self.state.devices.get(&delegation.device);
        let name = device.map_or("?", |device| device.name.as_str());
        Some(Taken {
            first: start,
            run: limit
                .map_or(run, |limit| run.min(limit - 1))
                .max(net.broadcast().into()),
            owner: format!("device `{name}` (delegation {net})"),
        })
    }

    fn delegations_in(
        &self,
        first: u128,
        last: u128,
    ) -> impl Iterator<Item = (&'a Delegation, Ipv6Net)> {
        let span = first..=last;
        let own = self.subnet.ipv6;
        let found = self.state.delegations_between(
            IpAddr::V6((*span.start()).into()),
            IpAddr::V6((*span.end()).into()),
        );
        found.filter_map(move |delegation| match delegation.prefix {
            IpNet::V6(net) => {
                let counts = own.is_some_and(|own| own.contains(&net))
                    && !self.revoked.contains(&delegation.id);
                counts.then_some((delegation, net))
            }
            IpNet::V4(_) => None,
        })
    }

    fn device_in(&self, first: u128, last: u128) -> Option<Taken> {
        let device = self.hosts_in(first, last).and_then(|hosts| {
            self.state
                .devices_in(self.subnet.id, hosts)
                .find(|device| Some(device.id) != self.without)
        })?;
        let own = u128::from(self.subnet.ipv6_of(device.ipv4)?);
        let run = self.run_of(device);
        Some(Taken {
            first: own,
            run: own + u128::from(u32::from(run) - u32::from(device.ipv4)),
            owner: format!("device `{}`", device.name),
        })
    }

    /// The last of the addresses that follow a device's and are taken.
    fn run_of(&self, device: &Device) -> Ipv4Addr {
        let end = self.state.end_of_devices(self.subnet.id, device.ipv4);
        let end = end.unwrap_or(device.ipv4);
        let without = self.without.and_then(|id| self.state.devices.get(&id));
        match without.map(|without| without.ipv4) {
            Some(freed) if freed > device.ipv4 && freed <= end => {
                Ipv4Addr::from(u32::from(freed) - 1)
            }
            Some(_) | None => end,
        }
    }

    /// The IPv4 addresses of the subnet whose IPv6 addresses lie in a span.
    fn hosts_in(&self, first: u128, last: u128) -> Option<RangeInclusive<Ipv4Addr>> {
        let network = self.subnet.ipv4.network();
        let start = u128::from(self.subnet.ipv6_of(network)?);
        let end = u128::from(self.subnet.ipv6_of(self.subnet.ipv4.broadcast())?);
        let (first, last) = (first.max(start), last.min(end));
        if first > last {
            return None;
        }
        let host = |number: u128| {
            let offset = u32::try_from(number - start).ok()?;
            Some(Ipv4Addr::from(u32::from(network) + offset))
        };
        Some(host(first)?..=host(last)?)
    }

    fn lowest_free_host(&self, reserved: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let network = self.subnet.ipv4;
        let gateway = self.subnet.gateway_ipv4();
        let mut address = u32::from(address::first_host(network));
        while address < u32::from(network.broadcast()) {
            let candidate = Ipv4Addr::from(address);
            let last = if candidate == gateway || reserved(candidate) {
                Some(address)
            } else if let Some(end) = self.state.end_of_devices(self.subnet.id, candidate) {
                Some(u32::from(end))
            } else {
                self.subnet.ipv6_of(candidate).and_then(|ipv6| {
                    let number = u128::from(ipv6);
                    let taken = self.first_in(number, number)?;
                    let rest = u32::try_from(taken.run - number).unwrap_or(u32::MAX);
                    Some(address.saturating_add(rest))
                })
            };
            match last {
                Some(last) => address = last.checked_add(1)?,
                None => return Some(candidate),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::configuration::Routing;
    use crate::edit::{Edit, Object};
    use crate::facts::Facts;
    use crate::key::{PresharedKey, PublicKey};
    use crate::state::{Delivery, DeviceKind, SubnetId};

    fn subnet() -> Subnet {
        Subnet {
            id: SubnetId(1),
            name: "home".to_owned(),
            ipv4: "10.0.0.0/26".parse().unwrap(),
            ipv6: Some("2001:db8::100/120".parse().unwrap()),
            delivery: Delivery::Auto,
            egress: None,
            peers: true,
            host_access: false,
            gateway_address: true,
        }
    }

    fn device(index: u8, last: u8) -> Device {
        Device {
            id: DeviceId(100 + u64::from(index)),
            subnet: SubnetId(1),
            name: format!("d{index}"),
            kind: DeviceKind::Client,
            routing: Routing::Full,
            egress: None,
            ipv4: Ipv4Addr::new(10, 0, 0, last),
            public_key: PublicKey::from_bytes([index; 32]),
            preshared_key: PresharedKey::from_bytes([0; 32]),
            enabled: true,
            expires: None,
            port_policy: crate::state::PortPolicy::default(),
        }
    }

    /// Devices at addresses, and delegations (offset, length) where nothing is yet.
    fn fill(state: &mut State, devices: &[u8], delegations: &[(u8, u8)]) {
        state.absorb(&Edit::Set(Object::Subnet(subnet())));
        for (index, last) in (0..).zip(devices) {
            let other = state
                .devices_in(
                    SubnetId(1),
                    Ipv4Addr::new(10, 0, 0, *last)..=Ipv4Addr::new(10, 0, 0, *last),
                )
                .next();
            if other.is_none() {
                state.absorb(&Edit::Set(Object::Device(device(index, *last))));
            }
        }
        let mut taken: Vec<Ipv6Net> = Vec::new();
        for (index, (offset, length)) in (0..).zip(delegations) {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100 + u16::from(*offset));
            let net = Ipv6Net::new(address, *length).unwrap().trunc();
            let hosts = state
                .devices
                .values()
                .filter_map(|device| subnet().ipv6_of(device.ipv4));
            if hosts.into_iter().any(|host| net.contains(&host))
                || taken.iter().any(|it| it.contains(&net) || net.contains(it))
            {
                continue;
            }
            taken.push(net);
            state.absorb(&Edit::Set(Object::Delegation(Delegation {
                id: DelegationId(200 + index),
                device: DeviceId(100),
                prefix: IpNet::V6(net),
            })));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

        #[test]
        fn what_is_looked_up_is_what_a_survey_finds(
            devices in proptest::collection::vec(2_u8..63, 0..40),
            delegations in proptest::collection::vec((64_u8..=255, 121_u8..=128), 0..12),
            reserved in proptest::collection::vec(0_u16..256, 0..3),
            without in proptest::option::of(0_u64..40),
            revoked in proptest::collection::vec(0_u64..12, 0..3),
            removed in proptest::collection::vec(0_u64..40, 0..10),
        ) {
            let mut state = State::default();
            fill(&mut state, &devices, &delegations);
            for id in removed {
                state.absorb(&Edit::Remove(crate::edit::Key::Device(DeviceId(100 + id))));
            }
            let facts = Facts::default();
            let place = |low: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100 + low));
            let draft = Draft {
                state: &state,
                facts: &facts,
                uplinks: Vec::new(),
                reserved: reserved.into_iter().map(|low| (place(low), "host".to_owned())).collect::<BTreeMap<_, _>>(),
                revoked: revoked.into_iter().map(|id| DelegationId(200 + id)).collect(),
                now: 0,
                random: &[0; 64],
                sequence: 0,
                overrides_leases: false,
                edits: Vec::new(),
            };
            let without = without.map(|id| DeviceId(100 + id));
            let indexed = Occupancy::of(&draft, &subnet(), without);
            prop_assert!(matches!(indexed, Occupancy::Indexed(_)));
            let surveyed = Occupancy::Surveyed(draft.survey(&subnet(), without).0);
            let prefix = subnet().ipv6.unwrap();
            for length in 120..=128 {
                prop_assert_eq!(
                    indexed.lowest_free(prefix, length),
                    surveyed.lowest_free(prefix, length)
                );
                for net in prefix.subnets(length).unwrap() {
                    let (found, expected) = (indexed.inside(net), surveyed.inside(net));
                    // A delegation hides the host that came into it later.
                    prop_assert_eq!(found, expected, "{}", net);
                }
            }
            if without.is_none() {
                let free = |address: Ipv4Addr| address.octets()[3] % 7 == 3;
                prop_assert_eq!(
                    indexed.lowest_free_host(&state, &subnet(), free),
                    surveyed.lowest_free_host(&state, &subnet(), free)
                );
            }
        }
    }
}
