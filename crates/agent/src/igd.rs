//! Routers that speak UPnP: found, and called.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use adit_proto::igd::{
    Action, Answer, CallError, Exchange, Fault, Location, RemoteGateway, SSDP_GROUP_IPV4,
    SSDP_GROUPS_IPV6, SSDP_PORT, SearchTarget, Version,
};
use futures_util::future::join_all;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::Instant;

use crate::gateway::{Candidate, interface_of};

/// How mappings of this kind are called.
pub(crate) const MECHANISM: &str = "upnp";

/// Searches are lost as datagrams are, so there are several.
const SEARCHES: u32 = 3;
const SEARCH_WAIT: Duration = Duration::from_secs(1);

/// A call takes no longer.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Why a call brought nothing.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    #[error("the router refused: {} {}", .0.told().0, .0.told().1)]
    Fault(Fault),
    #[error("the router does not answer")]
    Silent,
    #[error("what the router answers cannot be read: {0}")]
    Unreadable(String),
    #[error("the router cannot be reached: {0}")]
    Input(#[from] io::Error),
}

/// A router that was found.
#[derive(Debug)]
pub struct Router {
    place: SocketAddr,
    local: IpAddr,
    gateway: RemoteGateway,
}

impl Router {
    /// Searches the router at an address, which has to map ports for IPv4, and for IPv6 to open pinholes. Nothing else that
    /// answers is believed.
    pub async fn find(candidate: &Candidate) -> Option<Self> {
        let mut place = candidate.server;
        place.set_port(SSDP_PORT);
        let local = candidate.local;
        let location = search(place, local)
            .await
            .inspect_err(|error| tracing::debug!(%place, %error, "no search goes out"))
            .ok()??;
        let document = exchange(location.describe(), local).await.ok()?;
        let gateway = RemoteGateway::from_description(&location, &document).ok()?;
        let is_of_use = match local {
            IpAddr::V4(_) => gateway.version().is_some(),
            IpAddr::V6(_) => gateway.has_pinholes(),
        };
        is_of_use.then_some(Self {
            place,
            local,
            gateway,
        })
    }

    /// Searches all at once; the first in their order that is there.
    pub async fn find_first(candidates: &[Candidate]) -> Option<Self> {
        let found = join_all(candidates.iter().map(Self::find)).await;
        found.into_iter().flatten().next()
    }

    /// The address of this host that it sees.
    pub const fn local(&self) -> IpAddr {
        self.local
    }

    /// Where it is searched.
    pub const fn search_address(&self) -> SocketAddr {
        self.place
    }

    pub(crate) const fn gateway(&self) -> &RemoteGateway {
        &self.gateway
    }

    /// What it says its own address outside is.
    pub async fn external_address(&self) -> Option<Ipv4Addr> {
        match self.ask(&Action::ExternalAddress).await {
            Ok(Answer::ExternalAddress(address)) => address,
            Ok(_) | Err(_) => None,
        }
    }

    pub(crate) async fn ask(&self, action: &Action) -> Result<Answer, AskError> {
        let call = self
            .gateway
            .call(action)
            .ok_or(AskError::Fault(Fault::InvalidAction))?;
        let body = exchange(call, self.local).await?;
        self.gateway
            .read(action, &body)
            .map_err(|error| match error {
                CallError::Fault(fault) => AskError::Fault(fault),
                CallError::Xml(error) => AskError::Unreadable(error.to_string()),
            })
    }
}

/// Asks the router itself, and all routers of its link: some answer only one of both.
async fn search(router: SocketAddr, local: IpAddr) -> io::Result<Option<Location>> {
    let socket = UdpSocket::bind((local, 0)).await?;
    let options = socket2::SockRef::from(&socket);
    let group = match local {
        IpAddr::V4(local) => {
            options.set_multicast_if_v4(&local)?;
            IpAddr::V4(SSDP_GROUP_IPV4)
        }
        IpAddr::V6(_) => {
            options.set_multicast_if_v6(interface_of(local)?)?;
            IpAddr::V6(SSDP_GROUPS_IPV6[0])
        }
    };
    // Of a router known by a link-local address the answer comes from another one: then nobody else is asked.
    let is_alone = matches!(router.ip(), IpAddr::V6(router) if router.is_unicast_link_local());
    let group = (!is_alone).then(|| SocketAddr::new(group, SSDP_PORT));
    let targets = [Version::Two, Version::One].map(SearchTarget::Gateway);
    let mut buffer = [0; 2048];
    for _ in 0..SEARCHES {
        for target in targets {
            for to in [Some(router), group].into_iter().flatten() {
                // What does not go out is as good as lost.
                let _ = socket.send_to(&target.search(to, 1), to).await;
            }
        }
        let until = Instant::now() + SEARCH_WAIT;
        while let Ok(received) = tokio::time::timeout_at(until, socket.recv_from(&mut buffer)).await
        {
            // The router may say that the port is closed.
            let Ok((length, source)) = received else {
                continue;
            };
            if source.ip() != router.ip() && !is_alone {
                continue;
            }
            let datagram = buffer.get(..length).unwrap_or_default();
            let mut found = targets.iter();
            if let Some(location) = found.find_map(|target| target.answered(datagram, source.ip()))
            {
                return Ok(Some(location));
            }
        }
    }
    Ok(None)
}

/// One request, from an address of this host.
pub(crate) async fn exchange(mut exchange: Exchange, local: IpAddr) -> Result<Vec<u8>, AskError> {
    let work = async {
        let socket = match local {
            IpAddr::V4(_) => TcpSocket::new_v4()?,
            IpAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.bind(SocketAddr::new(local, 0))?;
        let mut stream = socket.connect(exchange.address()).await?;
        if let Some(request) = exchange.poll_transmit() {
            stream.write_all(&request).await?;
        }
        let mut buffer = [0; 4096];
        loop {
            if let Some(outcome) = exchange.outcome() {
                return match outcome {
                    Ok(body) => Ok(body.to_vec()),
                    Err(error) => Err(AskError::Unreadable(error.to_string())),
                };
            }
            match stream.read(&mut buffer).await? {
                0 => {
                    exchange.handle_end();
                    if exchange.outcome().is_none() {
                        return Err(AskError::Silent);
                    }
                }
                length => exchange.handle_input(buffer.get(..length).unwrap_or_default()),
            }
        }
    };
    match tokio::time::timeout(CALL_LIMIT, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(AskError::Silent),
    }
}
