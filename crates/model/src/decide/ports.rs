//! Which public ports are free: one account of manual forwards, pinholes, leases and the gateway's own services.

mod search;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::net::IpAddr;

use super::Draft;
use crate::protocol::{PortRange, Protocol};
use crate::refusal::Obstacle;
use crate::state::{Device, DeviceId, Family, Forward, Lease, Mechanism, Opening, State, Subnet};

/// The ports at which devices ask for ports, and are told of them, which are never anyone else's (RFC 6887 section 11.3).
const fn port_control(protocol: Protocol) -> &'static [u16] {
    match protocol {
        Protocol::Tcp => &[5351],
        Protocol::Udp => &[1900, 5350, 5351],
    }
}

/// Where a lease is to be.
pub(super) struct Site<'a> {
    pub(super) device: &'a Device,
    pub(super) subnet: &'a Subnet,
    pub(super) opening: Opening,
    pub(super) family: Family,
    pub(super) mechanism: Mechanism,
    pub(super) protocol: Protocol,
    /// The address on this host, or the device's own.
    pub(super) address: IpAddr,
    /// First port on the device.
    pub(super) internal: u16,
    /// The names that are to lead there; empty: the whole port.
    pub(super) hostnames: &'a BTreeSet<String>,
}

/// What is in the way of a range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocked {
    pub(super) obstacle: Obstacle,
    /// The ports that it has.
    pub(super) ports: PortRange,
    /// Seconds since 1970 until which it is, if that is known.
    pub(super) until: Option<u64>,
    /// The port of the device whose packets go out there, if that is all: what is opened for it may be there as well.
    outbound: Option<u16>,
}

/// Whether the leases of devices of one family are where the site is, as far as it was looked at: hundreds may be one device's.
type Places = RefCell<BTreeMap<(DeviceId, Opening), bool>>;

