//! Everything that is committed: objects by id, and how edits change them.

pub mod confirmation;
pub mod delegation;
pub mod device;
pub mod forward;
mod index;
pub mod lease;
pub mod objects;
pub mod pinhole;
pub mod settings;
pub mod subnet;
pub mod token;
pub mod uplink;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use confirmation::Confirmation;
pub use delegation::Delegation;
pub use device::{Device, DeviceKind, PortPolicy};
pub use forward::{Forward, Origin};
pub use lease::{Family, Filter, Lease, Mechanism, Nonce, Opening};
pub use objects::Objects;
pub use pinhole::Pinhole;
pub use settings::Settings;
pub use subnet::{Delivery, Egress, Subnet};
pub use token::{Scope, Token};
pub use uplink::Uplink;

use self::index::Index;
use crate::edit::{Edit, Key, Object};
use crate::key::PublicKey;
use crate::protocol::{PortRange, Protocol};
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
    /// Identifies a lease; never used again.
    LeaseId
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
    /// Leases, and ports that are kept a little longer for those who had them.
    pub leases: Objects<LeaseId, Lease>,
    /// API tokens, hashed.
    pub tokens: Objects<TokenId, Token>,
    /// Settings of the whole.
    pub settings: Settings,
    /// The change that awaits its confirmation.
    pub confirmation: Option<Arc<Confirmation>>,
    /// The revision of the settings' last write.
    pub(crate) settings_version: u64,
    index: Index,
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
            && self.leases == other.leases
            && self.tokens == other.tokens
            && self.settings == other.settings
            && self.confirmation == other.confirmation
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
        let id = match reference.parse() {
            Ok(number) => Some(DeviceId(number)),
            Err(_) => self.index.device_named(reference),
        };
        id.and_then(|id| self.devices.get(&id))
            .ok_or_else(|| not_found("device", reference))
    }

    /// Finds a forward by id.
    pub fn forward(&self, reference: &str) -> Result<&Forward, Refusal> {
        let id = reference.parse().ok().map(ForwardId);
        id.and_then(|id| self.forwards.get(&id))
            .ok_or_else(|| self.lease_or_nothing("forward", reference, Opening::Forward))
    }

    /// Finds a pinhole by id.
    pub fn pinhole(&self, reference: &str) -> Result<&Pinhole, Refusal> {
        let id = reference.parse().ok().map(PinholeId);
        id.and_then(|id| self.pinholes.get(&id))
            .ok_or_else(|| self.lease_or_nothing("pinhole", reference, Opening::Pinhole))
    }

    fn lease_or_nothing(&self, kind: &'static str, reference: &str, opening: Opening) -> Refusal {
        match self.lease(reference) {
            Ok(lease) if lease.opening == opening => Refusal::IsLease {
                kind,
                id: lease.id.0,
            },
            Ok(_) | Err(_) => not_found(kind, reference),
        }
    }

    /// Finds a lease by id; one that has ended is not found.
    pub fn lease(&self, reference: &str) -> Result<&Lease, Refusal> {
        let id = reference.parse().ok().map(LeaseId);
        id.and_then(|id| self.leases.get(&id))
            .filter(|lease| lease.is_open())
            .ok_or_else(|| not_found("lease", reference))
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
    pub fn devices_of(&self, subnet: SubnetId) -> impl DoubleEndedIterator<Item = &Device> {
        let ids = self.index.devices_of(subnet);
        ids.filter_map(|id| self.devices.get(&id))
    }

    /// The device with a public key.
    pub fn device_with_key(&self, key: PublicKey) -> Option<&Device> {
        self.devices_with_key(key).next()
    }

    /// The prefixes delegated to a device.
    pub fn delegations_of(&self, device: DeviceId) -> impl DoubleEndedIterator<Item = &Delegation> {
        let ids = self.index.delegations_of(device);
        ids.filter_map(|id| self.delegations.get(&id))
    }

    /// The forwards that lead to a device.
    pub fn forwards_of(&self, device: DeviceId) -> impl DoubleEndedIterator<Item = &Forward> {
        let ids = self.index.forwards_of(device);
        ids.filter_map(|id| self.forwards.get(&id))
    }

    /// The pinholes of a device.
    pub fn pinholes_of(&self, device: DeviceId) -> impl DoubleEndedIterator<Item = &Pinhole> {
        let ids = self.index.pinholes_of(device);
        ids.filter_map(|id| self.pinholes.get(&id))
    }

    /// The leases of a device, those too whose ports are only kept.
    pub fn leases_of(&self, device: DeviceId) -> impl DoubleEndedIterator<Item = &Lease> {
        let ids = self.index.leases_of(device);
        ids.filter_map(|id| self.leases.get(&id))
    }

    /// The leases of others that a device asked for.
    pub fn leases_asked_by(&self, device: DeviceId) -> impl Iterator<Item = &Lease> {
        let ids = self.index.leases_asked_by(device);
        ids.filter_map(|id| self.leases.get(&id))
    }

    /// The leases of a device in one family.
    pub fn leases_by(&self, device: DeviceId, family: Family) -> impl Iterator<Item = &Lease> {
        let ids = (Protocol::ALL.into_iter().map(Some))
            .chain([None])
            .flat_map(move |protocol| self.index.leases_by((device, family, protocol)));
        ids.filter_map(|id| self.leases.get(&id))
    }

    /// How many ports a device has opened by itself.
    pub fn leased_ports(&self, device: DeviceId) -> u32 {
        self.index.leased_ports(device)
    }

    /// How many ports are only kept for a device.
    pub fn kept_ports(&self, device: DeviceId) -> u32 {
        self.index.kept_ports(device)
    }

    /// The leases of a device that hold a port of it, by id.
    pub fn leases_at(
        &self,
        (device, family, protocol): (DeviceId, Family, Option<Protocol>),
        internal: PortRange,
    ) -> Vec<&Lease> {
        let ids = self.index.leases_at((device, family, protocol), internal);
        self.leases_that(ids, |lease| {
            (lease.internal_ports()).is_some_and(|ports| ports.overlaps(internal))
        })
    }

    /// The leases that end at a time or before it, or whose port is no more kept then.
    pub fn leases_ended(&self, now: u64) -> impl Iterator<Item = LeaseId> {
        self.index.leases_ending(0, now)
    }

    /// The device with an IPv6 or IPv4 address inside the tunnel.
    pub fn device_at(&self, address: IpAddr) -> Option<&Device> {
        self.subnets.values().find_map(|subnet| {
            let is_its = |device: &&Device| match address {
                IpAddr::V4(ipv4) => device.ipv4 == ipv4,
                IpAddr::V6(ipv6) => subnet.ipv6_of(device.ipv4) == Some(ipv6),
            };
            let ipv4 = match address {
                IpAddr::V4(ipv4) => ipv4,
                IpAddr::V6(ipv6) if subnet.embeds() => subnet.ipv4_of(ipv6)?,
                IpAddr::V6(_) => return self.devices_of(subnet.id).find(is_its),
            };
            self.devices_in(subnet.id, ipv4..=ipv4).find(is_its)
        })
    }

    /// The first time after this at which a device or a lease expires.
    pub fn next_expiry(&self, after: u64) -> Option<u64> {
        self.index.next_expiry(after)
    }
}

