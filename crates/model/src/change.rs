//! Changes: what someone wants. `decide` turns them into edits or refuses them.

mod lease;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer, Serialize};

pub use self::lease::{EndLease, EndLeases, ExpireLeases, LeasePort, Parties, RequestLease};
use crate::configuration::Routing;
use crate::declaration::Declaration;
use crate::edit::Key;
use crate::import::Import;
use crate::key::PublicKey;
use crate::protocol::Protocol;
use crate::refusal::Refusal;
use crate::state::{Delivery, DeviceKind, Egress, PortPolicy, Scope, State};

/// A change that someone wants. References are ids or, for subnets, devices and tokens, names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a subnet.
    AddSubnet(AddSubnet),
    /// Changes a subnet.
    SetSubnet(String, SetSubnet),
    /// Removes a subnet; with its devices if forced.
    RemoveSubnet {
        /// The subnet.
        reference: String,
        /// Takes its devices along.
        force: bool,
    },
    /// Adds a device.
    AddDevice(AddDevice),
    /// Changes a device.
    SetDevice(String, SetDevice),
    /// Gives a device another key.
    RekeyDevice {
        /// The device.
        reference: String,
        /// Its new public key.
        public_key: PublicKey,
    },
    /// Removes a device with its delegations, forwards and pinholes.
    RemoveDevice(String),
    /// Adds a forward.
    AddForward(AddForward),
    /// Changes a forward.
    SetForward(String, SetForward),
    /// Removes a forward.
    RemoveForward(String),
    /// Adds a pinhole.
    AddPinhole(AddPinhole),
    /// Changes a pinhole.
    SetPinhole(String, SetPinhole),
    /// Removes a pinhole.
    RemovePinhole(String),
    /// Obtains a port for a device, or renews a lease.
    RequestLease(Box<RequestLease>),
    /// Ends a lease on a device's behalf; its port is kept for the device a while.
    EndLease(EndLease),
    /// Ends the leases of a device by one mechanism.
    EndLeases(EndLeases),
    /// Removes a lease.
    RemoveLease(String),
    /// Removes leases whose time is over.
    ExpireLeases(ExpireLeases),
    /// Says something about the uplink on an interface; none: the only one.
    SetUplink(Option<String>, SetUplink),
    /// Changes settings.
    SetSettings(SetSettings),
    /// Adds a token, whose hash is given.
    AddToken(AddToken),
    /// Removes a token.
    RemoveToken(String),
    /// Makes the manual state what a declaration says.
    Apply(Box<Apply>),
    /// Confirms the change that awaits it.
    Confirm,
    /// Takes back the change of a revision, if it awaits its confirmation still.
    TakeBack(u64),
    /// Takes another server over.
    Import(Box<Import>),
}

/// What a caller saw of an object that a change is meant for: in the meantime it must not have become another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The object.
    pub key: Key,
    /// The versions that are as good as what was seen.
    pub versions: Vec<u64>,
}

impl Expected {
    /// Refuses what was made for an object that is gone or was changed.
    ///
    /// # Errors
    ///
    /// [`Refusal::VersionMismatch`].
    pub fn check(&self, state: &State) -> Result<(), Refusal> {
        let version = state.version(self.key);
        if version.is_some_and(|version| self.versions.contains(&version)) {
            return Ok(());
        }
        Err(Refusal::VersionMismatch {
            kind: self.key.kind(),
            id: self.key.id(),
        })
    }
}

/// A field of a patch that may be left alone, set, or emptied (`null`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Patch<T> {
    /// Not mentioned.
    #[default]
    Keep,
    /// `null`.
    Clear,
    /// A new value.
    Set(T),
}

impl<T> Patch<T> {
    /// Whether it says nothing.
    pub const fn is_keep(&self) -> bool {
        matches!(self, Self::Keep)
    }

    /// Puts the new value in place.
    pub(crate) fn apply(self, field: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Clear => *field = None,
            Self::Set(value) => *field = Some(value),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::<T>::deserialize(deserializer)?.map_or(Self::Clear, Self::Set))
    }
}

/// A declaration to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apply {
    /// What shall be there.
    pub declaration: Declaration,
    /// The revision that the caller saw; anything else that was changed since is in its way.
    pub revision: Option<u64>,
}

/// The IPv6 prefix that is wanted for a subnet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ipv6Wish {
    /// A random unique local /64 (RFC 4193).
    #[default]
    Private,
    /// None.
    None,
    /// This one.
    Prefix(Ipv6Net),
}

/// A subnet to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddSubnet {
    /// Unique name.
    pub name: String,
    /// IPv4 network.
    pub ipv4: Ipv4Net,
    /// IPv6 prefix.
    pub ipv6: Ipv6Wish,
    /// How the provider delivers the prefix.
    pub delivery: Delivery,
    /// Where traffic leaves.
    pub egress: Option<Egress>,
    /// Devices reach each other.
    pub peers: bool,
    /// Devices reach the gateway host.
    pub host_access: bool,
    /// The gateway's interface has an address in it.
    pub gateway_address: bool,
    /// Does without an IPv6 default route.
    pub force: bool,
}