impl Site<'_> {
    /// What is in the way of a range of ports. A port that is only kept for the device itself is in nobody's way.
    pub(super) fn obstacle(&self, draft: &Draft<'_>, range: PortRange) -> Option<Blocked> {
        self.policy(range).or_else(|| {
            let places = Places::default();
            let mut taken = self.taken(draft, range, &places);
            taken.find(|blocked| !self.replicates(range, blocked))
        })
    }

    /// Whether a range has the port that the same port of the device has outwards already (RFC 6887 section 11.3).
    fn replicates(&self, range: PortRange, blocked: &Blocked) -> bool {
        blocked.outbound.is_some_and(|internal| {
            let is_inbound = match self.opening {
                Opening::Forward | Opening::Pinhole => true,
                Opening::Outbound => false,
            };
            let offset = |port: u16, first: u16| i32::from(port) - i32::from(first);
            is_inbound
                && offset(internal, self.internal) == offset(blocked.ports.first(), range.first())
        })
    }

    fn policy(&self, range: PortRange) -> Option<Blocked> {
        let is_allowed = self.device.may_open(range, !self.hostnames.is_empty());
        (!is_allowed).then_some(Blocked {
            obstacle: Obstacle::Policy,
            ports: range,
            until: None,
            outbound: None,
        })
    }

    /// All that has ports of a range.
    fn taken(
        &self,
        draft: &Draft<'_>,
        range: PortRange,
        places: &Places,
    ) -> impl Iterator<Item = Blocked> {
        let is_hosted = match self.opening {
            Opening::Forward | Opening::Outbound => true,
            Opening::Pinhole => false,
        };
        let host = is_hosted.then(|| self.host(draft, range));
        let pinholes = (!is_hosted).then(|| self.pinholes(draft, range));
        let own = host.into_iter().flatten();
        own.chain(pinholes.into_iter().flatten())
            .chain(iter::once_with(move || self.leases(draft, range, places)).flatten())
    }

    fn host(&self, draft: &Draft<'_>, range: PortRange) -> impl Iterator<Item = Blocked> {
        let settings = &draft.state.settings;
        let of = |obstacle, ports| Blocked {
            obstacle,
            ports,
            until: None,
            outbound: None,
        };
        let snat = PortRange::new(settings.snat_first, settings.snat_last)
            .filter(|snat| snat.overlaps(range))
            .map(|snat| of(Obstacle::Outbound(snat), snat));
        let tunnel = match self.protocol {
            Protocol::Tcp => None,
            Protocol::Udp => Some(settings.listen_port),
        };
        let own = port_control(self.protocol).iter().copied().chain(tunnel);
        let listeners = self.listeners(draft);
        let services = own
            .chain(listeners)
            .filter(move |port| range.contains(*port))
            .filter_map(|port| PortRange::new(port, port))
            .map(move |port| of(Obstacle::Service, port));
        let forwards = draft.state.forwards_on(range);
        let manual = forwards
            .filter(move |forward| self.is_met(draft, forward))
            .filter_map(|forward| forward.ports())
            .map(move |ports| of(Obstacle::Manual, ports));
        snat.into_iter().chain(services).chain(manual)
    }

    fn listeners(&self, draft: &Draft<'_>) -> impl Iterator<Item = u16> {
        let listeners = draft.facts.listeners.iter().chain(&draft.facts.present);
        let met = listeners.filter(|listener| {
            !listener.is_front()
                && listener.protocol == self.protocol
                && match listener.address {
                    // A socket bound to :: takes IPv4 as well, unless it says otherwise.
                    IpAddr::V6(address) if address.is_unspecified() => true,
                    IpAddr::V4(address) if address.is_unspecified() => self.address.is_ipv4(),
                    address @ (IpAddr::V4(_) | IpAddr::V6(_)) => address == self.address,
                }
        });
        met.map(|listener| listener.port)
    }

    /// Whether a forward has its ports at the same place, and shares none of them.
    fn is_met(&self, draft: &Draft<'_>, forward: &Forward) -> bool {
        let is_companion = self.mechanism == Mechanism::NatPmp
            && forward.device != self.device.id
            && self.family == Family::Ipv4;
        if !is_companion && !forward.protocols.contains(&self.protocol) {
            return false;
        }
        let is_shared = match &forward.hostname {
            Some(name) => !self.hostnames.contains(name),
            None => forward.port == forward.port_end,
        };
        (!is_shared || self.hostnames.is_empty()) && is_at(draft, forward, self.address)
    }

    fn pinholes(&self, draft: &Draft<'_>, range: PortRange) -> impl Iterator<Item = Blocked> {
        let pinholes = draft.state.pinholes_of(self.device.id);
        pinholes
            .filter(|pinhole| pinhole.protocols.contains(&self.protocol))
            .filter_map(move |pinhole| pinhole.ports().filter(|ports| ports.overlaps(range)))
            .map(|ports| Blocked {
                obstacle: Obstacle::Manual,
                ports,
                until: None,
                outbound: None,
            })
    }

    fn leases(
        &self,
        draft: &Draft<'_>,
        range: PortRange,
        places: &Places,
    ) -> impl Iterator<Item = Blocked> {
        let place = match self.opening {
            Opening::Forward | Opening::Outbound => None,
            Opening::Pinhole => Some(self.device.id),
        };
        let leases = draft.state.leases_on(place, range).into_iter();
        leases
            .filter(move |lease| self.is_held(draft, lease) && self.is_here(draft, lease, places))
            .filter_map(|lease| {
                let is_outbound = match lease.opening {
                    Opening::Forward | Opening::Pinhole => false,
                    Opening::Outbound => lease.device == self.device.id && lease.is_open(),
                };
                Some(Blocked {
                    obstacle: Obstacle::Lease,
                    ports: lease.external_ports()?,
                    until: Some(lease.end()),
                    outbound: is_outbound.then_some(lease.internal),
                })
            })
    }

    /// Whether a lease has its ports for itself, if it is at the same place.
    fn is_held(&self, draft: &Draft<'_>, lease: &Lease) -> bool {
        if lease.family != self.family || lease.is_whole() {
            return false;
        }
        let is_own = lease.device == self.device.id;
        let is_hosted = match self.opening {
            Opening::Forward | Opening::Outbound => true,
            Opening::Pinhole => false,
        };
        // While one device has a port by NAT-PMP, nobody else gets its companion (RFC 6886 section 3.3).
        let is_companion = is_hosted
            && !is_own
            && lease.is_open()
            && (lease.mechanism == Mechanism::NatPmp || self.mechanism == Mechanism::NatPmp);
        let is_same_protocol = lease.protocol == Some(self.protocol);
        if lease.is_named() && !self.hostnames.is_empty() {
            let is_same = !lease.hostnames.is_disjoint(self.hostnames);
            return lease.is_open() && is_same_protocol && is_same;
        }
        let is_held = lease.is_open() || (!is_own && lease.kept > Some(draft.now));
        (is_same_protocol || is_companion) && is_held
    }

    fn is_here(&self, draft: &Draft<'_>, lease: &Lease, places: &Places) -> bool {
        let is_here = || {
            let device = draft.state.devices.get(&lease.device);
            let address = device.and_then(|device| {
                let subnet = draft.state.subnets.get(&device.subnet)?;
                lease.local_address(subnet, device, &draft.uplinks, draft.facts)
            });
            // A lease without an address may get this one back.
            address.is_none_or(|address| address == self.address)
        };
        let mut places = places.borrow_mut();
        *(places.entry((lease.device, lease.opening))).or_insert_with(is_here)
    }
}

/// The first lease that has a port of a forward on one of its local addresses.
pub(super) fn lease_on<'a>(
    draft: &Draft<'a>,
    forward: &Forward,
    locals: impl Fn(IpAddr) -> bool,
) -> Option<&'a Lease> {
    let range = forward.ports()?;
    let leases = draft.state.leases_on(None, range).into_iter();
    let mut open = leases.filter(|lease| {
        lease.is_open()
            && lease.is_of(&forward.protocols)
            && lease.end() > draft.now
            && !lease.shares_with(forward)
    });
    open.find(|lease| {
        let place = draft.state.lease_place(lease, &draft.uplinks, draft.facts);
        place.is_none_or(|(address, _)| locals(address))
    })
}

/// Whether a forward is on a local address.
pub(super) fn is_at(draft: &Draft<'_>, forward: &Forward, address: IpAddr) -> bool {
    local_addresses(draft.state, draft, forward).contains(&address)
}

/// Where a forward of a state is.
pub(super) fn local_addresses(
    state: &State,
    draft: &Draft<'_>,
    forward: &Forward,
) -> BTreeSet<IpAddr> {
    let Some(device) = state.devices.get(&forward.device) else {
        return BTreeSet::new();
    };
    let Some(subnet) = state.subnets.get(&device.subnet) else {
        return BTreeSet::new();
    };
    forward.local_addresses(subnet, device, &draft.uplinks, draft.facts)
}
