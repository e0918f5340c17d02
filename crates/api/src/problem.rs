//! What went wrong, as RFC 9457 writes it.

use std::fmt;

use adit_model::refusal::Refusal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The media type of problems (RFC 9457 section 3).
pub const MEDIA_TYPE: &str = "application/problem+json";

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:adit:CODE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong with what.
    pub detail: String,
    /// A stable code.
    pub code: String,
    /// What to do about it.
    pub hint: String,
}

impl Problem {
    /// A problem with a code of its own.
    pub fn new(
        status: u16,
        code: &str,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            kind: format!("urn:adit:{code}"),
            title: code.replace('-', " "),
            status,
            detail: detail.into(),
            code: code.to_owned(),
            hint: hint.into(),
        }
    }
}

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        Self::new(
            status(refusal),
            refusal.code(),
            refusal.to_string(),
            refusal.hint(),
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.detail)
    }
}

/// The HTTP status of a refusal (RFC 9110 section 15.5).
pub const fn status(refusal: &Refusal) -> u16 {
    match refusal {
        Refusal::NotFound { .. } | Refusal::UplinkUnknown { .. } => 404,
        Refusal::VersionMismatch { .. } | Refusal::RevisionMoved { .. } => 412,
        Refusal::NameTaken { .. }
        | Refusal::SubnetInUse { .. }
        | Refusal::Overlap { .. }
        | Refusal::Ipv6Collision { .. }
        | Refusal::AddressCollision { .. }
        | Refusal::AddressTaken { .. }
        | Refusal::AddressesExhausted { .. }
        | Refusal::KeyTaken { .. }
        | Refusal::DelegationExhausted { .. }
        | Refusal::DelegationCoversHost { .. }
        | Refusal::PortTaken { .. }
        | Refusal::AwaitsConfirmation { .. }
        | Refusal::NothingToConfirm { .. }
        | Refusal::NotTakenBack { .. }
        | Refusal::PortReserved { .. }
        | Refusal::PortLeased { .. }
        | Refusal::IsLease { .. }
        | Refusal::LeaseRefused { .. }
        | Refusal::ImportKeyTaken { .. } => 409,
        Refusal::NameInvalid { .. }
        | Refusal::LabelTooLong { .. }
        | Refusal::SubnetUnclear { .. }
        | Refusal::Ipv4SubnetInvalid { .. }
        | Refusal::Ipv6PrefixInvalid { .. }
        | Refusal::NoIpv6DefaultRoute { .. }
        | Refusal::EgressUnknown { .. }
        | Refusal::AddressOutside { .. }
        | Refusal::KeyInvalid { .. }
        | Refusal::ExpiryPassed { .. }
        | Refusal::DelegationInvalid { .. }
        | Refusal::ForwardAddressUnknown { .. }
        | Refusal::NoUplink { .. }
        | Refusal::RangeShifted { .. }
        | Refusal::PortInSnatRange { .. }
        | Refusal::SplitTunnel { .. }
        | Refusal::ForwardIpv6Global { .. }
        | Refusal::PinholeWithoutIpv6 { .. }
        | Refusal::HostnameUnsupported { .. }
        | Refusal::SettingInvalid { .. }
        | Refusal::UplinkInvalid { .. }
        | Refusal::DeclarationRefused { .. }
        | Refusal::ImportRefused { .. }
        | Refusal::NothingToChange { .. } => 422,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_code_its_reason_and_its_way_out() {
        let refusal = Refusal::NotFound {
            kind: "device",
            reference: "nas".to_owned(),
        };
        let problem = Problem::from(&refusal);
        assert_eq!((problem.status, problem.code.as_str()), (404, "not-found"));
        assert_eq!(problem.kind, "urn:adit:not-found");
        assert_eq!(problem.detail, "there is no device `nas`");
        assert_eq!(problem.hint, "`adit device list` shows what there is");
    }
}
