//! What the holder of a token for one device may change.

use crate::change::{Change, Patch, SetDevice, SetForward};
use crate::refusal::Refusal;
use crate::state::{DeviceId, State};

/// Whether a change touches nothing but what is one device's own to decide: its forwards, its pinholes, its routing, and to
/// be switched off. What it is (name, kind, addresses, delegations, expiry) and whether it is on is the administrator's.
///
/// What a change names and is not there counts as somebody else's, so that nobody can ask in this way what is there.
pub fn permits(state: &State, change: &Change, device: DeviceId) -> bool {
    let is_own = |reference: &str| {
        state
            .device(reference)
            .is_ok_and(|found| found.id == device)
    };
    match change {
        Change::SetDevice(reference, patch) => is_own(reference) && is_modest(patch),
        Change::AddForward(wish) => is_own(&wish.device),
        Change::SetForward(reference, patch) => {
            let SetForward {
                device: to,
                enabled: _,
                label: _,
                target_port: _,
                proxy_protocol: _,
            } = patch;
            owns_forward(state, reference, device) && to.as_deref().is_none_or(is_own)
        }
        Change::RemoveForward(reference) => owns_forward(state, reference, device),
        Change::AddPinhole(wish) => is_own(&wish.device),
        Change::SetPinhole(reference, _) | Change::RemovePinhole(reference) => {
            owns_pinhole(state, reference, device)
        }
        Change::RemoveLease(reference) => owns_lease(state, reference, device),
        Change::AddSubnet(_)
        | Change::RequestLease(_)
        | Change::EndLease(_)
        | Change::EndLeases(_)
        | Change::ExpireLeases(_)
        | Change::SetSubnet(..)
        | Change::RemoveSubnet { .. }
        | Change::AddDevice(_)
        | Change::RekeyDevice { .. }
        | Change::RemoveDevice(_)
        | Change::SetUplink(..)
        | Change::SetSettings(_)
        | Change::AddToken(_)
        | Change::RemoveToken(_)
        | Change::Apply(_)
        | Change::Confirm
        | Change::TakeBack(_)
        | Change::Import(_) => false,
    }
}

/// Whether a forward is there and leads to the device.
pub fn owns_forward(state: &State, reference: &str, device: DeviceId) -> bool {
    state
        .forward(reference)
        .is_ok_and(|forward| forward.device == device)
}

/// Whether a pinhole is there and is the device's.
pub fn owns_pinhole(state: &State, reference: &str, device: DeviceId) -> bool {
    state
        .pinhole(reference)
        .is_ok_and(|pinhole| pinhole.device == device)
}

/// Whether a lease is there and is the device's.
pub fn owns_lease(state: &State, reference: &str, device: DeviceId) -> bool {
    state
        .lease(reference)
        .is_ok_and(|lease| lease.device == device)
}

/// The refusal without the names of what is others'.
pub fn redact(refusal: Refusal) -> Refusal {
    if let Refusal::HostnameTaken {
        hostname,
        port,
        protocol,
        other: _,
    } = refusal
    {
        return Refusal::HostnameTaken {
            hostname,
            port,
            protocol,
            other: "another forward".to_owned(),
        };
    }
    if let Refusal::PortTaken {
        range,
        protocol,
        other: _,
    } = refusal
    {
        return Refusal::PortTaken {
            range,
            protocol,
            other: "another forward".to_owned(),
        };
    }
    if let Refusal::PortLeased {
        range, protocol, ..
    } = refusal
    {
        return Refusal::PortTaken {
            range,
            protocol,
            other: "another forward".to_owned(),
        };
    }
    refusal
}

fn is_modest(patch: &SetDevice) -> bool {
    let SetDevice {
        name,
        kind,
        routing: _,
        ipv4,
        egress,
        enabled,
        expires,
        delegate,
        revoke,
        auto_ports,
        lease_quota,
        request_rate,
        auto_port_ranges,
        third_party,
        all_ports,
    } = patch;
    name.is_none()
        && kind.is_none()
        && ipv4.is_none()
        && egress.is_keep()
        && *enabled != Some(true)
        && matches!(expires, Patch::Keep)
        && delegate.is_empty()
        && revoke.is_empty()
        && auto_ports.is_keep()
        && lease_quota.is_keep()
        && request_rate.is_keep()
        && auto_port_ranges.is_keep()
        && third_party.is_none()
        && all_ports.is_none()
}
