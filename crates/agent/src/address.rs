//! The address that the Internet has for this host: asked of gateways by all that they speak.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use adit_model::protocol::Protocol;
use adit_proto::igd::Seen;
use futures_util::future::join_all;
use serde::Serialize;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::{Connection, find};
use crate::gateway::{Candidate, Kind};
use crate::holder::{Change, Holder, Wanted};
use crate::igd::{Router, exchange};
use crate::reach::Reach;

/// For so long a gateway is looked for, and what it is asked for awaited.
const PATIENCE: Duration = Duration::from_secs(9);

/// A mapping that tells the address lives no longer, should nobody hear that it is given back.
const LIFETIME: u32 = 120;

/// What a gateway says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The address.
    pub address: IpAddr,
    /// From where it can be reached.
    pub reach: Reach,
    /// Who says so.
    pub gateway: IpAddr,
    /// What it was asked by.
    pub by: Source,
}

/// How an address became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// By a mapping, made for this and given back.
    Pcp,
    /// As by PCP.
    NatPmp,
    /// From a router.
    Upnp,
    /// From a gateway of ours: how it is seen through that.
    Address,
    /// From a gateway of ours: where the tunnel comes from, which is what the router at home has outside.
    Endpoint,
}

impl Told {
    fn new(address: IpAddr, gateway: IpAddr, by: Source) -> Self {
        Self {
            address,
            reach: Reach::of(address),
            gateway,
            by,
        }
    }
}

/// Asks the gateways of one family: by PCP or NAT-PMP, then by UPnP, then those of ours for what they see, each only if nobody
/// before knew an address that the Internet reaches. What was told comes back, the last the best.
pub async fn ask(asked: &[Candidate], tunnels: &[Candidate]) -> Vec<Told> {
    let mut told = Vec::new();
    if let Ok(Some(connection)) = timeout(PATIENCE, find(asked.to_vec())).await {
        told.extend(by_mapping(connection).await);
    }
    if !is_known(&told) {
        let answers = join_all(asked.iter().map(by_upnp)).await;
        take(&mut told, answers);
    }
    if !is_known(&told) {
        let named = asked.iter().filter(|it| it.kind == Kind::Named);
        let others = tunnels.iter().filter(|tunnel| {
            let is_named = |it: &Candidate| it.kind == Kind::Named && it.server == tunnel.server;
            !asked.iter().any(is_named)
        });
        let ours = named.chain(others);
        let answers = join_all(ours.map(|tunnel| by_own(tunnel, asked))).await;
        take(&mut told, answers);
    }
    told
}

/// Adds what is worth more than what is there: everything up to the first address that the Internet reaches.
fn take(told: &mut Vec<Told>, answers: Vec<Option<Told>>) {
    for answer in answers.into_iter().flatten() {
        if !is_known(told) {
            told.push(answer);
        }
    }
}

fn is_known(told: &[Told]) -> bool {
    told.iter().any(|told| told.reach == Reach::Public)
}

/// PCP tells the address with a mapping only. The port is one of a socket of ours, so nobody else's becomes open.
async fn by_mapping(connection: Connection) -> Option<Told> {
    let local = connection.candidate().local;
    let gateway = connection.candidate().server.ip();
    let socket = UdpSocket::bind(SocketAddr::new(local, 0)).await.ok()?;
    let mut holder = Holder::new(connection);
    let wanted = wanted(&socket).ok()??;
    holder.want(wanted, None).ok()?;
    let until = Instant::now() + PATIENCE;
    let mut told = None;
    while let Ok(change) = timeout_at(until, holder.next_change()).await {
        match change {
            Change::Held(holding) => {
                let by = match holding.mechanism.as_str() {
                    "nat-pmp" => Source::NatPmp,
                    _ => Source::Pcp,
                };
                told = Some(Told::new(holding.external.ip(), gateway, by));
                break;
            }
            Change::Failed(..) | Change::Absent(_) => break,
            Change::Lost(_) | Change::Released(..) | Change::Reset => {}
        }
    }
    holder.release_all();
    while !holder.is_empty() && timeout_at(until, holder.next_change()).await.is_ok() {}
    told
}

fn wanted(socket: &UdpSocket) -> io::Result<Option<Wanted>> {
    let port = NonZeroU16::new(socket.local_addr()?.port());
    Ok(port.map(|first| Wanted {
        protocol: Protocol::Udp,
        first,
        ports: 1,
        external: None,
        is_exact: false,
        lifetime: LIFETIME,
        filters: Vec::new(),
        hostnames: Vec::new(),
    }))
}

async fn by_upnp(candidate: &Candidate) -> Option<Told> {
    // A router of IPv6 knows pinholes, and no address of its own.
    if candidate.local.is_ipv6() {
        return None;
    }
    let router = Router::find(candidate).await?;
    let address = router.external_address().await?;
    let is_one = !address.is_unspecified();
    is_one.then(|| Told::new(address.into(), candidate.server.ip(), Source::Upnp))
}

/// What a gateway of ours sees of a router is the address of the tunnel that goes through it.
async fn by_own(tunnel: &Candidate, asked: &[Candidate]) -> Option<Told> {
    let is_asked = asked.iter().any(|it| it.server == tunnel.server);
    let (seen, by) = if is_asked {
        (Seen::Address, Source::Address)
    } else {
        (Seen::Endpoint, Source::Endpoint)
    };
    let answer = exchange(seen.ask(tunnel.server), tunnel.local).await;
    let address = Seen::read(&answer.ok()?)?;
    // A tunnel over the other family says nothing of this one.
    let is_one = address.is_ipv4() == tunnel.server.is_ipv4() && !address.is_unspecified();
    is_one.then(|| Told::new(address, tunnel.server.ip(), by))
}

/// Those at the far ends of tunnels, where ours are.
pub fn tunnels(candidates: &[Candidate]) -> Vec<Candidate> {
    let tunnels = candidates.iter().filter(|it| it.kind == Kind::Tunnel);
    tunnels.cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_answers_do_not_end_the_search() {
        let told = |address: &str| {
            let gateway = "192.168.1.1".parse().unwrap();
            Some(Told::new(address.parse().unwrap(), gateway, Source::Upnp))
        };
        let mut known = Vec::new();
        take(
            &mut known,
            vec![None, told("192.168.7.4"), told("100.64.0.9")],
        );
        assert!(!is_known(&known));
        take(&mut known, vec![told("198.51.100.7"), told("100.64.0.10")]);
        let reach: Vec<_> = known.iter().map(|it| it.reach).collect();
        assert_eq!(reach, [Reach::Private, Reach::Shared, Reach::Public]);
    }
}
