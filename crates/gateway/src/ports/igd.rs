//! UPnP IGD for devices: searches and calls that come through the tunnel, and from nowhere else.
//!
//! Every socket is bound to the tunnel interface, so the kernel gives it nothing that came in elsewhere, whatever address it
//! bears. Who asks is told by the source address, which WireGuard has checked; who may not open ports hears nothing.

mod action;
mod connection;
mod connections;
mod fault;
mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_model::state::{DeviceId, State, Subnet};
use adit_proto::igd::{Identity, SSDP_GROUP_IPV4, SSDP_GROUPS_IPV6, SSDP_PORT, receive_search};
use nix::net::if_::if_nametoindex;
use sha2::{Digest, Sha256};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use self::connections::Connections;
use super::PortControl;
use crate::control::Control;
use crate::writer::seconds_since_1970;

/// Where the documents and services are, over TCP. IANA has it for the same purpose as the port of PCP.
const PORT: u16 = 5351;

/// How often it is looked whether the interface or an address is another one.
const LOOK: Duration = Duration::from_secs(1);

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Answers searches and calls on all addresses of the gateway, until the daemon ends.
pub(super) async fn serve(ports: Arc<PortControl>) {
    let Some((identity, mut state)) = ports
        .control
        .upgrade()
        .map(|control| (identity(&control), control.state.clone()))
    else {
        return;
    };
    let desk = Desk {
        ports,
        identity,
        connections: Arc::default(),
        started: Instant::now(),
    };
    let mut stand = Stand::default();
    loop {
        let Some(control) = desk.ports.control.upgrade() else {
            return;
        };
        let wanted = Wanted::of(&state.borrow_and_update(), &control.interface);
        drop(control);
        stand.move_to(wanted, &desk);
        tokio::select! {
            changed = state.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// What everyone who answers needs.
#[derive(Clone)]
struct Desk {
    ports: Arc<PortControl>,
    identity: Identity,
    connections: Arc<Connections>,
    started: Instant,
}

/// A device that asks, and where it reaches the gateway.
struct Asking {
    device: DeviceId,
    /// The gateway's address in the device's subnet, of the family that it asks by.
    gateway: IpAddr,
}

impl Desk {
    /// The device with an address, if it may open ports and has not asked too much lately.
    fn asking(&self, source: IpAddr) -> Option<Asking> {
        let control = self.ports.control.upgrade()?;
        let state = Arc::clone(&control.state.borrow());
        let device = state.device_at(source)?;
        let subnet = state.subnets.get(&device.subnet)?;
        let gateway = match source {
            IpAddr::V4(_) => IpAddr::V4(subnet.gateway_ipv4()),
            IpAddr::V6(_) => IpAddr::V6(subnet.gateway_ipv6()?),
        };
        let may_ask = device.has_auto_ports() && device.is_active(seconds_since_1970());
        (may_ask && self.ports.limits.pass(device)).then_some(Asking {
            device: device.id,
            gateway,
        })
    }
}

/// The same gateway is known by the same identity, and no two by one.
fn identity(control: &Control) -> Identity {
    let key = control.snapshot().gateway_key;
    let digest = Sha256::new_with_prefix(b"adit igd")
        .chain_update(key.as_bytes())
        .finalize();
    let mut seed = [0; 16];
    for (byte, from) in seed.iter_mut().zip(digest) {
        *byte = from;
    }
    Identity {
        seed,
        name: "Adit gateway".to_owned(),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        boot: u32::try_from(seconds_since_1970()).unwrap_or(u32::MAX),
    }
}

/// What is to be listened on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    interface: String,
    /// Another index is another interface of the same name; sockets stay with the old one.
    index: u32,
    addresses: Vec<IpAddr>,
}

impl Wanted {
    fn of(state: &State, interface: &str) -> Self {
        let index = if_nametoindex(interface).unwrap_or(0);
        let subnets = state.subnets.values().filter(|_| index != 0);
        let addresses = subnets.flat_map(Subnet::gateway_addresses);
        Self {
            interface: interface.to_owned(),
            index,
            addresses: addresses.collect(),
        }
    }
}

/// What is listened on.
#[derive(Default)]
struct Stand {
    wanted: Wanted,
    /// By address; they end with their task.
    places: BTreeMap<IpAddr, JoinSet<()>>,
    /// By group; as the places.
    groups: BTreeMap<IpAddr, JoinSet<()>>,
    /// Answers leave by the socket of the address that they tell.
    senders: BTreeMap<IpAddr, Arc<UdpSocket>>,
    is_complete: bool,
    /// What has been told of failures: they are tried again each second.
    told: BTreeSet<String>,
}

impl Stand {
    /// Listens where it is wanted and nowhere else. What fails is tried again the next time.
    fn move_to(&mut self, wanted: Wanted, desk: &Desk) {
        if self.wanted == wanted && self.is_complete {
            return;
        }
        if self.wanted.index != wanted.index || self.wanted.interface != wanted.interface {
            self.places.clear();
            self.senders.clear();
            self.groups.clear();
        }
        let before: Vec<IpAddr> = self.senders.keys().copied().collect();
        self.places
            .retain(|address, _| wanted.addresses.contains(address));
        self.senders
            .retain(|address, _| wanted.addresses.contains(address));
        self.is_complete = true;
        for address in &wanted.addresses {
            if self.places.contains_key(address) {
                continue;
            }
            if let Err(error) = self.settle(*address, &wanted, desk) {
                self.fail(&format!("at {address}: {error}"));
            }
        }
        // Groups answer by the senders that there were when they were joined.
        if !self.senders.keys().eq(&before) {
            self.groups.clear();
        }
        self.join(&wanted, desk);
        if self.is_complete {
            self.told.clear();
        }
        self.wanted = wanted;
    }

    fn fail(&mut self, what: &str) {
        self.is_complete = false;
        if self.told.insert(what.to_owned()) {
            tracing::warn!("devices cannot use UPnP {what}; it is tried again");
        }
    }

    fn settle(&mut self, address: IpAddr, wanted: &Wanted, desk: &Desk) -> io::Result<()> {
        let here = |port| SocketAddr::new(address, port);
        let listener = socket(Type::STREAM, here(PORT), &wanted.interface)?;
        listener.listen(BACKLOG)?;
        let listener = TcpListener::from_std(listener.into())?;
        let searches = socket(Type::DGRAM, here(SSDP_PORT), &wanted.interface)?;
        let searches = Arc::new(UdpSocket::from_std(searches.into())?);
        let mut tasks = JoinSet::new();
        tasks.spawn(connection::accept(listener, desk.clone()));
        let senders = BTreeMap::from([(address, Arc::clone(&searches))]);
        tasks.spawn(answer_searches(
            Arc::clone(&searches),
            false,
            senders,
            desk.clone(),
        ));
        self.places.insert(address, tasks);
        self.senders.insert(address, searches);
        Ok(())
    }

    fn join(&mut self, wanted: &Wanted, desk: &Desk) {
        let ipv4 = [IpAddr::V4(SSDP_GROUP_IPV4)];
        let groups = ipv4.into_iter().chain(SSDP_GROUPS_IPV6.map(IpAddr::V6));
        for group in groups {
            let mut senders = self.senders.clone();
            senders.retain(|address, _| address.is_ipv4() == group.is_ipv4());
            if senders.is_empty() || self.groups.contains_key(&group) {
                continue;
            }
            match member(group, wanted) {
                Ok(socket) => {
                    let answering = answer_searches(Arc::new(socket), true, senders, desk.clone());
                    self.groups.entry(group).or_default().spawn(answering);
                }
                Err(error) => self.fail(&format!("in the group {group}: {error}")),
            }
        }
    }
}

/// A socket that hears a group on the tunnel.
fn member(group: IpAddr, wanted: &Wanted) -> io::Result<UdpSocket> {
    let place = match group {
        IpAddr::V4(_) => SocketAddr::new(group, SSDP_PORT),
        IpAddr::V6(group) => SocketAddrV6::new(group, SSDP_PORT, 0, wanted.index).into(),
    };
    let socket = socket(Type::DGRAM, place, &wanted.interface)?;
    match group {
        IpAddr::V4(group) => {
            socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(wanted.index))?;
        }
        IpAddr::V6(group) => socket.join_multicast_v6(&group, wanted.index)?,
    }
    UdpSocket::from_std(socket.into())
}

/// A socket that hears an address on an interface only. The address may come later (`IP_FREEBIND`).
fn socket(kind: Type, address: SocketAddr, interface: &str) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        kind.nonblocking().cloexec(),
        (kind == Type::DGRAM).then_some(Protocol::UDP),
    )?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_reuse_address(true)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

/// Answers searches on one socket. The few answers of one gateway need not be spread over the time that a searcher waits.
async fn answer_searches(
    socket: Arc<UdpSocket>,
    is_multicast: bool,
    senders: BTreeMap<IpAddr, Arc<UdpSocket>>,
    desk: Desk,
) {
    let mut buffer = [0; 2048];
    loop {
        let (length, source) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An error of an earlier datagram, such as an ICMP message; a socket that is lost would never be waited for.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let Some(asking) = desk.asking(source.ip()) else {
            continue;
        };
        let Some(sender) = senders.get(&asking.gateway) else {
            continue;
        };
        let place = SocketAddr::new(asking.gateway, PORT);
        let datagram = buffer.get(..length).unwrap_or_default();
        let Some(search) = receive_search(datagram, is_multicast, &desk.identity, place) else {
            continue;
        };
        for answer in search.answers {
            // Whoever hears nothing searches again.
            let _ = sender.send_to(&answer, source).await;
        }
    }
}
