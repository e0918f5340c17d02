//! Names that devices ask for: many share a port, each leads to one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::refuse;
use crate::change::RequestLease;
use crate::decide::{Draft, ports};
use crate::hostname;
use crate::protocol::PortRange;
use crate::refusal::{LeaseRefusal, Refusal};
use crate::state::{Lease, Opening, Subnet};

/// The most names of a lease.
const MOST: usize = 16;

/// The names as they are stored. They lead through the front, which takes one port of this host, and lets in every peer.
pub(super) fn settle(subnet: &Subnet, wish: &RequestLease) -> Result<BTreeSet<String>, Refusal> {
    let mut names = BTreeSet::new();
    for name in &wish.hostnames {
        match hostname::parse(name) {
            Ok(name) => names.insert(name),
            Err(_) => return refuse(LeaseRefusal::Hostnames),
        };
    }
    let is_possible = super::opening(subnet, wish) == Opening::Forward
        && wish.count == 1
        && wish.filters.is_empty()
        && names.len() <= MOST;
    if names.is_empty() || is_possible {
        Ok(names)
    } else {
        refuse(LeaseRefusal::Hostnames)
    }
}

/// Other names for a lease that has its port already. A request without names leaves them.
pub(super) fn set(
    draft: &Draft<'_>,
    lease: &mut Lease,
    names: BTreeSet<String>,
    address: IpAddr,
) -> Result<(), Refusal> {
    if names.is_empty() || names == lease.hostnames {
        return Ok(());
    }
    if lease.opening != Opening::Forward || lease.count != 1 || !lease.filters.is_empty() {
        return refuse(LeaseRefusal::Hostnames);
    }
    lease.hostnames = names;
    check(draft, lease, lease.external, address)
}

/// Refuses to call names granted that a lease does not have, where it is not to be changed.
pub(super) fn check_held(held: &Lease, names: &BTreeSet<String>) -> Result<(), Refusal> {
    if names.is_empty() || *names == held.hostnames {
        Ok(())
    } else {
        refuse(LeaseRefusal::Hostnames)
    }
}

/// Refuses names that lead elsewhere on a port.
pub(super) fn check(
    draft: &Draft<'_>,
    lease: &Lease,
    port: u16,
    address: IpAddr,
) -> Result<(), Refusal> {
    let Some(range) = PortRange::new(port, port) else {
        return Ok(());
    };
    let leases = draft.state.leases_on(None, range);
    for hostname in &lease.hostnames {
        let mut forwards = draft.state.forwards_named(port, hostname);
        let is_forwarded = forwards.any(|forward| {
            lease.is_of(&forward.protocols) && ports::is_at(draft, forward, address)
        });
        let is_leased = leases.iter().any(|other| {
            other.id != lease.id
                && other.is_open()
                && other.protocol == lease.protocol
                && other.family == lease.family
                && other.hostnames.contains(hostname)
                && draft
                    .state
                    .lease_place(other, &draft.uplinks, draft.facts)
                    .is_none_or(|(place, _)| place == address)
        });
        if is_forwarded || is_leased {
            let hostname = hostname.clone();
            return refuse(LeaseRefusal::HostnameTaken { hostname });
        }
    }
    Ok(())
}
