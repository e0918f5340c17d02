//! What a refusal is in the words of UPnP (RFC 6970 §4.3).

use adit_model::refusal::LeaseRefusal;
use adit_proto::igd::{Fault, Service, Version};

use crate::ports::outcome::Failure;

/// What was asked for when it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Obtain,
    End,
}

/// The fault for what did not come about. Version 1 has fewer of them.
pub(super) fn of(failure: &Failure, service: Service, purpose: Purpose) -> Fault {
    let refusal = match failure {
        Failure::Refused(refusal) => refusal,
        Failure::Gateway => return Fault::ActionFailed,
    };
    match service {
        Service::WanIpv6FirewallControl => of_pinhole(refusal, purpose),
        Service::WanIpConnection(version) => of_mapping(refusal, version, purpose),
        Service::Layer3Forwarding | Service::WanCommonInterfaceConfig => Fault::ActionFailed,
    }
}

fn of_mapping(refusal: &LeaseRefusal, version: Version, purpose: Purpose) -> Fault {
    match (refusal, purpose) {
        (
            LeaseRefusal::NotAllowed
            | LeaseRefusal::ThirdParty
            | LeaseRefusal::WrongNonce { .. }
            | LeaseRefusal::NotOwner,
            _,
        ) => match (version, purpose) {
            (Version::One, Purpose::Obtain) => Fault::Conflict,
            (Version::One, Purpose::End) => Fault::NoSuchEntry,
            (Version::Two, _) => Fault::NotAuthorized,
        },
        (LeaseRefusal::AllPorts, _) => match version {
            Version::One => Fault::InvalidArguments,
            Version::Two => Fault::InternalPortWildcardNotPermitted,
        },
        (LeaseRefusal::Quota { .. } | LeaseRefusal::Exhausted, _) => match version {
            Version::One => Fault::ActionFailed,
            Version::Two => Fault::NoPortsLeft,
        },
        (LeaseRefusal::Unavailable { .. }, Purpose::Obtain) => Fault::Conflict,
        (LeaseRefusal::Unavailable { .. } | LeaseRefusal::Outbound, _) => Fault::NoSuchEntry,
        (
            LeaseRefusal::Filters { .. }
            | LeaseRefusal::NoAddress
            | LeaseRefusal::Hostnames
            | LeaseRefusal::HostnameTaken { .. },
            _,
        ) => Fault::ActionFailed,
    }
}

fn of_pinhole(refusal: &LeaseRefusal, purpose: Purpose) -> Fault {
    match refusal {
        LeaseRefusal::NotAllowed
        | LeaseRefusal::ThirdParty
        | LeaseRefusal::WrongNonce { .. }
        | LeaseRefusal::NotOwner
        // What another protocol opened lets in whom it was asked to.
        | LeaseRefusal::Filters { limit: 0 } => Fault::NotAuthorized,
        LeaseRefusal::AllPorts => Fault::PinholePortWildcardNotPermitted,
        LeaseRefusal::Quota { .. } | LeaseRefusal::Exhausted | LeaseRefusal::Filters { .. } => {
            Fault::PinholesExhausted
        }
        LeaseRefusal::Unavailable { .. } => match purpose {
            Purpose::Obtain => Fault::PinholeNotAllowed,
            Purpose::End => Fault::NoSuchPinhole,
        },
        LeaseRefusal::Outbound => Fault::NoSuchPinhole,
        LeaseRefusal::NoAddress | LeaseRefusal::Hostnames | LeaseRefusal::HostnameTaken { .. } => {
            Fault::ActionFailed
        }
    }
}
