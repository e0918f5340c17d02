//! What devices ask by UPnP, as leases: each sees and changes its own, obtained by UPnP, and nothing else.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Instant;

use adit_model::change::{EndLease, LeasePort, Parties, RequestLease};
use adit_model::decide::lease::Grant;
use adit_model::protocol::Protocol;
use adit_model::state::{
    Device, DeviceId, Family, Filter, Lease, Mechanism, Opening, State, Subnet,
};
use adit_model::uplink::place_ipv4;
use adit_proto::igd::{
    Action, Answer, Fault, LONGEST_LEASE, Mapping, MappingKey, MappingRange, Outside,
    PinholeRequest, PortProtocol, Request, Service,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::fault::{self, Purpose};
use super::seen;
use crate::control::{Control, PeerStatus, Snapshot};
use crate::ports::PortControl;
use crate::ports::outcome::Outcome;
use crate::ports::translation::Wish;
use crate::writer::seconds_since_1970;

/// Protocol numbers of IANA.
const TCP: u16 = 6;
const UDP: u16 = 17;
/// What stands for any protocol.
const ANY_PROTOCOL: u16 = 65535;

/// The longest lease of a pinhole in seconds.
const LONGEST_PINHOLE: u32 = 86_400;

/// Who asks.
pub(super) struct Client {
    pub(super) device: DeviceId,
    /// Its address, one of the device's own.
    pub(super) source: IpAddr,
    /// Since when there is a gateway to ask.
    pub(super) since: Instant,
}

/// Does what a device asks for, and answers when that is durable and live.
pub(super) async fn perform(
    ports: &PortControl,
    control: &Control,
    client: &Client,
    request: Request,
) -> Result<Answer, Fault> {
    let service = request.service;
    let call = Call {
        ports,
        control,
        client,
        service,
    };
    match request.action {
        Action::Status => call.status(),
        Action::ExternalAddress => call.external_address(),
        Action::LinkProperties => call.link(),
        Action::BytesSent => Ok(Answer::Total(call.peer().await?.received)),
        Action::BytesReceived => Ok(Answer::Total(call.peer().await?.sent)),
        // What WireGuard counts for a device are bytes, and what passes in all is no device's business.
        Action::PacketsSent | Action::PacketsReceived => Err(Fault::ActionFailed),
        Action::Add(mapping) => call.add(mapping, true).await.map(|_| Answer::Done),
        Action::AddAny(mapping) => call.add(mapping, false).await.map(Answer::Reserved),
        Action::Delete(key) => call.delete(&key).await,
        Action::DeleteBoth {
            outside,
            external_port,
        } => call.delete_both(outside, external_port).await,
        Action::DeleteRange(range) => call.delete_range(range).await,
        Action::Entry(index) => call.entry(index),
        Action::Specific(key) => call.specific(&key),
        Action::List(range, most) => call.list(range, most),
        Action::FirewallStatus => call.firewall(),
        Action::OutboundTimeout(request) => outbound_timeout(&request),
        Action::AddPinhole(request) => call.add_pinhole(&request).await,
        Action::UpdatePinhole { id, lease } => call.update_pinhole(id, lease).await,
        Action::DeletePinhole { id } => call.delete_pinhole(id).await,
        // No rule counts what goes through one pinhole.
        Action::PinholePackets { id } => call.snapshot()?.pinhole(id).and(Err(Fault::ActionFailed)),
        Action::PinholeWorks { id } => call.pinhole_works(id),
    }
}

struct Call<'a> {
    ports: &'a PortControl,
    control: &'a Control,
    client: &'a Client,
    service: Service,
}

/// What a device sees at one moment.
struct View {
    snapshot: Snapshot,
    device: Device,
    subnet: Subnet,
}

