//! Who may be asked for ports: the far ends of tunnels, then the routers of the default routes.

mod routes;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use adit_model::address::first_host;
use adit_proto::port_control::SERVER_PORT;
use ipnet::{IpNet, Ipv4Net};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};

use self::routes::{Route, routes};

/// A gateway that may answer, and the address of this host that it would see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where it listens.
    pub server: SocketAddr,
    /// Whom the mappings are for.
    pub local: IpAddr,
    /// Why it is asked.
    pub kind: Kind,
}

/// Why a gateway is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It was named.
    Named,
    /// It is at the other end of a tunnel.
    Tunnel,
    /// What this host sends to the Internet goes there.
    DefaultRoute,
}

impl fmt::Display for Candidate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (from {})", self.server.ip(), self.local)
    }
}

/// An address of an interface of this host.
#[derive(Clone, Debug)]
struct Local {
    interface: String,
    network: IpNet,
    /// The other end, where the interface knows it.
    peer: Option<IpAddr>,
    is_tunnel: bool,
}

impl Candidate {
    /// A gateway that was named. The route to it says which address of this host it sees.
    ///
    /// # Errors
    ///
    /// When there is no route to it.
    pub fn named(address: IpAddr) -> io::Result<Self> {
        let server = SocketAddr::new(address, SERVER_PORT);
        Ok(Self {
            server,
            local: source_towards(server)?,
            kind: Kind::Named,
        })
    }
}

/// All that may be asked, the best of each family first.
///
/// # Errors
///
/// When the interfaces or routes of this host cannot be read.
pub fn candidates() -> io::Result<Vec<Candidate>> {
    let locals = locals()?;
    let routes = routes()?;
    let mut found = tunnels(&locals, &routes);
    found.extend(routers(&locals, &routes));
    let mut seen = Vec::new();
    found.retain(|candidate| {
        let is_new = !seen.contains(&candidate.server);
        seen.push(candidate.server);
        is_new
    });
    Ok(found)
}

/// The far ends of tunnels. Plain WireGuard configurations do not name them; they are the first hosts of the tunnels' networks,
/// and have the same place in the IPv6 prefix.
fn tunnels(locals: &[Local], routes: &[Route]) -> Vec<Candidate> {
    let mut found = Vec::new();
    for local in locals.iter().filter(|it| it.is_tunnel) {
        let IpAddr::V4(address) = local.network.addr() else {
            continue;
        };
        let far = match local.peer {
            Some(IpAddr::V4(peer)) => peer,
            Some(IpAddr::V6(_)) | None => first_host(tunnel_network(local, address, routes)),
        };
        if far == address {
            continue;
        }
        found.push(Candidate::tunnel(far.into(), address.into()));
        let others = locals.iter().filter(|it| it.interface == local.interface);
        for other in others {
            if let IpAddr::V6(own) = other.network.addr()
                && !own.is_unicast_link_local()
                && let Some(far) = far_ipv6(own, address, far)
            {
                found.push(Candidate::tunnel(far.into(), own.into()));
            }
        }
    }
    found
}

/// The routers of the default routes, the preferred first.
fn routers(locals: &[Local], routes: &[Route]) -> Vec<Candidate> {
    let mut defaults: Vec<_> = routes
        .iter()
        .filter(|route| route.destination.prefix_len() == 0)
        .filter_map(|route| Some((route.metric, route.gateway?, route)))
        .collect();
    defaults.sort_by_key(|(metric, _, _)| *metric);
    let mut found = Vec::new();
    for (_, gateway, route) in defaults {
        // A mapping for a link-local address would be of no use, so the global one asks.
        let own = locals.iter().find(|local| {
            local.interface == route.interface
                && local.network.addr().is_ipv4() == gateway.is_ipv4()
                && !is_link_local(local.network.addr())
        });
        let Some(own) = own else {
            continue;
        };
        let server = match gateway {
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                let Ok(index) = if_nametoindex(route.interface.as_str()) else {
                    continue;
                };
                SocketAddr::V6(SocketAddrV6::new(address, SERVER_PORT, 0, index))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => SocketAddr::new(gateway, SERVER_PORT),
        };
        found.push(Candidate {
            server,
            local: source_towards(server)
                .ok()
                .filter(|source| !is_link_local(*source))
                .unwrap_or_else(|| own.network.addr()),
            kind: Kind::DefaultRoute,
        });
    }
    found
}

impl Candidate {
    const fn tunnel(far: IpAddr, own: IpAddr) -> Self {
        Self {
            server: SocketAddr::new(far, SERVER_PORT),
            local: own,
            kind: Kind::Tunnel,
        }
    }
}

