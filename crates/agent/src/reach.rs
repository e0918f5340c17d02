//! From where an external address can be reached.

use std::net::IpAddr;

use adit_model::address::{is_private, is_unique_local};
use serde::{Deserialize, Serialize};

/// Who can reach an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// The Internet.
    Public,
    /// The customers of a provider that shares addresses among them (RFC 6598): a second NAT is between.
    Shared,
    /// A network of its own (RFC 1918, RFC 4193): a second NAT is between, or no way at all.
    Private,
    /// This host, or nobody.
    Nobody,
}

impl Reach {
    /// Who can reach it, by the address alone.
    pub fn of(address: IpAddr) -> Self {
        match address {
            address if address.is_unspecified() || address.is_loopback() => Self::Nobody,
            IpAddr::V4(address) if address.is_private() || address.is_link_local() => Self::Private,
            IpAddr::V4(address) if is_private(address) => Self::Shared,
            IpAddr::V6(address) if is_unique_local(address) || address.is_unicast_link_local() => {
                Self::Private
            }
            IpAddr::V4(_) | IpAddr::V6(_) => Self::Public,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_the_internet_does_not_reach_are_known() {
        for (address, reach) in [
            ("198.51.100.7", Reach::Public),
            ("2001:db8::7", Reach::Public),
            ("192.168.1.4", Reach::Private),
            ("169.254.1.4", Reach::Private),
            ("100.64.0.1", Reach::Shared),
            ("100.128.0.1", Reach::Public),
            ("fd59::1", Reach::Private),
            ("fe80::1", Reach::Private),
            ("0.0.0.0", Reach::Nobody),
        ] {
            assert_eq!(Reach::of(address.parse().unwrap()), reach, "{address}");
        }
    }
}
