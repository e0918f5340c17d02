//! `routed`: the provider routes 2001:db8:100::/56 to the address of the VPS.

use super::{Topology, world};

pub(super) fn topology() -> Topology {
    world::topology(
        "routed",
        "a VPS to which the provider routes 2001:db8:100::/56, and a home behind carrier-grade NAT",
        &world::Provider {
            routed: &["2001:db8:100::/56"],
        },
    )
}