/// Fields of a subnet to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetSubnet {
    /// New name.
    pub name: Option<String>,
    /// New prefix.
    pub ipv6: Option<Ipv6Wish>,
    /// New delivery.
    pub delivery: Option<Delivery>,
    /// New egress.
    pub egress: Patch<Egress>,
    /// Devices reach each other.
    pub peers: Option<bool>,
    /// Devices reach the gateway host.
    pub host_access: Option<bool>,
    /// The gateway's interface has an address in it.
    pub gateway_address: Option<bool>,
    /// Does without an IPv6 default route.
    pub force: bool,
}

/// A prefix that is wanted for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelegationWish {
    /// The lowest free prefix of this length out of the subnet's.
    Length(u8),
    /// This prefix.
    Prefix(IpNet),
}

/// A device to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddDevice {
    /// Unique name.
    pub name: String,
    /// Its subnet; none: the only one.
    pub subnet: Option<String>,
    /// What it may do.
    pub kind: DeviceKind,
    /// What it routes through the tunnel; none: `inbound` for a server, `full` for a client.
    pub routing: Option<Routing>,
    /// Its IPv4 address; none: the lowest free one.
    pub ipv4: Option<Ipv4Addr>,
    /// Its public key.
    pub public_key: PublicKey,
    /// Where its translated traffic leaves.
    pub egress: Option<Egress>,
    /// Prefixes for the network behind it.
    pub delegate: Vec<DelegationWish>,
    /// Seconds since 1970.
    pub expires: Option<u64>,
    /// What it may open by itself.
    pub port_policy: PortPolicy,
}

/// Fields of a device to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetDevice {
    /// New name.
    pub name: Option<String>,
    /// New kind.
    pub kind: Option<DeviceKind>,
    /// New routing.
    pub routing: Option<Routing>,
    /// New address.
    pub ipv4: Option<Ipv4Addr>,
    /// New egress.
    pub egress: Patch<Egress>,
    /// Enable or disable.
    pub enabled: Option<bool>,
    /// New expiry.
    pub expires: Patch<u64>,
    /// Prefixes to add.
    pub delegate: Vec<DelegationWish>,
    /// Prefixes to take back.
    pub revoke: Vec<IpNet>,
    /// Whether it may open ports by itself; cleared: as usual for its kind.
    pub auto_ports: Patch<bool>,
    /// How many ports it may have open.
    pub lease_quota: Patch<u32>,
    /// How many of its requests are answered each second.
    pub request_rate: Patch<u32>,
    /// The public ports that it may have.
    pub auto_port_ranges: Patch<Vec<(u16, u16)>>,
    /// Whether it may open ports for other devices.
    pub third_party: Option<bool>,
    /// Whether it may open all ports, or all protocols, of its own address at once.
    pub all_ports: Option<bool>,
}

/// A forward to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddForward {
    /// Public address; none: those of the device's uplink.
    pub address: Option<IpAddr>,
    /// First port.
    pub port: u16,
    /// Last port.
    pub port_end: u16,
    /// Protocols; empty: all.
    pub protocols: BTreeSet<Protocol>,
    /// The device, by id or name.
    pub device: String,
    /// Port on the device; none: the same.
    pub target_port: Option<u16>,
    /// TLS name.
    pub hostname: Option<String>,
    /// Connections begin with the client's address (PROXY protocol, version 2).
    pub proxy_protocol: bool,
    /// Free text.
    pub label: String,
}

/// Fields of a forward to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetForward {
    /// Enable or disable.
    pub enabled: Option<bool>,
    /// New label.
    pub label: Option<String>,
    /// New device, by id or name.
    pub device: Option<String>,
    /// New port on the device.
    pub target_port: Option<u16>,
    /// Whether connections begin with the client's address.
    pub proxy_protocol: Option<bool>,
}

/// A pinhole to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddPinhole {
    /// The device, by id or name.
    pub device: String,
    /// First port.
    pub port: u16,
    /// Last port.
    pub port_end: u16,
    /// Protocols; empty: all.
    pub protocols: BTreeSet<Protocol>,
    /// Free text.
    pub label: String,
}

/// Fields of a pinhole to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetPinhole {
    /// Enable or disable.
    pub enabled: Option<bool>,
    /// New label.
    pub label: Option<String>,
}

/// Fields of an uplink to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetUplink {
    /// The IPv4 address that the Internet sees.
    pub advertised: Patch<Ipv4Addr>,
    /// What devices connect to.
    pub endpoint: Patch<String>,
}

/// Settings to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetSettings {
    /// UDP port of WireGuard.
    pub listen_port: Option<u16>,
    /// Resolvers for `full` devices.
    pub dns_servers: Option<Vec<IpAddr>>,
    /// Range that outbound connections are translated to.
    pub snat_ports: Option<(u16, u16)>,
    /// Tunnel MTU.
    pub mtu: Patch<u16>,
    /// Packet size that TCP is clamped to.
    pub clamp_mtu: Option<u16>,
    /// Connections that one device may have open, in each family and each way.
    pub connection_limit: Option<u32>,
    /// The shortest time in seconds that a lease is given for.
    pub lease_minimum: Option<u32>,
    /// The longest time in seconds that a lease is given for.
    pub lease_maximum: Option<u32>,
}

/// A token to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddToken {
    /// Unique name.
    pub name: String,
    /// SHA-256 of the text, in hexadecimal.
    pub hash: String,
    /// What it allows.
    pub scopes: BTreeSet<Scope>,
    /// The only device whose things it is for, by id or name.
    pub device: Option<String>,
    /// Seconds since 1970.
    pub expires: Option<u64>,
}
