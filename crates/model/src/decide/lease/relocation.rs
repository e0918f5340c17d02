//! Leases whose port a service of this host has taken: a device that asks again gets another one.

use std::net::IpAddr;

use super::super::Draft;
use super::super::ports::Site;
use super::{Choice, choose};
use crate::change::RequestLease;
use crate::refusal::{LeaseRefusal, Refusal};
use crate::state::{Device, Lease, Subnet};

/// The lease with other public ports; what may only be as wished is refused.
pub(super) fn relocated(
    draft: &Draft<'_>,
    lease: &Lease,
    (device, subnet): (&Device, &Subnet),
    wish: &RequestLease,
    address: IpAddr,
) -> Result<Lease, Refusal> {
    // All ports of an own address are in no service's way.
    let protocol = lease.protocol.ok_or(LeaseRefusal::AllPorts)?;
    let is_first = wish.internal == lease.internal;
    let whole = RequestLease {
        internal: lease.internal,
        external: wish.external.filter(|_| is_first),
        count: lease.count,
        remote: lease.remote,
        ..wish.clone()
    };
    let site = Site {
        device,
        subnet,
        opening: lease.opening,
        family: lease.family,
        mechanism: lease.mechanism,
        protocol,
        address,
        internal: lease.internal,
        hostnames: &lease.hostnames,
    };
    let (Choice::Free(range) | Choice::Shared(range)) = choose(draft, &site, &whole, lease.count)?;
    Ok(Lease {
        external: range.first(),
        count: range.last() - range.first() + 1,
        ..lease.clone()
    })
}
