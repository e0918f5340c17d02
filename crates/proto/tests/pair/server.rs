//! A small server that keeps its mappings in memory: what the gateway does with the server's half.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::{Duration, Instant, SystemTime};

use adit_model::protocol::Protocol;
use adit_proto::pcp::server::{Granted, Mapping, Refused, Target, Wildcards};
use adit_proto::pcp::wire::{ErrorCode, Filter, FilterChange, Hostname, Nonce};
use adit_proto::port_control::notifier::{Announcement, Notifier};
use adit_proto::port_control::{Epoch, Policy, Received, Request, SavedEpoch, Transmit, receive};
use adit_proto::{nat_pmp, pcp};

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Both,
    PcpOnly,
    NatPmpOnly,
    Nothing,
}

#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) port: u16,
    pub(crate) ports: u16,
    pub(crate) expires: Instant,
    pub(crate) hostnames: Vec<Hostname>,
    pub(crate) filters: Vec<Filter>,
    nonce: Option<Nonce>,
    client: SocketAddr,
}

pub(crate) struct Server {
    pub(crate) speaks: Speaks,
    pub(crate) policy: Policy,
    pub(crate) external: Ipv4Addr,
    pub(crate) held: BTreeMap<(IpAddr, Target), Held>,
    pub(crate) requests: u32,
    pub(crate) most_ports: u16,
    pub(crate) longest: u32,
    /// Refuses what it might pass over.
    pub(crate) stumbles_over_sets: bool,
    /// Does not say in NAT-PMP which address it has outside.
    pub(crate) is_mute_of_address: bool,
    /// Has none outside.
    pub(crate) has_no_address: bool,
    epoch: Epoch,
    notifier: Notifier,
    next_port: u16,
}

/// The wall clock at the beginning of virtual time.
fn wall(passed: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + passed
}

