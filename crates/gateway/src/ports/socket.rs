//! The sockets that requests come to: one for each of the gateway's addresses, and of the tunnel interface only.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use adit_proto::port_control::SERVER_PORT;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::control::Control;

/// Bytes of requests that may wait for us.
const BACKLOG: usize = 1 << 20;

/// What is listened to.
#[derive(Default)]
pub(super) struct Listening {
    /// Of the interface that they are bound to: a new one of the same name has another.
    index: Option<u32>,
    sockets: BTreeMap<IpAddr, Arc<UdpSocket>>,
    failed: BTreeSet<IpAddr>,
}

impl Listening {
    /// Listens at the gateway's addresses as they are now; what is new among them.
    pub(super) fn follow(&mut self, control: &Control) -> Vec<(IpAddr, Arc<UdpSocket>)> {
        let state = Arc::clone(&control.state.borrow());
        let interface = control.interface.as_str();
        let index = nix::net::if_::if_nametoindex(interface).ok();
        if index != self.index {
            self.sockets.clear();
            self.index = index;
        }
        if index.is_none() {
            return Vec::new();
        }
        let subnets = state
            .subnets
            .values()
            .filter(|subnet| subnet.gateway_address);
        let wanted: BTreeSet<IpAddr> = subnets
            .flat_map(|subnet| {
                let ipv6 = subnet.gateway_ipv6().map(IpAddr::V6);
                [IpAddr::V4(subnet.gateway_ipv4())].into_iter().chain(ipv6)
            })
            .collect();
        self.sockets.retain(|address, _| wanted.contains(address));
        self.failed.retain(|address| wanted.contains(address));
        let mut added = Vec::new();
        for address in wanted {
            if self.sockets.contains_key(&address) {
                continue;
            }
            match bind(address, interface) {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    self.failed.remove(&address);
                    self.sockets.insert(address, Arc::clone(&socket));
                    added.push((address, socket));
                }
                Err(error) => {
                    if self.failed.insert(address) {
                        tracing::warn!(%error, %address, "devices cannot ask for ports here; it is tried again");
                    }
                }
            }
        }
        added
    }

    pub(super) fn sockets(&self) -> BTreeMap<IpAddr, Arc<UdpSocket>> {
        self.sockets.clone()
    }
}

/// The address may not be there yet.
fn bind(address: IpAddr, interface: &str) -> io::Result<UdpSocket> {
    let domain = match address {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    match address {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.set_recv_buffer_size(BACKLOG)?;
    socket.bind(&SocketAddr::new(address, SERVER_PORT).into())?;
    UdpSocket::from_std(socket.into())
}
