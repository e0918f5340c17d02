//! Which public ports are free: one account of manual forwards, pinholes, leases and the gateway's own services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Draft;
use crate::protocol::{PortRange, Protocol};
use crate::refusal::Obstacle;
use crate::state::{Device, Family, Forward, Lease, Mechanism, Opening, State, Subnet};

/// The ports at which devices ask for ports, and are told of them, which are never anyone else's (RFC 6887 section 11.3).
const fn port_control(protocol: Protocol) -> &'static [u16] {
    match protocol {
        Protocol::Tcp => &[5351],
        Protocol::Udp => &[1900, 5350, 5351],
    }
}

/// Places that are looked at before all ports are gone through: leases that lie side by side are many to pass by.
const FAR: u64 = 16;

/// How far they lie apart; odd, so that ports of both remainders are among them.
const FAR_APART: u64 = 10_007;

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
    /// The names that are to lead there; empty: the whole port.
    pub(super) hostnames: &'a BTreeSet<String>,
}

/// What is in the way of a range, and the last port for which that is so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocked {
    pub(super) obstacle: Obstacle,
    pub(super) last: u16,
    /// Seconds since 1970 until which it is, if that is known.
    pub(super) until: Option<u64>,
}

impl Site<'_> {
    /// What is in the way of a range of ports. A port that is only kept for the device itself is in nobody's way.
    pub(super) fn obstacle(&self, draft: &Draft<'_>, range: PortRange) -> Option<Blocked> {
        self.policy(range)
            .or_else(|| match self.opening {
                Opening::Forward | Opening::Outbound => self.host(draft, range),
                Opening::Pinhole => self.pinholes(draft, range),
            })
            .or_else(|| self.leases(draft, range))
    }

    /// Looks for so many free ports in a row: first in some places far apart, which a place stands for among the ports that the
    /// device may have, then from that place on over all of them. The first port has a remainder by two, if one is wanted.
    pub(super) fn search(
        &self,
        draft: &Draft<'_>,
        count: u16,
        start: u64,
        remainder: Option<u16>,
    ) -> Option<PortRange> {
        let ranges = self.device.auto_port_ranges();
        let width = |range: &PortRange| u64::from(range.last() - range.first()) + 1;
        let total = ranges.iter().map(width).sum::<u64>().max(1);
        let start = start % total;
        let range_at = |passed: u64| {
            let first = nth(&ranges, (start + passed) % total)?;
            let is_even_enough = remainder.is_none_or(|remainder| first % 2 == remainder);
            let last = first.checked_add(count.saturating_sub(1));
            let range = last.and_then(|last| PortRange::new(first, last));
            range.filter(|_| is_even_enough)
        };
        let mut far = (0..FAR).filter_map(|number| range_at(number * FAR_APART));
        if let Some(range) = far.find(|range| self.obstacle(draft, *range).is_none()) {
            return Some(range);
        }
        let mut passed = 0;
        while passed < total {
            let Some(range) = range_at(passed) else {
                passed += 1;
                continue;
            };
            match self.obstacle(draft, range) {
                None => return Some(range),
                Some(blocked) => {
                    let first = range.first();
                    passed += u64::from(blocked.last.max(first) - first) + 1;
                }
            }
        }
        None
    }

    fn policy(&self, range: PortRange) -> Option<Blocked> {
        let is_allowed = self.device.may_open(range, !self.hostnames.is_empty());
        (!is_allowed).then_some(Blocked {
            obstacle: Obstacle::Policy,
            last: range.first(),
            until: None,
        })
    }

    fn host(&self, draft: &Draft<'_>, range: PortRange) -> Option<Blocked> {
        let settings = &draft.state.settings;
        let of = |obstacle, last| {
            Some(Blocked {
                obstacle,
                last,
                until: None,
            })
        };
        let snat = PortRange::new(settings.snat_first, settings.snat_last);
        if let Some(snat) = snat.filter(|snat| snat.overlaps(range)) {
            return of(Obstacle::Outbound(snat), snat.last());
        }
        let tunnel = match self.protocol {
            Protocol::Tcp => None,
            Protocol::Udp => Some(settings.listen_port),
        };
        let own = port_control(self.protocol).iter().copied();
        if let Some(port) = own.chain(tunnel).find(|port| range.contains(*port)) {
            return of(Obstacle::Service, port);
        }
        if let Some(port) = self.listener(draft, range) {
            return of(Obstacle::Service, port);
        }
        for forward in draft.state.forwards_on(range) {
            let is_companion = self.mechanism == Mechanism::NatPmp
                && forward.device != self.device.id
                && self.family == Family::Ipv4;
            if !is_companion && !forward.protocols.contains(&self.protocol) {
                continue;
            }
            let is_shared = match &forward.hostname {
                Some(name) => !self.hostnames.contains(name),
                None => forward.port == forward.port_end,
            };
            if is_shared && !self.hostnames.is_empty() {
                continue;
            }
            if is_at(draft, forward, self.address) {
                return of(Obstacle::Manual, forward.port_end);
            }
        }
        None
    }

    fn listener(&self, draft: &Draft<'_>, range: PortRange) -> Option<u16> {
        let listeners = draft.facts.listeners.iter().chain(&draft.facts.present);
        let mut ports = listeners.filter(|listener| {
            !listener.is_front()
                && listener.protocol == self.protocol
                && range.contains(listener.port)
                && match listener.address {
                    // A socket bound to :: takes IPv4 as well, unless it says otherwise.
                    IpAddr::V6(address) if address.is_unspecified() => true,
                    IpAddr::V4(address) if address.is_unspecified() => self.address.is_ipv4(),
                    address @ (IpAddr::V4(_) | IpAddr::V6(_)) => address == self.address,
                }
        });
        ports.next().map(|listener| listener.port)
    }

    fn pinholes(&self, draft: &Draft<'_>, range: PortRange) -> Option<Blocked> {
        let mut pinholes = draft.state.pinholes_of(self.device.id);
        pinholes
            .find(|pinhole| {
                pinhole.protocols.contains(&self.protocol)
                    && pinhole.ports().is_some_and(|ports| ports.overlaps(range))
            })
            .map(|pinhole| Blocked {
                obstacle: Obstacle::Manual,
                last: pinhole.port_end,
                until: None,
            })
    }

    fn leases(&self, draft: &Draft<'_>, range: PortRange) -> Option<Blocked> {
        let place = match self.opening {
            Opening::Forward | Opening::Outbound => None,
            Opening::Pinhole => Some(self.device.id),
        };
        let blocking = draft
            .state
            .leases_on(place, range)
            .into_iter()
            .find(|lease| {
                if lease.family != self.family || lease.is_whole() {
                    return false;
                }
                let is_own = lease.device == self.device.id;
                // While one device has a port by NAT-PMP, nobody else gets its companion (RFC 6886 section 3.3).
                let is_companion = place.is_none()
                    && !is_own
                    && lease.is_open()
                    && (lease.mechanism == Mechanism::NatPmp
                        || self.mechanism == Mechanism::NatPmp);
                let is_same_protocol = lease.protocol == Some(self.protocol);
                let meets = is_same_protocol || is_companion;
                let is_held = lease.is_open() || (!is_own && lease.kept > Some(draft.now));
                let is_shared = lease.is_named() && !self.hostnames.is_empty();
                if is_shared {
                    let is_same = !lease.hostnames.is_disjoint(self.hostnames);
                    return lease.is_open()
                        && is_same_protocol
                        && is_same
                        && self.is_here(draft, lease);
                }
                meets && is_held && self.is_here(draft, lease)
            })?;
        Some(Blocked {
            obstacle: Obstacle::Lease,
            last: blocking
                .external_ports()
                .map_or(range.first(), PortRange::last),
            until: Some(blocking.end()),
        })
    }

    fn is_here(&self, draft: &Draft<'_>, lease: &Lease) -> bool {
        let place = || {
            let device = draft.state.devices.get(&lease.device)?;
            let subnet = draft.state.subnets.get(&device.subnet)?;
            lease.local_address(subnet, device, &draft.uplinks, draft.facts)
        };
        // A lease without an address may get this one back.
        place().is_none_or(|address| address == self.address)
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

/// The nth of the ports in ranges that do not overlap.
fn nth(ranges: &[PortRange], mut index: u64) -> Option<u16> {
    for range in ranges {
        let width = u64::from(range.last() - range.first()) + 1;
        if index < width {
            return range.first().checked_add(u16::try_from(index).ok()?);
        }
        index -= width;
    }
    None
}