impl State {
    /// Makes an edit part of the state; what it sets is then of the state's revision.
    pub fn absorb(&mut self, edit: &Edit) {
        match edit {
            Edit::Set(object) => self.set(object.clone()),
            Edit::Remove(key) => self.remove(*key),
        }
    }

    fn set(&mut self, object: Object) {
        let version = self.revision;
        match object {
            Object::Uplink(object) => {
                self.uplinks.insert(object.id, version, object);
            }
            Object::Subnet(object) => {
                self.subnets.insert(object.id, version, object);
            }
            Object::Device(object) => {
                self.remove(Key::Device(object.id));
                self.index.add_device(&object);
                self.devices.insert(object.id, version, object);
            }
            Object::Delegation(object) => {
                self.remove(Key::Delegation(object.id));
                self.index.add_delegation(&object);
                self.delegations.insert(object.id, version, object);
            }
            Object::Forward(object) => {
                self.remove(Key::Forward(object.id));
                self.index.add_forward(&object);
                self.forwards.insert(object.id, version, object);
            }
            Object::Pinhole(object) => {
                self.remove(Key::Pinhole(object.id));
                self.index.add_pinhole(&object);
                self.pinholes.insert(object.id, version, object);
            }
            Object::Lease(object) => {
                self.remove(Key::Lease(object.id));
                self.index.add_lease(&object);
                self.leases.insert(object.id, version, object);
            }
            Object::Token(object) => {
                self.tokens.insert(object.id, version, object);
            }
            Object::Settings(settings) => {
                self.settings = settings;
                self.settings_version = version;
            }
            Object::Sequence(sequence) => self.sequence = sequence,
            Object::Confirmation(confirmation) => {
                self.confirmation = Some(Arc::new(confirmation));
            }
        }
    }

    fn remove(&mut self, key: Key) {
        match key {
            Key::Uplink(id) => {
                self.uplinks.remove(&id);
            }
            Key::Subnet(id) => {
                self.subnets.remove(&id);
            }
            Key::Device(id) => {
                if let Some(device) = self.devices.remove(&id) {
                    self.index.remove_device(&device);
                }
            }
            Key::Delegation(id) => {
                if let Some(delegation) = self.delegations.remove(&id) {
                    self.index.remove_delegation(&delegation);
                }
            }
            Key::Forward(id) => {
                if let Some(forward) = self.forwards.remove(&id) {
                    self.index.remove_forward(&forward);
                }
            }
            Key::Pinhole(id) => {
                if let Some(pinhole) = self.pinholes.remove(&id) {
                    self.index.remove_pinhole(&pinhole);
                }
            }
            Key::Lease(id) => {
                if let Some(lease) = self.leases.remove(&id) {
                    self.index.remove_lease(&lease);
                }
            }
            Key::Token(id) => {
                self.tokens.remove(&id);
            }
            Key::Settings => {
                self.settings = Settings::default();
                self.settings_version = self.revision;
            }
            Key::Sequence => self.sequence = 0,
            Key::Confirmation => self.confirmation = None,
        }
    }
}

