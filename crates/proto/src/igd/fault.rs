//! Why an action is not done, with the codes of UPnP and of the services.

use super::service::Service;

/// A refusal as it is told to a client.
///
/// Codes from 701 mean something else in each service, so the names are what is decided, and the number follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The service has no such action.
    InvalidAction,
    /// An argument is missing or is not of its type.
    InvalidArguments,
    ActionFailed,
    /// An argument is outside of its range.
    ArgumentOutOfRange,
    /// The client may not do this, or not to this device.
    NotAuthorized,
    /// There is no entry of that number: the end of a listing.
    ArrayIndexInvalid,
    /// There is no such mapping.
    NoSuchEntry,
    /// The remote host may not be left open.
    SourceWildcardNotPermitted,
    /// The external port may not be left open.
    ExternalPortWildcardNotPermitted,
    /// Another client has that port.
    Conflict,
    SamePortRequired,
    OnlyPermanentLeases,
    /// The remote host has to be left open.
    RemoteHostOnlyWildcard,
    ExternalPortOnlyWildcard,
    NoPortsLeft,
    /// Something that is no mapping of UPnP has that port.
    ConflictWithOtherMechanism,
    /// There is no mapping in that range.
    MappingNotFound,
    ReadOnly,
    /// The internal port may not be left open.
    InternalPortWildcardNotPermitted,
    /// The arguments contradict one another.
    Inconsistent,
    /// There is no room for another pinhole.
    PinholesExhausted,
    FirewallDisabled,
    /// Pinholes are not allowed at all.
    PinholeNotAllowed,
    /// There is no such pinhole.
    NoSuchPinhole,
    ProtocolNotSupported,
    PinholePortWildcardNotPermitted,
    ProtocolWildcardNotPermitted,
    PinholeSourceWildcardNotPermitted,
    /// Nothing went through the pinhole yet.
    NoTraffic,
    /// A code that is none of these, as other gateways send it.
    Other(u16),
}

/// What has a code in every service.
const EVERYWHERE: &[(Fault, u16, &str)] = &[
    (Fault::InvalidAction, 401, "Invalid Action"),
    (Fault::InvalidArguments, 402, "Invalid Args"),
    (Fault::ActionFailed, 501, "Action Failed"),
    (
        Fault::ArgumentOutOfRange,
        601,
        "Argument Value Out of Range",
    ),
    (Fault::NotAuthorized, 606, "Action not authorized"),
];

const MAPPINGS: &[(Fault, u16, &str)] = &[
    (Fault::ArrayIndexInvalid, 713, "SpecifiedArrayIndexInvalid"),
    (Fault::NoSuchEntry, 714, "NoSuchEntryInArray"),
    (
        Fault::SourceWildcardNotPermitted,
        715,
        "WildCardNotPermittedInSrcIP",
    ),
    (
        Fault::ExternalPortWildcardNotPermitted,
        716,
        "WildCardNotPermittedInExtPort",
    ),
    (Fault::Conflict, 718, "ConflictInMappingEntry"),
    (Fault::SamePortRequired, 724, "SamePortValuesRequired"),
    (
        Fault::OnlyPermanentLeases,
        725,
        "OnlyPermanentLeasesSupported",
    ),
    (
        Fault::RemoteHostOnlyWildcard,
        726,
        "RemoteHostOnlySupportsWildcard",
    ),
    (
        Fault::ExternalPortOnlyWildcard,
        727,
        "ExternalPortOnlySupportsWildcard",
    ),
    (Fault::NoPortsLeft, 728, "NoPortMapsAvailable"),
    (
        Fault::ConflictWithOtherMechanism,
        729,
        "ConflictWithOtherMechanisms",
    ),
    (Fault::MappingNotFound, 730, "PortMappingNotFound"),
    (Fault::ReadOnly, 731, "ReadOnly"),
    (
        Fault::InternalPortWildcardNotPermitted,
        732,
        "WildCardNotPermittedInIntPort",
    ),
    (Fault::Inconsistent, 733, "InconsistentParameters"),
];

const PINHOLES: &[(Fault, u16, &str)] = &[
    (Fault::PinholesExhausted, 701, "PinholeSpaceExhausted"),
    (Fault::FirewallDisabled, 702, "FirewallDisabled"),
    (Fault::PinholeNotAllowed, 703, "InboundPinholeNotAllowed"),
    (Fault::NoSuchPinhole, 704, "NoSuchEntry"),
    (Fault::ProtocolNotSupported, 705, "ProtocolNotSupported"),
    (
        Fault::PinholePortWildcardNotPermitted,
        706,
        "InternalPortWildcardingNotAllowed",
    ),
    (
        Fault::ProtocolWildcardNotPermitted,
        707,
        "ProtocolWildcardingNotAllowed",
    ),
    (
        Fault::PinholeSourceWildcardNotPermitted,
        708,
        "WildCardNotPermittedInSrcIP",
    ),
    (Fault::NoTraffic, 709, "NoPacketSent"),
];

impl Fault {
    /// The code and its words.
    pub fn told(self) -> (u16, &'static str) {
        if let Self::Other(code) = self {
            return (code, "Error");
        }
        [EVERYWHERE, MAPPINGS, PINHOLES]
            .into_iter()
            .flatten()
            .find(|(fault, _, _)| *fault == self)
            .map_or((501, "Action Failed"), |(_, code, words)| (*code, *words))
    }

    /// What a code means that a service answered.
    pub fn from_code(service: Service, code: u16) -> Self {
        let of_service = match service {
            Service::WanIpConnection(_) => MAPPINGS,
            Service::WanIpv6FirewallControl => PINHOLES,
            Service::Layer3Forwarding | Service::WanCommonInterfaceConfig => &[],
        };
        [EVERYWHERE, of_service]
            .into_iter()
            .flatten()
            .find(|(_, known, _)| *known == code)
            .map_or(Self::Other(code), |(fault, _, _)| *fault)
    }
}
