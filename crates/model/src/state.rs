//! Everything that is committed: objects by id, and how edits change them.

pub mod delegation;
pub mod device;
pub mod forward;
pub mod objects;
pub mod pinhole;
pub mod settings;
pub mod subnet;
pub mod token;
pub mod uplink;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use delegation::Delegation;
pub use device::{Device, DeviceKind};
pub use forward::{Forward, Origin};
pub use objects::Objects;
pub use pinhole::Pinhole;
pub use settings::Settings;
pub use subnet::{Delivery, Egress, Subnet};
pub use token::{Scope, Token};
pub use uplink::Uplink;

use crate::refusal::Refusal;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}

id! {
    /// Identifies a subnet; never used again.
    SubnetId
}
id! {
    /// Identifies a device; never used again.
    DeviceId
}
id! {
    /// Identifies a delegation.
    DelegationId
}
id! {
    /// Identifies a forward.
    ForwardId
}
id! {
    /// Identifies a pinhole.
    PinholeId
}
id! {
    /// Identifies a token.
    TokenId
}
id! {
    /// Identifies an uplink's stored settings.
    UplinkId
}

/// The gateway that owns an object; one today.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GatewayId(pub u64);

impl Default for GatewayId {
    fn default() -> Self {
        Self(1)
    }
}

/// All committed objects, and the revision of the last commit. A copy costs next to nothing, whatever its size.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Number of the last committed change.
    pub revision: u64,
    /// Highest id ever given; ids are shared by all kinds and not used again.
    pub sequence: u64,
    /// What administrators said about uplinks.
    pub uplinks: Objects<UplinkId, Uplink>,
    /// Tunnel subnets.
    pub subnets: Objects<SubnetId, Subnet>,
    /// Devices.
    pub devices: Objects<DeviceId, Device>,
    /// Prefixes routed to devices.
    pub delegations: Objects<DelegationId, Delegation>,
    /// Forwards.
    pub forwards: Objects<ForwardId, Forward>,
    /// Pinholes.
    pub pinholes: Objects<PinholeId, Pinhole>,
    /// API tokens, hashed.
    pub tokens: Objects<TokenId, Token>,
    /// Settings of the whole.
    pub settings: Settings,
    /// The revision of the settings' last write.
    pub(crate) settings_version: u64,
}

/// Objects are compared, not when they were written.
impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.revision == other.revision
            && self.sequence == other.sequence
            && self.uplinks == other.uplinks
            && self.subnets == other.subnets
            && self.devices == other.devices
            && self.delegations == other.delegations
            && self.forwards == other.forwards
            && self.pinholes == other.pinholes
            && self.tokens == other.tokens
            && self.settings == other.settings
    }
}

impl Eq for State {}

impl State {
    /// Finds a subnet by id or name.
    pub fn subnet(&self, reference: &str) -> Result<&Subnet, Refusal> {
        find(
            self.subnets.values(),
            reference,
            |subnet| subnet.id.0,
            |subnet| Some(&subnet.name),
        )
        .ok_or_else(|| not_found("subnet", reference))
    }

    /// Finds a device by id or name.
    pub fn device(&self, reference: &str) -> Result<&Device, Refusal> {
        find(
            self.devices.values(),
            reference,
            |device| device.id.0,
            |device| Some(&device.name),
        )
        .ok_or_else(|| not_found("device", reference))
    }

    /// Finds a forward by id.
    pub fn forward(&self, reference: &str) -> Result<&Forward, Refusal> {
        find(
            self.forwards.values(),
            reference,
            |forward| forward.id.0,
            |_| None,
        )
        .ok_or_else(|| not_found("forward", reference))
    }

    /// Finds a pinhole by id.
    pub fn pinhole(&self, reference: &str) -> Result<&Pinhole, Refusal> {
        find(
            self.pinholes.values(),
            reference,
            |pinhole| pinhole.id.0,
            |_| None,
        )
        .ok_or_else(|| not_found("pinhole", reference))
    }

    /// Finds a token by id or name.
    pub fn token(&self, reference: &str) -> Result<&Token, Refusal> {
        find(
            self.tokens.values(),
            reference,
            |token| token.id.0,
            |token| Some(&token.name),
        )
        .ok_or_else(|| not_found("token", reference))
    }

    /// What was said about the uplink on an interface.
    pub fn uplink(&self, name: &str) -> Option<&Uplink> {
        self.uplinks.values().find(|uplink| uplink.name == name)
    }

    /// The devices of a subnet.
    pub fn devices_of(&self, subnet: SubnetId) -> impl Iterator<Item = &Device> {
        self.devices
            .values()
            .filter(move |device| device.subnet == subnet)
    }

    /// The prefixes delegated to a device.
    pub fn delegations_of(&self, device: DeviceId) -> impl Iterator<Item = &Delegation> {
        self.delegations
            .values()
            .filter(move |delegation| delegation.device == device)
    }

    /// The device with an IPv6 or IPv4 address inside the tunnel.
    pub fn device_at(&self, address: std::net::IpAddr) -> Option<&Device> {
        self.devices.values().find(|device| {
            let ipv6 = self
                .subnets
                .get(&device.subnet)
                .and_then(|subnet| subnet.ipv6_of(device.ipv4));
            address == device.ipv4 || ipv6.is_some_and(|ipv6| address == ipv6)
        })
    }
}

fn not_found(kind: &'static str, reference: &str) -> Refusal {
    Refusal::NotFound {
        kind,
        reference: reference.chars().take(100).collect(),
    }
}

fn find<'a, T>(
    mut items: impl Iterator<Item = &'a T>,
    reference: &str,
    id: impl Fn(&T) -> u64,
    name: impl Fn(&T) -> Option<&String>,
) -> Option<&'a T> {
    match reference.parse::<u64>() {
        Ok(number) => items.find(|item| id(item) == number),
        Err(_) => items.find(|item| name(item).is_some_and(|name| name == reference)),
    }
}