impl Call<'_> {
    fn snapshot(&self) -> Result<View, Fault> {
        let snapshot = self.control.snapshot();
        let device = snapshot.state.devices.get(&self.client.device);
        let device = device.ok_or(Fault::NotAuthorized)?.clone();
        let subnet = snapshot.state.subnets.get(&device.subnet);
        let subnet = subnet.ok_or(Fault::NotAuthorized)?.clone();
        Ok(View {
            snapshot,
            device,
            subnet,
        })
    }

    fn status(&self) -> Result<Answer, Fault> {
        let uptime = u32::try_from(self.client.since.elapsed().as_secs()).unwrap_or(u32::MAX);
        let address = self.snapshot()?.external_address();
        Ok(Answer::Status(address.map(|_| uptime)))
    }

    fn external_address(&self) -> Result<Answer, Fault> {
        Ok(Answer::ExternalAddress(self.snapshot()?.external_address()))
    }

    /// What the uplink says of itself in megabits a second; 0 if it does not.
    fn link(&self) -> Result<Answer, Fault> {
        let view = self.snapshot()?;
        let place = place_ipv4(
            &view.snapshot.uplinks,
            &view.snapshot.facts,
            &view.subnet,
            &view.device,
        );
        let rate = place.and_then(|(uplink, _)| {
            let speed = Path::new("/sys/class/net").join(&uplink.name).join("speed");
            let megabits: i64 = std::fs::read_to_string(speed).ok()?.trim().parse().ok()?;
            Some(u32::try_from(megabits.max(0).saturating_mul(1_000_000)).unwrap_or(u32::MAX))
        });
        let rate = rate.unwrap_or(0);
        Ok(Answer::LinkProperties {
            upstream: rate,
            downstream: rate,
        })
    }

    async fn peer(&self) -> Result<PeerStatus, Fault> {
        let key = self.snapshot()?.device.public_key;
        let snapshot = self.control.refreshed_lately().await;
        Ok(snapshot.peers.get(&key).cloned().unwrap_or_default())
    }

    /// The port that was mapped.
    async fn add(&self, mapping: Mapping, exact: bool) -> Result<u16, Fault> {
        let view = self.snapshot()?;
        if mapping.internal_client != view.device.ipv4 {
            return Err(Fault::NotAuthorized);
        }
        // A mapping that maps nothing is not kept.
        if !mapping.enabled {
            return Err(Fault::ActionFailed);
        }
        let external = (mapping.external_port != 0).then_some(mapping.external_port);
        if exact && external.is_none() {
            return Err(Fault::ExternalPortWildcardNotPermitted);
        }
        let filters = filters(
            &mapping.outside,
            0,
            Family::Ipv4,
            Fault::RemoteHostOnlyWildcard,
        )?;
        // Programs ask by all protocols that they know at once, and for the same port.
        if let Some(external) = external.filter(|_| filters.is_empty())
            && let Some(other) = view.otherwise(external, mapping.protocol)
            && other.internal_port == mapping.internal_port
        {
            let applied = self.control.applied(view.state().revision).await;
            return applied.map(|()| external).map_err(|_| Fault::ActionFailed);
        }
        let wish = RequestLease {
            family: Family::Ipv4,
            protocol: Some(transport(mapping.protocol)),
            internal: mapping.internal_port,
            external,
            exact,
            lifetime: match mapping.lease {
                // "For ever" is longer than anyone remembers; both versions get what version 2 calls it.
                0 => LONGEST_LEASE,
                lease => lease.min(LONGEST_LEASE),
            },
            clear_filters: true,
            filters,
            description: mapping.description,
            ..self.wish()
        };
        Ok(self.obtain(wish).await?.external)
    }

    async fn delete(&self, key: &MappingKey) -> Result<Answer, Fault> {
        let view = self.snapshot()?;
        let lease = view.mapping(key).ok_or(Fault::NoSuchEntry)?;
        self.end(lease).await?;
        Ok(Answer::Done)
    }

    async fn delete_both(&self, outside: Outside, external_port: u16) -> Result<Answer, Fault> {
        let view = self.snapshot()?;
        let keys = [PortProtocol::Tcp, PortProtocol::Udp].map(|protocol| MappingKey {
            outside: outside.clone(),
            external_port,
            protocol,
        });
        let leases: Vec<&Lease> = keys.iter().filter_map(|key| view.mapping(key)).collect();
        if leases.is_empty() {
            return Err(Fault::NoSuchEntry);
        }
        for lease in leases {
            self.end(lease).await?;
        }
        Ok(Answer::Done)
    }

    async fn delete_range(&self, range: MappingRange) -> Result<Answer, Fault> {
        let view = self.snapshot()?;
        let leases = view.mappings_in(range)?;
        for lease in leases {
            self.end(lease).await?;
        }
        Ok(Answer::Done)
    }

    fn entry(&self, index: u16) -> Result<Answer, Fault> {
        let view = self.snapshot()?;
        let mapping = view.mappings().nth(usize::from(index));
        let mapping = mapping.and_then(|lease| view.mapping_of(lease));
        mapping.map(Answer::Entry).ok_or(Fault::ArrayIndexInvalid)
    }

    fn specific(&self, key: &MappingKey) -> Result<Answer, Fault> {
        let view = self.snapshot()?;
        let own = view.mapping(key).and_then(|lease| view.mapping_of(lease));
        let mapping = own.or_else(|| {
            let other = view.otherwise(key.external_port, key.protocol)?;
            (key.outside == Outside::Anyone).then_some(other)
        });
        mapping.map(Answer::Specific).ok_or(Fault::NoSuchEntry)
    }

    fn list(&self, range: MappingRange, most: u16) -> Result<Answer, Fault> {
        let view = self.snapshot()?;
        let leases = view.mappings_in(range)?;
        let most = match most {
            0 => usize::MAX,
            most => usize::from(most),
        };
        let mappings = leases.into_iter().take(most);
        Ok(Answer::List(
            mappings
                .filter_map(|lease| view.mapping_of(lease))
                .collect(),
        ))
    }

    /// Pinholes are for addresses that the Internet knows.
    fn firewall(&self) -> Result<Answer, Fault> {
        let view = self.snapshot()?;
        Ok(Answer::FirewallStatus {
            enabled: true,
            pinholes: view.subnet.global_ipv6().is_some(),
        })
    }

    async fn add_pinhole(&self, request: &PinholeRequest) -> Result<Answer, Fault> {
        let view = self.snapshot()?;
        let own = view.global_ipv6().ok_or(Fault::PinholeNotAllowed)?;
        if request.internal_client != own {
            return Err(Fault::NotAuthorized);
        }
        let protocol = match request.protocol {
            TCP => Protocol::Tcp,
            UDP => Protocol::Udp,
            ANY_PROTOCOL => return Err(Fault::ProtocolWildcardNotPermitted),
            _ => return Err(Fault::ProtocolNotSupported),
        };
        if request.internal_port == 0 {
            return Err(Fault::PinholePortWildcardNotPermitted);
        }
        if request.lease == 0 {
            return Err(Fault::InvalidArguments);
        }
        let wish = RequestLease {
            family: Family::Ipv6,
            protocol: Some(protocol),
            internal: request.internal_port,
            external: Some(request.internal_port),
            exact: true,
            lifetime: request.lease.min(LONGEST_PINHOLE),
            filters: filters(
                &request.outside,
                request.remote_port,
                Family::Ipv6,
                Fault::InvalidArguments,
            )?,
            ..self.wish()
        };
        // Who lets everyone in lets in those of before, too; who lets in one more than before says who.
        let existing = view
            .pinholes()
            .find(|lease| lease.internal == wish.internal && lease.protocol == wish.protocol);
        let is_open_to_all = existing.is_some_and(|lease| lease.filters.is_empty());
        let wish = RequestLease {
            clear_filters: wish.filters.is_empty(),
            filters: if is_open_to_all {
                Vec::new()
            } else {
                wish.filters
            },
            ..wish
        };
        let grant = self.obtain(wish).await?;
        Ok(Answer::Pinhole {
            id: grant.lease.map_or(0, |lease| short(lease.0)),
        })
    }

    async fn update_pinhole(&self, id: u16, lifetime: u32) -> Result<Answer, Fault> {
        let view = self.snapshot()?;
        let lease = view.pinhole(id)?;
        if lifetime == 0 {
            return Err(Fault::InvalidArguments);
        }
        let wish = RequestLease {
            family: lease.family,
            protocol: lease.protocol,
            internal: lease.internal,
            external: Some(lease.external),
            exact: true,
            lifetime: lifetime.min(LONGEST_PINHOLE),
            ..self.wish()
        };
        self.obtain(wish).await?;
        Ok(Answer::Done)
    }

    async fn delete_pinhole(&self, id: u16) -> Result<Answer, Fault> {
        let view = self.snapshot()?;
        self.end(view.pinhole(id)?).await?;
        Ok(Answer::Done)
    }

    /// Whether the kernel lets packets through it.
    fn pinhole_works(&self, id: u16) -> Result<Answer, Fault> {
        let view = self.snapshot()?;
        let lease = view.pinhole(id)?;
        let is_valid = lease.is_valid(seconds_since_1970());
        Ok(Answer::Works(is_valid && view.snapshot.problems.is_empty()))
    }

    /// A request that asks for nothing yet.
    fn wish(&self) -> RequestLease {
        RequestLease {
            parties: Parties::own(self.client.device),
            mechanism: Mechanism::Upnp,
            family: Family::of(self.client.source),
            protocol: Some(Protocol::Tcp),
            internal: 0,
            external: None,
            address: None,
            exact: false,
            count: 1,
            parity: false,
            lifetime: LONGEST_LEASE,
            nonce: None,
            clear_filters: false,
            filters: Vec::new(),
            remote: None,
            hostnames: BTreeSet::new(),
            description: String::new(),
        }
    }

    async fn obtain(&self, wish: RequestLease) -> Result<Grant, Fault> {
        let (exact, external) = (wish.exact, wish.external);
        let wish = Wish::Request(Box::new(wish));
        let Outcome::Granted(grant) = self.fulfil(&wish, Purpose::Obtain).await? else {
            return Err(Fault::ActionFailed);
        };
        if exact && external != Some(grant.external) {
            return Err(Fault::Conflict);
        }
        Ok(grant)
    }

    async fn end(&self, lease: &Lease) -> Result<(), Fault> {
        let wish = Wish::End(EndLease {
            parties: Parties::own(self.client.device),
            mechanism: Mechanism::Upnp,
            family: lease.family,
            protocol: lease.protocol,
            port: LeasePort::Id(lease.id),
            nonce: None,
        });
        self.fulfil(&wish, Purpose::End).await.map(|_| ())
    }

    async fn fulfil(&self, wish: &Wish, purpose: Purpose) -> Result<Outcome, Fault> {
        let device = self.client.device;
        match self.ports.fulfil(self.control, device, wish).await {
            Some(Outcome::Failed(failure)) => Err(fault::of(&failure, self.service, purpose)),
            Some(outcome) => Ok(outcome),
            None => Err(Fault::ActionFailed),
        }
    }
}