impl Server {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            speaks: Speaks::Both,
            policy: Policy {
                pcp: pcp::server::Policy {
                    map: true,
                    peer: true,
                    third_party: false,
                    wildcards: Wildcards::Unsupported,
                    hostnames: true,
                },
                nat_pmp: true,
            },
            external: Ipv4Addr::new(198, 51, 100, 7),
            held: BTreeMap::new(),
            requests: 0,
            most_ports: 100,
            longest: 7200,
            stumbles_over_sets: false,
            is_mute_of_address: false,
            has_no_address: false,
            epoch: Epoch::begin(now),
            notifier: Notifier::new(),
            next_port: 40_000,
        }
    }

    /// Loses everything; tells its clients when it knows them.
    pub(crate) fn lose(&mut self, tell: bool, now: Instant) {
        self.epoch = Epoch::begin(now);
        for held in std::mem::take(&mut self.held).into_values() {
            if tell {
                let announcement = match held.nonce {
                    Some(_) => Announcement::Pcp { hostnames: true },
                    None => Announcement::NatPmp(self.external),
                };
                self.notifier.announce(held.client, announcement, now);
            }
        }
        self.next_port += 500;
    }

    /// Ends and begins again with what it stored, some time later.
    pub(crate) fn restart(&mut self, away: Duration, start: Instant, now: Instant) {
        let before = wall(now - start);
        let saved: SavedEpoch = self.epoch.save(before, now);
        self.epoch = Epoch::resume(&saved, before + away, now + away);
    }

    /// Gets another external address, keeps its mappings, and says so.
    pub(crate) fn renumber(&mut self, external: Ipv4Addr, now: Instant) {
        self.external = external;
        for ((_, target), held) in &self.held {
            let mapping = Mapping {
                nonce: held.nonce.expect("made by PCP"),
                target: *target,
                remote: None,
                third_party: None,
                prefer_failure: false,
                filters: Vec::new(),
                hostnames: held.hostnames.clone(),
            };
            let granted = self.granted(held, now);
            self.notifier.update(held.client, mapping, Ok(granted), now);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.notifier.poll_timeout()
    }

    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        self.notifier.poll_transmit(self.epoch.value(now), now)
    }

    pub(crate) fn handle_input(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        now: Instant,
    ) -> Option<Vec<u8>> {
        self.requests += 1;
        self.held.retain(|_, held| held.expires > now);
        let epoch = self.epoch.value(now);
        match self.speaks {
            Speaks::Nothing => return None,
            // RFC 6886 section 3.5.
            Speaks::NatPmpOnly if datagram[0] != 0 => {
                let [a, b, c, d] = epoch.to_be_bytes();
                return Some(vec![0, 0, 0, 1, a, b, c, d]);
            }
            Speaks::PcpOnly => self.policy.nat_pmp = false,
            Speaks::Both | Speaks::NatPmpOnly => {}
        }
        match receive(datagram, source.ip(), &self.policy, epoch) {
            Received::Silence => None,
            Received::Answer(answer) => Some(answer),
            Received::Request(Request::Pcp(request)) => {
                Some(self.pcp(&request, source, epoch, now))
            }
            Received::Request(Request::NatPmp(nat_pmp::server::Request::ExternalAddress(_)))
                if self.is_mute_of_address =>
            {
                None
            }
            Received::Request(Request::NatPmp(request)) => {
                Some(self.nat_pmp(&request, source, epoch, now))
            }
        }
    }

    fn pcp(
        &mut self,
        request: &pcp::server::Request,
        source: SocketAddr,
        epoch: u32,
        now: Instant,
    ) -> Vec<u8> {
        match request {
            pcp::server::Request::Map(map) => {
                let key = (map.internal(), map.target);
                if let Some(rest) = self.stranger(&key, map.nonce, now) {
                    return map.refused(&rest, epoch);
                }
                let Target::Port(protocol, _) = map.target else {
                    return map.refused(&ErrorCode::UnsupportedProtocol.into(), epoch);
                };
                if map.port_set.is_some() && self.stumbles_over_sets {
                    return map.refused(&ErrorCode::MalformedOption.into(), epoch);
                }
                let ports = map.port_set.map_or(1, |set| set.size.min(self.most_ports));
                let suggested = map.suggestion.port.map(NonZeroU16::get);
                let port = self.place(&key, protocol, suggested, ports);
                if map.prefer_failure && Some(port) != suggested {
                    return map.refused(&ErrorCode::CannotProvideExternal.into(), epoch);
                }
                let held = Held {
                    port,
                    ports,
                    expires: now + seconds(map.lifetime.clamp(120, self.longest)),
                    hostnames: map.hostnames.clone(),
                    filters: self.filters(&key, &map.filters),
                    nonce: Some(map.nonce),
                    client: source,
                };
                let granted = self.granted(&held, now);
                self.held.insert(key, held);
                self.notifier.renewed(source.ip(), map.target, None);
                map.granted(&granted, epoch)
            }
            pcp::server::Request::Delete(delete) => {
                let key = (delete.internal(), delete.target);
                if let Some(rest) = self.stranger(&key, delete.nonce, now) {
                    return delete.refused(&rest, epoch);
                }
                self.held.remove(&key);
                delete.deleted(epoch)
            }
            pcp::server::Request::Peer(peer) => {
                let granted = Granted {
                    external: IpAddr::V4(self.external),
                    port: Some(peer.internal_port),
                    lifetime: 300,
                    ports: 1,
                };
                peer.granted(&granted, epoch)
            }
        }
    }

    fn nat_pmp(
        &mut self,
        request: &nat_pmp::server::Request,
        source: SocketAddr,
        epoch: u32,
        now: Instant,
    ) -> Vec<u8> {
        match request {
            nat_pmp::server::Request::ExternalAddress(request) if self.has_no_address => {
                request.refused(nat_pmp::wire::ErrorCode::NetworkFailure, epoch)
            }
            nat_pmp::server::Request::ExternalAddress(request) => {
                request.granted(self.external, epoch)
            }
            nat_pmp::server::Request::Map(map) => {
                let key = (source.ip(), Target::Port(map.protocol, map.internal_port));
                let suggested = map.suggested.map(NonZeroU16::get);
                let port = self.place(&key, map.protocol, suggested, 1);
                let lifetime = map.lifetime.get().min(self.longest);
                let held = Held {
                    port,
                    ports: 1,
                    expires: now + seconds(lifetime),
                    hostnames: Vec::new(),
                    filters: Vec::new(),
                    nonce: None,
                    client: source,
                };
                self.held.insert(key, held);
                let port = NonZeroU16::new(port).expect("not zero");
                map.granted(&nat_pmp::server::Granted { port, lifetime }, epoch)
            }
            nat_pmp::server::Request::Delete(delete) => {
                let target = Target::Port(delete.protocol, delete.internal_port);
                self.held.remove(&(source.ip(), target));
                delete.deleted(epoch)
            }
            nat_pmp::server::Request::DeleteAll(delete) => {
                self.held.retain(|(client, target), _| {
                    *client != source.ip()
                        || !matches!(target, Target::Port(protocol, _) if *protocol == delete.protocol)
                });
                delete.deleted(epoch)
            }
        }
    }

    /// Those of before with what a request changes (RFC 6887 section 13.3).
    fn filters(&self, key: &(IpAddr, Target), changes: &[FilterChange]) -> Vec<Filter> {
        let before = self.held.get(key).map(|held| held.filters.clone());
        let mut filters = before.unwrap_or_default();
        for change in changes {
            match change {
                FilterChange::Clear => filters.clear(),
                FilterChange::Add(filter) => filters.push(*filter),
            }
        }
        filters
    }

    fn stranger(&self, key: &(IpAddr, Target), nonce: Nonce, now: Instant) -> Option<Refused> {
        let held = self.held.get(key).filter(|it| it.nonce != Some(nonce))?;
        let rest = held.expires.duration_since(now).as_secs();
        Some(Refused {
            code: ErrorCode::NotAuthorized,
            lifetime: u32::try_from(rest).ok(),
        })
    }

    fn place(
        &mut self,
        key: &(IpAddr, Target),
        protocol: Protocol,
        suggested: Option<u16>,
        ports: u16,
    ) -> u16 {
        if let Some(held) = self.held.get(key) {
            return held.port;
        }
        let is_free = |port: u16| {
            self.held.iter().all(|((_, target), held)| {
                !matches!(target, Target::Port(other, _) if *other == protocol)
                    || port + ports <= held.port
                    || held.port + held.ports <= port
            })
        };
        match suggested.filter(|it| *it >= 1024 && is_free(*it)) {
            Some(port) => port,
            None => {
                let port = self.next_port;
                self.next_port += ports;
                port
            }
        }
    }

    fn granted(&self, held: &Held, now: Instant) -> Granted {
        Granted {
            external: IpAddr::V4(self.external),
            port: NonZeroU16::new(held.port),
            lifetime: u32::try_from(held.expires.duration_since(now).as_secs()).expect("short"),
            ports: held.ports,
        }
    }
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(count.into())
}
