//! Where requests come from, as far as one party can be told from another.

use std::net::{IpAddr, Ipv4Addr};

/// One IPv4 address, or one IPv6 /64: whoever has one address of it has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    V4(Ipv4Addr),
    V6(u64),
}

impl Source {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6(
                    [a, b, c, d]
                        .iter()
                        .fold(0, |prefix, part| prefix << 16 | u64::from(*part)),
                )
            }
        }
    }
}