impl View {
    fn state(&self) -> &State {
        &self.snapshot.state
    }

    fn external_address(&self) -> Option<Ipv4Addr> {
        let own = IpAddr::V4(self.device.ipv4);
        match seen::address(&self.snapshot, self.device.id, own)? {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    /// The device's own address that the Internet knows.
    fn global_ipv6(&self) -> Option<Ipv6Addr> {
        self.subnet.global_ipv6()?;
        self.subnet.ipv6_of(self.device.ipv4)
    }

    /// What the device obtained by UPnP and has still, in the order in which it did.
    fn own(&self) -> impl Iterator<Item = &Lease> {
        let now = seconds_since_1970();
        self.state()
            .leases_of(self.device.id)
            .filter(move |lease| lease.mechanism == Mechanism::Upnp && lease.is_valid(now))
    }

    fn mappings(&self) -> impl Iterator<Item = &Lease> {
        self.own()
            .filter(|lease| lease.opening == Opening::Forward && lease.family == Family::Ipv4)
    }

    fn pinholes(&self) -> impl Iterator<Item = &Lease> {
        self.own().filter(|lease| lease.opening == Opening::Pinhole)
    }

    /// Who names a remote host means a mapping for that host; who names none means any.
    fn mapping(&self, key: &MappingKey) -> Option<&Lease> {
        let protocol = transport(key.protocol);
        self.mappings().find(|lease| {
            let is_meant = match &key.outside {
                Outside::Anyone => true,
                Outside::Address(address) => outside(lease) == Outside::Address(*address),
                Outside::Name(_) => false,
            };
            lease.external == key.external_port && lease.protocol == Some(protocol) && is_meant
        })
    }

    /// What leads to the device from a public port because it asked by another protocol; open to all.
    fn otherwise(&self, external: u16, protocol: PortProtocol) -> Option<Mapping> {
        let now = seconds_since_1970();
        let transport = transport(protocol);
        self.state().leases_of(self.device.id).find_map(|lease| {
            let ports = lease.external_ports()?;
            let is_meant = lease.mechanism != Mechanism::Upnp
                && lease.opening == Opening::Forward
                && lease.family == Family::Ipv4
                && lease.protocol == Some(transport)
                && lease.filters.is_empty()
                && lease.hostnames.is_empty()
                && lease.is_valid(now)
                && ports.contains(external);
            let snapshot = &self.snapshot;
            let place = self
                .state()
                .lease_place(lease, &snapshot.uplinks, &snapshot.facts);
            let is_suspended = place.is_none_or(|(_, service)| service.is_some());
            if !is_meant || is_suspended {
                return None;
            }
            let offset = external.checked_sub(lease.external)?;
            Some(Mapping {
                external_port: external,
                internal_port: lease.internal.checked_add(offset)?,
                description: lease.mechanism.name().to_owned(),
                ..self.mapping_of(lease)?
            })
        })
    }

    fn mappings_in(&self, range: MappingRange) -> Result<Vec<&Lease>, Fault> {
        if range.start > range.end {
            return Err(Fault::Inconsistent);
        }
        let protocol = transport(range.protocol);
        let ports = range.start..=range.end;
        let found: Vec<&Lease> = self
            .mappings()
            .filter(|lease| lease.protocol == Some(protocol) && ports.contains(&lease.external))
            .collect();
        if found.is_empty() {
            return Err(Fault::MappingNotFound);
        }
        Ok(found)
    }

    /// None of what has no ports.
    fn mapping_of(&self, lease: &Lease) -> Option<Mapping> {
        let rest = self
            .snapshot
            .promises
            .expiry(lease)
            .saturating_sub(seconds_since_1970());
        Some(Mapping {
            outside: outside(lease),
            external_port: lease.external,
            protocol: match lease.protocol? {
                Protocol::Tcp => PortProtocol::Tcp,
                Protocol::Udp => PortProtocol::Udp,
            },
            internal_port: lease.internal,
            internal_client: self.device.ipv4,
            enabled: true,
            description: lease.description.clone(),
            // 0 would be for ever.
            lease: u32::try_from(rest)
                .unwrap_or(LONGEST_LEASE)
                .clamp(1, LONGEST_LEASE),
        })
    }

    fn pinhole(&self, id: u16) -> Result<&Lease, Fault> {
        // A device has never so many that the numbers of two would meet before the older has ended; if they do, it means
        // the younger.
        let found = self
            .pinholes()
            .filter(|lease| short(lease.id.0) == id)
            .last();
        found.ok_or(Fault::NoSuchPinhole)
    }
}

/// The identifiers of UPnP have 16 bits.
fn short(id: u64) -> u16 {
    u16::try_from(id & 0xffff).unwrap_or_default()
}

fn outside(lease: &Lease) -> Outside {
    let filter = lease.filters.first();
    filter.map_or(Outside::Anyone, |filter| {
        Outside::Address(filter.network.addr())
    })
}

/// The only ones that may come in; nobody of the other family can.
fn filters(
    outside: &Outside,
    port: u16,
    family: Family,
    unresolved: Fault,
) -> Result<Vec<Filter>, Fault> {
    let network = match (outside, family) {
        (Outside::Anyone, _) if port == 0 => return Ok(Vec::new()),
        (Outside::Anyone, Family::Ipv4) => IpNet::V4(Ipv4Net::default()),
        (Outside::Anyone, Family::Ipv6) => IpNet::V6(Ipv6Net::default()),
        (Outside::Address(address), family) if Family::of(*address) == family => {
            IpNet::from(*address)
        }
        (Outside::Address(_), _) => return Err(Fault::InvalidArguments),
        (Outside::Name(_), _) => return Err(unresolved),
    };
    Ok(vec![Filter { network, port }])
}

fn transport(protocol: PortProtocol) -> Protocol {
    match protocol {
        PortProtocol::Tcp => Protocol::Tcp,
        PortProtocol::Udp => Protocol::Udp,
    }
}

/// For how long the kernel remembers a flow that a device has begun.
fn outbound_timeout(request: &PinholeRequest) -> Result<Answer, Fault> {
    let name = match request.protocol {
        TCP => "nf_conntrack_tcp_timeout_established",
        UDP => "nf_conntrack_udp_timeout",
        ANY_PROTOCOL => return Err(Fault::ProtocolWildcardNotPermitted),
        _ => return Err(Fault::ProtocolNotSupported),
    };
    let path = Path::new("/proc/sys/net/netfilter").join(name);
    let text = std::fs::read_to_string(path).map_err(|_| Fault::ActionFailed)?;
    let seconds = text.trim().parse().map_err(|_| Fault::ActionFailed)?;
    Ok(Answer::OutboundTimeout(seconds))
}
