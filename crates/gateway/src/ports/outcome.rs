//! What became of a request, in the words of each protocol.

use std::net::IpAddr;
use std::num::NonZeroU16;

use adit_model::decide::lease::Grant;
use adit_model::refusal::LeaseRefusal;
use adit_proto::nat_pmp::server as nat_pmp;
use adit_proto::pcp::server as pcp;
use adit_proto::pcp::wire::ErrorCode;
use adit_proto::port_control::Request;

use super::NatPmpCode;

/// How long a port stays taken after its lease, in seconds (RFC 6887 section 13.2).
const AFTERWARDS: u32 = 120;

/// What became of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    Granted(Grant),
    Ended,
    Address(IpAddr),
    Failed(Failure),
}

/// Why nothing became of it.
#[derive(Debug)]
pub(super) enum Failure {
    /// It was refused.
    Refused(LeaseRefusal),
    /// The gateway could not do it: its disk or its kernel failed.
    Gateway,
}

impl Outcome {
    /// The word by which it is counted.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Granted(_) => "granted",
            Self::Ended => "ended",
            Self::Address(_) => "address",
            Self::Failed(Failure::Refused(_)) => "refused",
            Self::Failed(Failure::Gateway) => "failed",
        }
    }
}

impl Failure {
    pub(super) const fn no_address() -> Self {
        Self::Refused(LeaseRefusal::NoAddress)
    }

    /// Not all could be ended.
    pub(super) const fn left() -> Self {
        Self::Refused(LeaseRefusal::NotOwner)
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The answer to a request.
pub(super) fn answer(request: &Request, outcome: &Outcome, epoch: u32) -> Vec<u8> {
    match request {
        Request::Pcp(pcp::Request::Map(map)) => match pcp_grant(outcome) {
            Ok(granted) => map.granted(&granted, epoch),
            Err(refused) => map.refused(&refused, epoch),
        },
        Request::Pcp(pcp::Request::Peer(peer)) => match pcp_grant(outcome) {
            Ok(granted) => peer.granted(&granted, epoch),
            Err(refused) => peer.refused(&refused, epoch),
        },
        Request::Pcp(pcp::Request::Delete(delete)) => match outcome {
            Outcome::Failed(failure) => delete.refused(&pcp_code(failure), epoch),
            Outcome::Granted(_) | Outcome::Ended | Outcome::Address(_) => delete.deleted(epoch),
        },
        Request::NatPmp(request) => nat_pmp_answer(request, outcome, epoch),
    }
}

/// A grant in the words of PCP.
pub(super) fn granted_by_pcp(grant: &Grant) -> pcp::Granted {
    pcp::Granted {
        external: grant.address,
        port: NonZeroU16::new(grant.external).filter(|_| !grant.is_whole),
        lifetime: grant.lifetime,
        ports: if grant.is_whole { 1 } else { grant.count },
    }
}

fn pcp_grant(outcome: &Outcome) -> Result<pcp::Granted, pcp::Refused> {
    match outcome {
        Outcome::Granted(grant) => Ok(granted_by_pcp(grant)),
        Outcome::Failed(failure) => Err(pcp_code(failure)),
        Outcome::Ended | Outcome::Address(_) => Err(ErrorCode::NetworkFailure.into()),
    }
}

/// RFC 6887 section 7.4.
pub(super) fn pcp_code(failure: &Failure) -> pcp::Refused {
    let Failure::Refused(reason) = failure else {
        return ErrorCode::NetworkFailure.into();
    };
    match reason {
        LeaseRefusal::WrongNonce { remaining } => pcp::Refused {
            code: ErrorCode::NotAuthorized,
            lifetime: Some(*remaining),
        },
        LeaseRefusal::NotAllowed | LeaseRefusal::NotOwner | LeaseRefusal::Outbound => {
            ErrorCode::NotAuthorized.into()
        }
        LeaseRefusal::ThirdParty => ErrorCode::UnsupportedOption.into(),
        LeaseRefusal::AllPorts => ErrorCode::UnsupportedProtocol.into(),
        LeaseRefusal::Quota { .. } => ErrorCode::QuotaExceeded.into(),
        LeaseRefusal::Exhausted => ErrorCode::NoResources.into(),
        LeaseRefusal::Unavailable { remaining, .. } => pcp::Refused {
            code: ErrorCode::CannotProvideExternal,
            lifetime: remaining.map(|remaining| remaining.saturating_add(AFTERWARDS)),
        },
        LeaseRefusal::Filters { .. } => ErrorCode::ExcessiveRemotePeers.into(),
        LeaseRefusal::NoAddress => ErrorCode::NetworkFailure.into(),
        LeaseRefusal::Hostnames => ErrorCode::HostnameUnsupported.into(),
        LeaseRefusal::HostnameTaken { .. } => ErrorCode::HostnameTaken.into(),
    }
}

fn nat_pmp_answer(request: &nat_pmp::Request, outcome: &Outcome, epoch: u32) -> Vec<u8> {
    match request {
        nat_pmp::Request::ExternalAddress(request) => match outcome {
            Outcome::Address(IpAddr::V4(address)) => request.granted(*address, epoch),
            Outcome::Failed(failure) => request.refused(nat_pmp_code(failure), epoch),
            Outcome::Address(IpAddr::V6(_)) | Outcome::Granted(_) | Outcome::Ended => {
                request.refused(NatPmpCode::NetworkFailure, epoch)
            }
        },
        nat_pmp::Request::Map(map) => match outcome {
            Outcome::Granted(grant) => match NonZeroU16::new(grant.external) {
                Some(port) => {
                    // Not more than was asked, where an administrator opened it for ever.
                    let lifetime = grant.lifetime.min(map.lifetime.get());
                    map.granted(&nat_pmp::Granted { port, lifetime }, epoch)
                }
                None => map.refused(NatPmpCode::OutOfResources, epoch),
            },
            Outcome::Failed(failure) => map.refused(nat_pmp_code(failure), epoch),
            Outcome::Ended | Outcome::Address(_) => map.refused(NatPmpCode::NetworkFailure, epoch),
        },
        nat_pmp::Request::Delete(delete) => match outcome {
            Outcome::Failed(failure) => delete.refused(nat_pmp_code(failure), epoch),
            Outcome::Granted(_) | Outcome::Ended | Outcome::Address(_) => delete.deleted(epoch),
        },
        nat_pmp::Request::DeleteAll(all) => match outcome {
            Outcome::Failed(failure) => all.refused(nat_pmp_code(failure), epoch),
            Outcome::Granted(_) | Outcome::Ended | Outcome::Address(_) => all.deleted(epoch),
        },
    }
}

/// RFC 6886 section 3.5.
fn nat_pmp_code(failure: &Failure) -> NatPmpCode {
    let Failure::Refused(reason) = failure else {
        return NatPmpCode::NetworkFailure;
    };
    match reason {
        LeaseRefusal::NotAllowed
        | LeaseRefusal::ThirdParty
        | LeaseRefusal::AllPorts
        | LeaseRefusal::WrongNonce { .. }
        | LeaseRefusal::NotOwner
        | LeaseRefusal::Outbound
        | LeaseRefusal::Filters { .. }
        | LeaseRefusal::Hostnames
        | LeaseRefusal::HostnameTaken { .. } => NatPmpCode::Refused,
        LeaseRefusal::Quota { .. } | LeaseRefusal::Exhausted | LeaseRefusal::Unavailable { .. } => {
            NatPmpCode::OutOfResources
        }
        LeaseRefusal::NoAddress => NatPmpCode::NetworkFailure,
    }
}