/// The network that a tunnel leads to: that of the address, else of a route; where all traffic goes into it, the usual one.
fn tunnel_network(local: &Local, address: Ipv4Addr, routes: &[Route]) -> Ipv4Net {
    const USUAL_LENGTH: u8 = 24;
    let through = routes
        .iter()
        .filter(|route| route.interface == local.interface);
    let routed = through.filter_map(|route| match route.destination {
        IpNet::V4(network) => Some(network),
        IpNet::V6(_) => None,
    });
    let own = match local.network {
        IpNet::V4(network) => Some(network),
        IpNet::V6(_) => None,
    };
    own.into_iter()
        .chain(routed)
        .filter(|network| (8..=30).contains(&network.prefix_len()) && network.contains(&address))
        .max_by_key(|network| network.prefix_len())
        .unwrap_or_else(|| Ipv4Net::new_assert(address, USUAL_LENGTH))
        .trunc()
}

/// The IPv6 address of the far end: low bits of IPv6 addresses in a subnet are those of the IPv4 addresses.
fn far_ipv6(own: Ipv6Addr, own_ipv4: Ipv4Addr, far_ipv4: Ipv4Addr) -> Option<Ipv6Addr> {
    let own_low = u32::from(own_ipv4);
    let far_low = u32::from(far_ipv4);
    let low = u128::from(own) as u32;
    // In a long prefix only the last few bits have room.
    let bits = (0..=32).rev().find(|bits| {
        let mask = ((1_u64 << bits) - 1) as u32;
        low & mask == own_low & mask
    })?;
    let mask = ((1_u64 << bits) - 1) as u32;
    let far = u128::from(own) ^ u128::from((own_low ^ far_low) & mask);
    (far != u128::from(own)).then(|| far.into())
}

fn locals() -> io::Result<Vec<Local>> {
    let mut found = Vec::new();
    for entry in getifaddrs()? {
        let ip = |address: Option<&nix::sys::socket::SockaddrStorage>| {
            let address = address?;
            let ipv4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
            ipv4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
        };
        let usable = InterfaceFlags::IFF_UP;
        if !entry.flags.contains(usable) || entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let Some(address) = ip(entry.address.as_ref()) else {
            continue;
        };
        let whole = IpNet::from(address);
        let network = ip(entry.netmask.as_ref())
            .and_then(|mask| IpNet::with_netmask(address, mask).ok())
            .unwrap_or(whole);
        let is_tunnel = entry.flags.contains(InterfaceFlags::IFF_POINTOPOINT);
        let peer = ip(entry.destination.as_ref()).filter(|peer| is_tunnel && *peer != address);
        found.push(Local {
            interface: entry.interface_name,
            network,
            peer,
            is_tunnel,
        });
    }
    Ok(found)
}

/// The index of the interface that has an address of this host.
pub(crate) fn interface_of(address: IpAddr) -> io::Result<u32> {
    let locals = locals()?;
    let found = locals.iter().find(|it| it.network.addr() == address);
    let local = found.ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(if_nametoindex(local.interface.as_str())?)
}

/// The address of this host that packets to there have. Nothing is sent.
fn source_towards(server: SocketAddr) -> io::Result<IpAddr> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    Ok(socket.local_addr()?.ip())
}

const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(interface: &str, network: &str, is_tunnel: bool) -> Local {
        Local {
            interface: interface.to_owned(),
            network: network.parse().unwrap(),
            peer: None,
            is_tunnel,
        }
    }

    fn route(interface: &str, destination: &str) -> Route {
        Route {
            interface: interface.to_owned(),
            destination: destination.parse().unwrap(),
            gateway: None,
            metric: 0,
        }
    }

    fn servers(locals: &[Local], routes: &[Route]) -> Vec<String> {
        let found = tunnels(locals, routes).into_iter();
        found.map(|it| it.server.ip().to_string()).collect()
    }

    #[test]
    fn far_end_is_the_first_host_of_the_network() {
        let wide = [
            local("wg0", "10.59.4.5/32", true),
            local("wg0", "fd59::a3b:405/128", true),
        ];
        // Behind `full` there is no route to the subnet alone.
        assert_eq!(servers(&wide, &[]), ["10.59.4.1", "fd59::a3b:401"]);
        let routes = [route("wg0", "10.59.0.0/16"), route("eth0", "10.59.4.0/24")];
        assert_eq!(servers(&wide, &routes), ["10.59.0.1", "fd59::a3b:1"]);
        // A prefix with room for four bits.
        let narrow = [
            local("wg0", "10.59.0.5/24", true),
            local("wg0", "2001:db8::f005/128", true),
        ];
        assert_eq!(servers(&narrow, &[]), ["10.59.0.1", "2001:db8::f001"]);
        // The gateway itself, and what is no tunnel.
        let others = [
            local("wg0", "10.59.0.1/24", true),
            local("eth0", "192.168.1.5/24", false),
        ];
        assert!(servers(&others, &[]).is_empty());
    }

    #[test]
    fn other_end_that_the_interface_knows_is_taken() {
        let mut ppp = local("ppp0", "100.64.3.4/32", true);
        ppp.peer = Some("100.64.0.1".parse().unwrap());
        assert_eq!(servers(&[ppp], &[]), ["100.64.0.1"]);
    }
}
