//! Names on shared ports: where the front leads connections that ask for them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;

use super::firewall::Port;
use crate::protocol::Protocol;

/// What the front does. Where a public socket is in none of it, the front does not listen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// By public socket, as it is on this host, and name.
    pub routes: OrdMap<(Port<IpAddr>, String), Target>,
    /// What no name of the socket takes; only where there are names.
    pub fallbacks: OrdMap<Port<IpAddr>, Target>,
    /// Addresses on whose port 80 a request for a name of port 443 is led there.
    pub redirects: BTreeSet<IpAddr>,
}

/// Where connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The device's address and port.
    pub device: SocketAddr,
    /// Networks to which the device replies by another way than the tunnel: itself, and what is behind it. Clients from there
    /// appear as the gateway.
    pub near: BTreeSet<IpNet>,
    /// What the device sees of the client.
    pub mode: Mode,
}

/// What a device sees of the client that connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Its address, as the source of the packets: the device's replies come back through the tunnel.
    Transparent,
    /// Its address, as a PROXY protocol header; the packets come from the gateway.
    ProxyProtocol,
    /// Nothing: the packets come from the gateway.
    Gateway,
}

/// The port for which names are those of HTTP requests.
pub const HTTP: u16 = 80;

/// The port that requests over HTTP are led to.
pub const HTTPS: u16 = 443;

impl Names {
    /// Whether there is nothing to do for a front.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Whether another one does something else; what both share is not looked at.
    pub fn differs(&self, other: &Self) -> bool {
        self.redirects != other.redirects
            || self.fallbacks.diff(&other.fallbacks).next().is_some()
            || self.changed(other).next().is_some()
    }

    /// The names that lead elsewhere in another one, with those that only one of the two has.
    pub fn changed<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = &'a (Port<IpAddr>, String)> {
        let changes = self.routes.diff(&other.routes);
        changes.map(|change| match change {
            DiffItem::Add(key, _)
            | DiffItem::Remove(key, _)
            | DiffItem::Update { new: (key, _), .. } => key,
        })
    }

    /// The public sockets on which there are names.
    pub fn sockets(&self) -> BTreeSet<Port<IpAddr>> {
        let mut sockets = BTreeSet::new();
        let mut next = self.routes.keys().next();
        while let Some((socket, _)) = next {
            sockets.insert(*socket);
            // Names are of lower octets.
            next = (self.routes.range((*socket, "\u{7f}".to_owned())..).next()).map(|(key, _)| key);
        }
        sockets
    }

    /// The public sockets on which the front listens.
    pub fn listeners(&self) -> BTreeSet<Port<IpAddr>> {
        let mut listeners = self.sockets();
        listeners.extend(self.redirects.iter().map(|address| Port {
            address: *address,
            protocol: Protocol::Tcp,
            port: HTTP,
        }));
        listeners
    }
}
