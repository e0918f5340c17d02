//! What devices are told of themselves as the Internet sees them.

use std::net::IpAddr;

use adit_model::address::is_unique_local;
use adit_model::state::DeviceId;
use adit_model::state::lease::advertised;
use adit_model::uplink::{self, place_ipv4, place_ipv6};
use adit_proto::igd::Seen;

use crate::control::{Control, Snapshot};

/// The address that a device asks for from one of its own.
pub(super) async fn tell(
    control: &Control,
    device: DeviceId,
    source: IpAddr,
    seen: Seen,
) -> Option<IpAddr> {
    match seen {
        Seen::Address => address(&control.snapshot(), device, source),
        Seen::Endpoint => {
            let key = control.snapshot().state.devices.get(&device)?.public_key;
            let of = |snapshot: &Snapshot| snapshot.peers.get(&key)?.endpoint;
            let endpoint = match of(&control.refreshed_lately().await) {
                Some(endpoint) => endpoint,
                // It may have come since.
                None => of(&control.refreshed().await)?,
            };
            Some(endpoint.ip().to_canonical())
        }
    }
}

/// Its address on the Internet's side of the gateway, of the family of one of its own.
pub(super) fn address(snapshot: &Snapshot, device: DeviceId, source: IpAddr) -> Option<IpAddr> {
    // It is not translated.
    if matches!(source, IpAddr::V6(source) if !is_unique_local(source)) {
        return Some(source);
    }
    let device = snapshot.state.devices.get(&device)?;
    let subnet = snapshot.state.subnets.get(&device.subnet)?;
    let uplinks = uplink::list(&snapshot.state, &snapshot.facts);
    let local = match source {
        IpAddr::V4(_) => place_ipv4(&uplinks, &snapshot.facts, subnet, device)?
            .1
            .into(),
        IpAddr::V6(_) => place_ipv6(&uplinks, &snapshot.facts, subnet, device)?
            .1
            .into(),
    };
    Some(advertised(local, &uplinks))
}