/// What decisions and derivations look up without going through everything.
impl State {
    /// The devices with a public key: one, but for states that no decision made.
    pub(crate) fn devices_with_key(&self, key: PublicKey) -> impl Iterator<Item = &Device> {
        let ids = self.index.devices_with_key(key);
        ids.filter_map(|id| self.devices.get(&id))
    }

    /// The devices of a subnet whose IPv4 addresses lie in a span, in the order of the addresses.
    pub(crate) fn devices_in(
        &self,
        subnet: SubnetId,
        addresses: RangeInclusive<Ipv4Addr>,
    ) -> impl Iterator<Item = &Device> {
        let pairs = self.index.devices_in(subnet, addresses);
        pairs.filter_map(|(_, id)| self.devices.get(&id))
    }

    /// The last of the IPv4 addresses of devices that follow one another from this one on; none if it is free.
    pub(crate) fn end_of_devices(&self, subnet: SubnetId, ipv4: Ipv4Addr) -> Option<Ipv4Addr> {
        self.index.end_of_devices(subnet, ipv4)
    }

    /// The devices that expire after one time and not after another.
    pub(crate) fn expiring(&self, after: u64, until: u64) -> impl Iterator<Item = DeviceId> {
        self.index.expiring(after, until)
    }

    /// The leases that end after one time and not after another.
    pub(crate) fn leases_ending(&self, after: u64, until: u64) -> impl Iterator<Item = LeaseId> {
        self.index.leases_ending(after.saturating_add(1), until)
    }

    /// The leases of a device whose ports are only kept, those first that were ended first.
    pub(crate) fn leases_kept(&self, device: DeviceId) -> impl Iterator<Item = &Lease> {
        let ids = self.index.leases_kept(device);
        ids.filter_map(|id| self.leases.get(&id))
    }

    /// The leases with a public port of this host in a range, or, where a device is named, with one of its own address;
    /// by id.
    pub(crate) fn leases_on(&self, place: Option<DeviceId>, ports: PortRange) -> Vec<&Lease> {
        let ids = self.index.leases_on(place, ports);
        self.leases_that(ids, |lease| {
            (lease.external_ports()).is_some_and(|it| it.overlaps(ports))
        })
    }

    fn leases_that(
        &self,
        ids: impl Iterator<Item = LeaseId>,
        is_wanted: impl Fn(&Lease) -> bool,
    ) -> Vec<&Lease> {
        let mut ids: Vec<LeaseId> = ids.collect();
        ids.sort_unstable();
        let leases = ids.iter().filter_map(|id| self.leases.get(id));
        leases.filter(|lease| is_wanted(lease)).collect()
    }

    /// The delegations that meet a span of addresses of one family, in the order of their prefixes.
    pub(crate) fn delegations_between(
        &self,
        first: IpAddr,
        last: IpAddr,
    ) -> impl Iterator<Item = &Delegation> {
        let ids = self.index.delegations_in(first, last);
        ids.filter_map(|id| self.delegations.get(&id))
    }

    /// The devices with a name: one, but for states that no decision made.
    pub(crate) fn devices_named(&self, name: &str) -> impl Iterator<Item = &Device> {
        let ids = self.index.devices_named(name);
        ids.filter_map(|id| self.devices.get(&id))
    }

    /// Whether a device has a name.
    pub(crate) fn has_device_named(&self, name: &str) -> bool {
        self.index.device_named(name).is_some()
    }

    /// The last address of the delegated IPv6 prefixes that follow one another from this address on.
    pub(crate) fn end_of_delegations(&self, address: Ipv6Addr) -> Option<Ipv6Addr> {
        let end = self.index.end_of_delegations(address.into())?;
        Some(end.into())
    }

    /// The forwards with a public port in a range, with and without names.
    pub(crate) fn forwards_on(&self, ports: PortRange) -> impl Iterator<Item = &Forward> {
        let plain = self.plain_forwards_on(ports).into_iter();
        plain.chain(self.named_forwards_on(ports))
    }

    /// The forwards with a name on a port of a range, by port and name.
    pub(crate) fn named_forwards_on(&self, ports: PortRange) -> impl Iterator<Item = &Forward> {
        let ids = self.index.named_on(ports);
        ids.filter_map(|id| self.forwards.get(&id))
    }

    /// The forwards with this name on a port.
    pub(crate) fn forwards_named(
        &self,
        port: u16,
        hostname: &str,
    ) -> impl Iterator<Item = &Forward> {
        let ids = self.index.named(port, hostname);
        ids.filter_map(|id| self.forwards.get(&id))
    }

    /// The forwards without a name that have a public port in a range, by id.
    pub(crate) fn plain_forwards_on(&self, ports: PortRange) -> Vec<&Forward> {
        let mut ids: Vec<ForwardId> = self.index.forwards_near(ports).collect();
        ids.sort_unstable();
        ids.iter()
            .filter_map(|id| self.forwards.get(id))
            .filter(|forward| forward.ports().is_some_and(|it| it.overlaps(ports)))
            .collect()
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
