//! `on-link`: the provider asks by Neighbor Discovery for every address of 2001:db8:1::/64.

use super::{Topology, world};

pub(super) fn topology() -> Topology {
    world::topology(
        "on-link",
        "a VPS whose provider asks by Neighbor Discovery for every address of 2001:db8:1::/64, and a home behind \
         carrier-grade NAT",
        &world::Provider { routed: &[] },
    )
}
