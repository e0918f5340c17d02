//! What devices ask on the wire, as the model knows it.

use std::net::IpAddr;
use std::num::NonZeroU16;

use adit_model::change::{EndLease, EndLeases, LeasePort, Parties, RequestLease};
use adit_model::refusal::LeaseRefusal;
use adit_model::state::lease::advertised;
use adit_model::state::{DeviceId, Family, Filter, Mechanism, Nonce, State};
use adit_model::uplink;
use adit_proto::nat_pmp::server as nat_pmp;
use adit_proto::pcp::server::{self as pcp, Target};
use adit_proto::pcp::wire::FilterChange;
use adit_proto::port_control::Request;

use super::Outlook;
use super::outcome::{Failure, Outcome};

/// What a request asks for.
#[derive(Clone, Debug)]
pub(super) enum Wish {
    /// The external address of a device.
    Address(DeviceId),
    /// A port.
    Request(Box<RequestLease>),
    /// The end of a lease.
    End(EndLease),
    /// The end of all leases of a kind.
    EndAll(EndLeases),
}

/// What a device asks for; or what it is told, where that is certain.
pub(super) fn wish(state: &State, request: &Request, asking: DeviceId) -> Result<Wish, Outcome> {
    match request {
        Request::Pcp(pcp::Request::Map(map)) => of_map(state, map, asking),
        Request::Pcp(pcp::Request::Delete(delete)) => of_delete(state, delete, asking),
        Request::Pcp(pcp::Request::Peer(peer)) => of_peer(state, peer, asking),
        Request::NatPmp(request) => Ok(of_nat_pmp(*request, asking)),
    }
}

fn of_map(state: &State, map: &pcp::MapRequest, asking: DeviceId) -> Result<Wish, Outcome> {
    let (protocol, internal) = match map.target {
        Target::Port(protocol, internal) => (Some(protocol), internal.get()),
        Target::AllPorts(protocol) => (Some(protocol), 0),
        Target::AllProtocols => (None, 0),
    };
    let cleared = map.filters.iter().rposition(|change| match change {
        FilterChange::Clear => true,
        FilterChange::Add(_) => false,
    });
    let kept = cleared.map_or(0, |place| place + 1);
    let added = map
        .filters
        .iter()
        .skip(kept)
        .filter_map(|change| match change {
            FilterChange::Clear => None,
            FilterChange::Add(filter) => Some(Filter {
                network: filter.prefix,
                port: filter.port.map_or(0, NonZeroU16::get),
            }),
        });
    let set = map.port_set.as_ref();
    let hostnames = map.hostnames.iter().map(|name| name.as_str().to_owned());
    Ok(Wish::Request(Box::new(RequestLease {
        parties: parties(state, map.third_party, asking)?,
        mechanism: Mechanism::Pcp,
        family: Family::of(map.internal()),
        protocol,
        internal,
        external: map.suggestion.port.map(NonZeroU16::get),
        address: map.suggestion.address,
        exact: map.prefer_failure,
        count: set.map_or(1, |set| set.size),
        parity: set.is_some_and(|set| set.parity),
        lifetime: map.lifetime,
        nonce: Some(Nonce(map.nonce.0)),
        clear_filters: cleared.is_some(),
        filters: added.collect(),
        remote: None,
        hostnames: hostnames.collect(),
        description: String::new(),
    })))
}

fn of_delete(
    state: &State,
    delete: &pcp::DeleteRequest,
    asking: DeviceId,
) -> Result<Wish, Outcome> {
    let (protocol, internal) = match delete.target {
        Target::Port(protocol, internal) => (Some(protocol), internal.get()),
        Target::AllPorts(protocol) => (Some(protocol), 0),
        Target::AllProtocols => (None, 0),
    };
    Ok(Wish::End(EndLease {
        parties: parties(state, delete.third_party, asking)?,
        mechanism: Mechanism::Pcp,
        family: Family::of(delete.internal()),
        protocol,
        port: LeasePort::Internal(internal),
        nonce: Some(Nonce(delete.nonce.0)),
    }))
}

fn of_peer(state: &State, peer: &pcp::PeerRequest, asking: DeviceId) -> Result<Wish, Outcome> {
    Ok(Wish::Request(Box::new(RequestLease {
        parties: parties(state, peer.third_party, asking)?,
        mechanism: Mechanism::Pcp,
        family: Family::of(peer.internal()),
        protocol: Some(peer.protocol),
        internal: peer.internal_port.get(),
        external: peer.suggestion.port.map(NonZeroU16::get),
        address: peer.suggestion.address,
        exact: false,
        count: 1,
        parity: false,
        lifetime: peer.lifetime,
        nonce: Some(Nonce(peer.nonce.0)),
        clear_filters: false,
        filters: Vec::new(),
        remote: Some(peer.remote),
        hostnames: Default::default(),
        description: String::new(),
    })))
}

fn of_nat_pmp(request: nat_pmp::Request, asking: DeviceId) -> Wish {
    match request {
        nat_pmp::Request::ExternalAddress(_) => Wish::Address(asking),
        nat_pmp::Request::Map(map) => Wish::Request(Box::new(RequestLease {
            parties: Parties::own(asking),
            mechanism: Mechanism::NatPmp,
            family: Family::Ipv4,
            protocol: Some(map.protocol),
            internal: map.internal_port.get(),
            external: map.suggested.map(NonZeroU16::get),
            address: None,
            exact: false,
            count: 1,
            parity: false,
            lifetime: map.lifetime.get(),
            nonce: None,
            clear_filters: false,
            filters: Vec::new(),
            remote: None,
            hostnames: Default::default(),
            description: String::new(),
        })),
        nat_pmp::Request::Delete(delete) => Wish::End(EndLease {
            parties: Parties::own(asking),
            mechanism: Mechanism::NatPmp,
            family: Family::Ipv4,
            protocol: Some(delete.protocol),
            port: LeasePort::Internal(delete.internal_port.get()),
            nonce: None,
        }),
        nat_pmp::Request::DeleteAll(all) => Wish::EndAll(EndLeases {
            device: asking,
            mechanism: Mechanism::NatPmp,
            protocol: all.protocol,
        }),
    }
}

fn parties(
    state: &State,
    third_party: Option<IpAddr>,
    asking: DeviceId,
) -> Result<Parties, Outcome> {
    let Some(address) = third_party else {
        return Ok(Parties::own(asking));
    };
    let owner = state.device_at(address.to_canonical());
    let owner = owner.ok_or(Failure::Refused(LeaseRefusal::ThirdParty))?.id;
    Ok(Parties { asking, owner })
}

/// The IPv4 address that a device's ports have on the Internet.
pub(super) fn address(state: &State, outlook: &Outlook, device: DeviceId) -> Option<IpAddr> {
    let device = state
        .devices
        .get(&device)
        .filter(|it| it.has_auto_ports())?;
    let subnet = state.subnets.get(&device.subnet)?;
    let Outlook { facts, uplinks, .. } = outlook;
    let (_, local) = uplink::place_ipv4(uplinks, facts, subnet, device)?;
    Some(advertised(local.into(), uplinks))
}

/// Whether a port of a device stays open that it wanted closed: an administrator or another mechanism made it.
pub(super) fn is_left(state: &State, wish: &EndLeases) -> bool {
    let mut leases = state.leases_of(wish.device);
    let mut forwards = state.forwards_of(wish.device);
    leases.any(|lease| {
        lease.is_open() && lease.protocol == Some(wish.protocol) && lease.family == Family::Ipv4
    }) || forwards.any(|forward| forward.enabled && forward.protocols.contains(&wish.protocol))
}
