//! Tells devices of their PCP mappings that changed without their asking: the mapping update (RFC 6887 section 14.2).
//!
//! What is told is what this host's kernel has; so it is looked at how that changed, and not what was committed.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use adit_model::change::{Change, Parties, RequestLease};
use adit_model::decide::decide;
use adit_model::decide::lease::{Grant, granted};
use adit_model::edit::{Edit, Object};
use adit_model::facts::Facts;
use adit_model::state::lease::advertised;
use adit_model::state::{DeviceId, Lease, LeaseId, Mechanism, State};
use adit_model::uplink::{self, Uplink};
use adit_proto::pcp::server::{Granted, Mapping, Refused, Request, Target};
use adit_proto::pcp::wire::{ErrorCode, Filter, Hostname, Nonce};
use adit_proto::port_control::CLIENT_PORT;

use super::outcome::{granted_by_pcp, pcp_code};
use super::{PortControl, failure, lock};
use crate::control::{Basis, Control};
use crate::writer::seconds_since_1970;

/// Contacts of leases that are gone, of which there may be so many.
const SPARE: usize = 64;

/// Where the last answer about each lease went, as far as is known since the start.
#[derive(Debug, Default)]
pub(super) struct Contacts(Mutex<HashMap<LeaseId, Contact>>);

#[derive(Clone, Debug)]
struct Contact {
    to: SocketAddr,
    asking: DeviceId,
    third_party: Option<IpAddr>,
    prefer_failure: bool,
    /// None while that is not known.
    told: Option<(IpAddr, u16)>,
}

/// What leads to a lease's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Open {
        address: IpAddr,
        /// 0: all of them.
        external: u16,
        count: u16,
    },
    /// A service of this host has the port, or there is no address.
    Closed,
}

impl Contacts {
    /// A device is about to be told of a lease.
    pub(super) fn answered(
        &self,
        request: &Request,
        grant: &Grant,
        asking: DeviceId,
        to: SocketAddr,
    ) {
        let (third_party, prefer_failure) = match request {
            Request::Map(map) => (map.third_party, map.prefer_failure),
            Request::Peer(peer) => (peer.third_party, false),
            Request::Delete(_) => return,
        };
        let Some(lease) = grant.lease.filter(|_| grant.is_own) else {
            return;
        };
        let contact = Contact {
            to,
            asking,
            third_party,
            prefer_failure,
            told: Some((grant.address, grant.external)),
        };
        self.lock().insert(lease, contact);
    }

