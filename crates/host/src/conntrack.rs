//! Ends tracked connections that no longer agree with the rules.
//!
//! A tracked connection keeps the translation with which it began. Once changed rules are live, the connections that the
//! old ones made are deleted, so that their next packet meets the new ones.

#![warn(clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_model::desired::firewall::Endpoint;
use adit_model::desired::rule::{FRONT_MARK, MARK_MASK};
use adit_model::protocol::{PortRange, Protocol};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::libc::{AF_INET, AF_INET6};
use thiserror::Error;

use crate::netfilter::{
    Message, Request, Requests, SUBSYSTEM_CONNTRACK, attribute, push_attribute, u16_be, u32_be,
};

/// Which connections have to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Forwards that were added, moved or removed, by their public side, and pinholes that closed.
    pub endpoints: BTreeSet<Endpoint<IpAddr>>,
    /// Devices and delegated networks all of whose connections are cut.
    pub networks: BTreeSet<IpNet>,
    /// Networks that the rules guard better than before: for a while there were none, or they allow less now. What began
    /// then would pass as established, and what left untranslated would stay so; all of it begins anew, or not at all.
    pub unguarded: BTreeSet<IpNet>,
}

#[derive(Debug, Error)]
pub enum ConntrackError {
    #[error("cannot list the addresses of this host: {0}")]
    Addresses(#[source] io::Error),
    #[error("cannot list the tracked connections: {0}")]
    List(#[source] io::Error),
    #[error("cannot delete {count} tracked connections that changed rules ended: {cause}")]
    Delete { count: usize, cause: io::Error },
    #[error("the sweep of tracked connections did not end: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// Deletes the connections concerned, in one pass over the tracked connections of each family that they can be in, and
/// returns their number. The changed rules must be live before.
pub async fn sweep(changed: Changed) -> Result<usize, ConntrackError> {
    let mut criteria = Criteria::of(&changed);
    if criteria.families.is_empty() {
        return Ok(0);
    }
    tokio::task::spawn_blocking(move || {
        if !criteria.unguarded.0.is_empty() {
            criteria.own = own_addresses().map_err(ConntrackError::Addresses)?;
        }
        sweep_families(&criteria)
    })
    .await?
}

const KIND_GET: u8 = 1;
const KIND_DELETE: u8 = 2;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const MARK: u16 = 8;
const ID: u16 = 12;
const ZONE: u16 = 18;
const NESTED: u16 = 0x8000;

/// What to look for, in the order that makes looking quick.
pub(crate) struct Criteria {
    families: BTreeSet<u8>,
    endpoints: BTreeMap<(IpAddr, u8), Vec<PortRange>>,
    networks: Networks,
    unguarded: Networks,
    /// Addresses of this host.
    own: BTreeSet<IpAddr>,
}

/// Disjoint, by first address.
struct Networks(Vec<IpNet>);

/// A tracked connection.
struct Connection {
    original: Tuple,
    reply: Tuple,
    mark: u32,
}

/// One direction of a tracked connection.
struct Tuple {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    destination_port: Option<u16>,
}

impl Criteria {
    pub(crate) fn of(changed: &Changed) -> Self {
        let mut endpoints: BTreeMap<_, Vec<PortRange>> = BTreeMap::new();
        for Endpoint {
            address,
            protocol,
            ports,
        } in &changed.endpoints
        {
            let key = (*address, Protocol::number(*protocol));
            endpoints.entry(key).or_default().push(*ports);
        }
        let networks = Networks::of(&changed.networks);
        let unguarded = Networks::of(&changed.unguarded);
        let addresses = changed.endpoints.iter().map(|endpoint| endpoint.address);
        let families = addresses
            .chain(networks.0.iter().map(IpNet::addr))
            .chain(unguarded.0.iter().map(IpNet::addr))
            .map(|address| {
                if address.is_ipv4() {
                    AF_INET as u8
                } else {
                    AF_INET6 as u8
                }
            })
            .collect();
        Self {
            families,
            endpoints,
            networks,
            unguarded,
            own: BTreeSet::new(),
        }
    }

    /// The public side of a forward is where a connection was sent to, or where its answers come: the latter for what
    /// a device sends from a forwarded port. The front's own connections to devices are led by no forward and no pinhole, and
    /// it ends itself what has to end.
    fn concern(&self, connection: &Connection) -> bool {
        let Connection {
            original, reply, ..
        } = connection;
        [
            original.source,
            original.destination,
            reply.source,
            reply.destination,
        ]
        .into_iter()
        .any(|address| self.networks.contain(address))
            || !connection.is_of_front()
                && ([original, reply]
                    .into_iter()
                    .any(|tuple| self.name_destination(tuple))
                    || self.began_unguarded(original, reply))
    }

    /// Connections that were translated had rules. Of the others, those to the Internet from addresses of its own are let
    /// be: no rule would have kept them from beginning, and without them an answer finds no way back. So are those that this
    /// host opened.
    fn began_unguarded(&self, original: &Tuple, reply: &Tuple) -> bool {
        let is_private = match original.source {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => address.is_unique_local(),
        };
        original.source == reply.destination
            && original.destination == reply.source
            && !self.own.contains(&original.source)
            && (self.unguarded.contain(original.destination)
                || self.unguarded.contain(original.source)
                    && (is_private || self.own.contains(&original.destination)))
    }

    fn name_destination(&self, tuple: &Tuple) -> bool {
        let ranges = self.endpoints.get(&(tuple.destination, tuple.protocol));
        ranges
            .zip(tuple.destination_port)
            .is_some_and(|(ranges, port)| ranges.iter().any(|range| range.contains(port)))
    }
}

impl Networks {
    fn of(networks: &BTreeSet<IpNet>) -> Self {
        let mut networks = IpNet::aggregate(&networks.iter().copied().collect());
        networks.sort_by_key(IpNet::network);
        Self(networks)
    }

    fn contain(&self, address: IpAddr) -> bool {
        let after = self
            .0
            .partition_point(|network| network.network() <= address);
        after
            .checked_sub(1)
            .and_then(|index| self.0.get(index))
            .is_some_and(|network| network.contains(&address))
    }
}

fn own_addresses() -> io::Result<BTreeSet<IpAddr>> {
    let address = |interface: InterfaceAddress| {
        let address = interface.address?;
        let ipv4 = address.as_sockaddr_in().map(|address| address.ip().into());
        ipv4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
    };
    Ok(getifaddrs()?.filter_map(address).collect())
}

fn sweep_families(criteria: &Criteria) -> Result<usize, ConntrackError> {
    let mut requests = Requests::open().map_err(ConntrackError::List)?;
    let mut deletions = Vec::new();
    for family in &criteria.families {
        let list = Request {
            subsystem: SUBSYSTEM_CONNTRACK,
            kind: KIND_GET,
            family: *family,
            attributes: Vec::new(),
        };
        let found = requests.dump(&list, |message| deletion(criteria, message));
        deletions.extend(found.map_err(ConntrackError::List)?);
    }
    let failed = |cause| ConntrackError::Delete {
        count: deletions.len(),
        cause,
    };
    for outcome in requests.acknowledge(&deletions).map_err(failed)? {
        match outcome {
            Ok(()) => {}
            // It ended by itself meanwhile.
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(deletions.len())
}

/// The request that deletes this connection, if it is concerned. It names the connection's number too, so that a new
/// one between the same ends is not meant.
pub(crate) fn deletion(criteria: &Criteria, message: Message<'_>) -> Option<Request> {
    let original = attribute(message.attributes, ORIGINAL)?;
    let reply = attribute(message.attributes, REPLY)?;
    let connection = Connection {
        original: Tuple::decode(original)?,
        reply: Tuple::decode(reply)?,
        mark: attribute(message.attributes, MARK)
            .and_then(u32_be)
            .unwrap_or(0),
    };
    if !criteria.concern(&connection) {
        return None;
    }
    let mut attributes = Vec::new();
    push_attribute(&mut attributes, ORIGINAL | NESTED, original);
    push_attribute(&mut attributes, ID, attribute(message.attributes, ID)?);
    if let Some(zone) = attribute(message.attributes, ZONE) {
        push_attribute(&mut attributes, ZONE, zone);
    }
    Some(Request {
        subsystem: SUBSYSTEM_CONNTRACK,
        kind: KIND_DELETE,
        family: message.family,
        attributes,
    })
}

impl Connection {
    /// The firewall marks what has answered to the front.
    const fn is_of_front(&self) -> bool {
        self.mark & MARK_MASK == FRONT_MARK
    }
}

impl Tuple {
    fn decode(tuple: &[u8]) -> Option<Self> {
        const ADDRESSES: u16 = 1;
        const TRANSPORT: u16 = 2;
        const NUMBER: u16 = 1;
        const DESTINATION_PORT: u16 = 3;
        let addresses = attribute(tuple, ADDRESSES)?;
        let transport = attribute(tuple, TRANSPORT)?;
        let (source, destination) = decode_pair4(addresses).or_else(|| decode_pair6(addresses))?;
        Some(Self {
            source,
            destination,
            protocol: *attribute(transport, NUMBER)?.first()?,
            destination_port: attribute(transport, DESTINATION_PORT).and_then(u16_be),
        })
    }
}

fn decode_pair4(addresses: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let decode = |kind| {
        let bytes: [u8; 4] = attribute(addresses, kind)?.try_into().ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(bytes)))
    };
    Some((decode(1)?, decode(2)?))
}

fn decode_pair6(addresses: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let decode = |kind| {
        let bytes: [u8; 16] = attribute(addresses, kind)?.try_into().ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(bytes)))
    };
    Some((decode(3)?, decode(4)?))
}
