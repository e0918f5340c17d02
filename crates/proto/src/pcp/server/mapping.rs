//! A mapping that changed without being asked for (RFC 6887 section 14.2).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;

use super::super::wire::{
    Body, ErrorCode, Filter, FilterChange, Hostname, MapBody, Nonce, PcpOption, PeerBody, PortSet,
    success,
};
use super::{Granted, Refused, Target};
use crate::octets::overwrite;

/// Place of the result code in a response.
const RESULT: usize = 3;

/// What a client asked for, as far as an update tells it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// That of the request.
    pub nonce: Nonce,
    /// What it leads to.
    pub target: Target,
    /// The other end, when it was made by PEER.
    pub remote: Option<SocketAddr>,
    /// Whom it is for, if not for the client.
    pub third_party: Option<IpAddr>,
    /// Whether the client wants nothing but what it has.
    pub prefer_failure: bool,
    /// Who may come in.
    pub filters: Vec<Filter>,
    /// TLS names that lead to it.
    pub hostnames: Vec<Hostname>,
}

impl Mapping {
    /// The answer to the request as it would be now. A mapping that cannot stay with PREFER_FAILURE is refused with
    /// CANNOT_PROVIDE_EXTERNAL.
    pub fn update(&self, outcome: &Result<Granted, Refused>, epoch: u32) -> Vec<u8> {
        let (external, port, lifetime, ports) = match outcome {
            Ok(it) => (it.external, it.port, it.lifetime, it.ports),
            Err(it) => {
                let none = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                let lifetime = it.lifetime.unwrap_or_else(|| it.code.usual_lifetime());
                (none, None, lifetime, 1)
            }
        };
        let (protocol, internal_port) = match self.target {
            Target::Port(protocol, port) => (protocol.number(), port.get()),
            Target::AllPorts(protocol) => (protocol.number(), 0),
            Target::AllProtocols => (0, 0),
        };
        let map = MapBody {
            nonce: self.nonce,
            protocol,
            internal_port,
            external_port: port.map_or(0, NonZeroU16::get),
            external,
        };
        let body = match self.remote {
            None => Body::Map(map),
            Some(remote) => Body::Peer(PeerBody {
                map,
                remote_port: remote.port(),
                remote: remote.ip(),
            }),
        };
        let mut message = success(&body, lifetime, epoch);
        let code = outcome.as_ref().err().map(|it| it.code);
        overwrite(&mut message, RESULT, &[code.map_or(0, ErrorCode::number)]);
        for option in self.options(internal_port, ports) {
            option.encode(&mut message);
        }
        message
    }

    fn options(&self, first_internal: u16, ports: u16) -> Vec<PcpOption> {
        let mut options: Vec<_> = self
            .third_party
            .map(PcpOption::ThirdParty)
            .into_iter()
            .collect();
        if self.prefer_failure {
            options.push(PcpOption::PreferFailure);
        }
        let filters = self.filters.iter().copied().map(FilterChange::Add);
        options.extend(filters.map(PcpOption::Filter));
        if ports > 1 {
            options.push(PcpOption::PortSet(PortSet {
                size: ports,
                first_internal,
                parity: false,
            }));
        }
        options.extend(self.hostnames.iter().cloned().map(PcpOption::Hostname));
        options
    }
}