    /// Forgets those of some leases that are gone.
    fn forget(&self, ids: &[LeaseId], state: &State) {
        let is_open = |id: &LeaseId| state.leases.get(id).is_some_and(Lease::is_open);
        let mut contacts = self.lock();
        for id in ids.iter().filter(|id| !is_open(id)) {
            contacts.remove(id);
        }
        // An answer may have gone out after the end of its lease.
        if contacts.len() > 2 * state.leases.len() + SPARE {
            contacts.retain(|id, _| is_open(id));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseId, Contact>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contact {
    /// Where clients listen, as long as nothing was answered since the start.
    fn supposed(lease: &Lease, state: &State) -> Option<Self> {
        let asking = lease.asking.unwrap_or(lease.device);
        let own = state.address_of(asking, lease.family)?;
        Some(Self {
            to: SocketAddr::new(own, CLIENT_PORT),
            asking,
            third_party: match lease.asking {
                Some(_) => Some(state.lease_target(lease)?),
                None => None,
            },
            prefer_failure: false,
            told: None,
        })
    }

    /// Where it is told; none if it is no more there.
    fn address(&self, state: &State) -> Option<SocketAddr> {
        let device = state.device_at(self.to.ip());
        let is_there = device.is_some_and(|device| device.id == self.asking);
        is_there.then_some(self.to)
    }
}

/// Works until the daemon ends.
pub(super) async fn run(ports: Arc<PortControl>) {
    let Some(mut progress) = ports.control.upgrade().map(|it| it.progress.clone()) else {
        return;
    };
    let mut before: Option<Basis> = None;
    loop {
        let basis = progress.borrow_and_update().basis.clone();
        if let Some(after) = basis {
            let Some(control) = ports.control.upgrade() else {
                return;
            };
            if let Some(before) = before.as_ref().filter(|before| !before.is_same(&after)) {
                // An address that is another begins the epoch anew, which has to be in what is sent from here on.
                ports.watch_addresses(&control);
                compare(&ports, &control, before, &after);
            }
            before = Some(after);
        }
        if progress.changed().await.is_err() {
            return;
        }
    }
}

fn compare(ports: &PortControl, control: &Control, before: &Basis, after: &Basis) {
    let of_before = uplink::list(&before.state, &before.facts);
    let of_after = uplink::list(&after.state, &after.facts);
    let is_about_all = of_before != of_after
        || ways_out(&before.facts) != ways_out(&after.facts)
        || before.facts.listeners != after.facts.listeners
        || before.state.subnets != after.state.subnets;
    let ids: Vec<LeaseId> = if is_about_all {
        before.state.leases.keys().copied().collect()
    } else {
        let changed = before.state.leases.difference(&after.state.leases);
        changed.map(|(id, _)| id).collect()
    };
    for id in &ids {
        let lease = before.state.leases.get(id);
        let asked = lease.filter(|it| it.is_open() && it.mechanism == Mechanism::Pcp);
        if let Some(lease) = asked {
            follow(
                ports,
                control,
                lease,
                (before, &of_before),
                (after, &of_after),
            );
        }
    }
    ports.contacts.forget(&ids, &after.state);
}

/// The uplinks of those who have chosen none: the better of two may be another although both are as they were.
fn ways_out(facts: &Facts) -> [Option<&str>; 2] {
    [false, true].map(|ipv6| {
        let route = facts.default_interface(ipv6);
        route.map(|route| route.interface.as_str())
    })
}

fn follow(
    ports: &PortControl,
    control: &Control,
    lease: &Lease,
    (before, of_before): (&Basis, &[Uplink]),
    (after, of_after): (&Basis, &[Uplink]),
) {
    let now = seconds_since_1970();
    let known = ports.contacts.lock().get(&lease.id).cloned();
    let Some(contact) = known.or_else(|| Contact::supposed(lease, &before.state)) else {
        return;
    };
    let then = standing(lease, before, of_before);
    let prefer_failure = contact.prefer_failure;
    let outcome = match after.state.leases.get(&lease.id) {
        // It ended because the device wanted it or its time is over.
        Some(present) if !present.is_open() => return,
        None if control.promises.expiry(lease) <= now => return,
        None => gone(lease, &contact, then, (before, after, of_after), now),
        Some(present) => {
            let standing = standing(present, after, of_after);
            if standing == then {
                return;
            }
            let rest = control.promises.expiry(present).saturating_sub(now);
            let lifetime = u32::try_from(rest).unwrap_or(u32::MAX);
            match standing {
                Standing::Closed if prefer_failure => Err(ErrorCode::CannotProvideExternal.into()),
                Standing::Closed => Err(ErrorCode::NetworkFailure.into()),
                Standing::Open {
                    address, external, ..
                } if prefer_failure && contact.told != Some((address, external)) => {
                    Err(ErrorCode::CannotProvideExternal.into())
                }
                Standing::Open { .. } if lifetime == 0 => return,
                Standing::Open {
                    address,
                    external,
                    count,
                } => Ok(Granted {
                    external: address,
                    port: NonZeroU16::new(external),
                    lifetime,
                    ports: count,
                }),
            }
        }
    };
    let (Some(to), Some(mapping)) = (contact.address(&after.state), mapping(lease, &contact))
    else {
        return;
    };
    lock(&ports.notifier).update(to, mapping, outcome, Instant::now());
    ports.told.notify_one();
}

fn standing(lease: &Lease, basis: &Basis, uplinks: &[Uplink]) -> Standing {
    match basis.state.lease_place(lease, uplinks, &basis.facts) {
        Some((address, None)) => Standing::Open {
            address: advertised(address, uplinks),
            external: if lease.is_whole() { 0 } else { lease.external },
            count: lease.weight(),
        },
        Some((_, Some(_))) | None => Standing::Closed,
    }
}

/// What a device is told whose lease was taken away: what it would be told if it asked now, except that nothing is given for that.
fn gone(
    lease: &Lease,
    contact: &Contact,
    then: Standing,
    (before, after, of_after): (&Basis, &Basis, &[Uplink]),
    now: u64,
) -> Result<Granted, Refused> {
    let wish = RequestLease {
        parties: Parties {
            asking: contact.asking,
            owner: lease.device,
        },
        mechanism: lease.mechanism,
        family: lease.family,
        protocol: lease.protocol,
        internal: if lease.is_whole() { 0 } else { lease.internal },
        external: Some(lease.external),
        address: None,
        exact: contact.prefer_failure,
        count: lease.weight(),
        parity: false,
        lifetime: 1,
        nonce: lease.nonce,
        clear_filters: false,
        filters: lease.filters.iter().copied().collect(),
        remote: lease.remote,
        hostnames: lease.hostnames.clone(),
        description: String::new(),
    };
    let change = Change::RequestLease(Box::new(wish.clone()));
    let edits = match decide(&after.state, change, &after.facts, now, &[0; 64]) {
        Ok(edits) => edits,
        Err(refusal) => return Err(pcp_code(&failure(refusal))),
    };
    if edits.is_empty()
        && let Some(grant) = granted(&after.state, &after.facts, &wish, now)
    {
        return Ok(granted_by_pcp(&grant));
    }
    let is_as_then = |new: &Lease| {
        let place = after.state.lease_place(new, of_after, &after.facts);
        let known = place.map(|(address, _)| advertised(address, of_after));
        match then {
            Standing::Open { address, .. } => known == Some(address),
            Standing::Closed => false,
        }
    };
    let is_free = before.state.lease_target(lease) == after.state.lease_target(lease)
        && edits.iter().any(|edit| match edit {
            Edit::Set(Object::Lease(new)) => {
                new.is_open() && new.external == lease.external && is_as_then(new)
            }
            Edit::Set(_) | Edit::Remove(_) => false,
        });
    match then {
        // The port would still be free: somebody did not want it open.
        _ if is_free => Err(ErrorCode::NotAuthorized.into()),
        Standing::Closed => Err(ErrorCode::NetworkFailure.into()),
        Standing::Open {
            address,
            external,
            count,
        } => Ok(Granted {
            external: address,
            port: NonZeroU16::new(external),
            lifetime: 0,
            ports: count,
        }),
    }
}

fn mapping(lease: &Lease, contact: &Contact) -> Option<Mapping> {
    let filters = lease.filters.iter().map(|filter| Filter {
        prefix: filter.network,
        port: NonZeroU16::new(filter.port),
    });
    let names = lease.hostnames.iter();
    Some(Mapping {
        nonce: Nonce(lease.nonce?.0),
        target: match (lease.protocol, NonZeroU16::new(lease.internal)) {
            (Some(protocol), Some(internal)) if !lease.is_whole() => {
                Target::Port(protocol, internal)
            }
            (Some(protocol), _) => Target::AllPorts(protocol),
            (None, _) => Target::AllProtocols,
        },
        remote: lease.remote,
        third_party: contact.third_party,
        prefer_failure: contact.prefer_failure,
        filters: filters.collect(),
        hostnames: names.filter_map(|name| Hostname::new(name)).collect(),
    })
}

#[cfg(test)]
mod tests;
