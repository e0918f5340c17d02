//! Pinholes: added and changed.

use super::{Draft, check_ports, or_all};
use crate::change::{AddPinhole, SetPinhole};
use crate::edit::Object;
use crate::name;
use crate::refusal::Refusal;
use crate::state::{GatewayId, Origin, Pinhole, PinholeId};

pub(super) fn add(draft: &mut Draft<'_>, wish: AddPinhole) -> Result<(), Refusal> {
    let range = check_ports(wish.port, wish.port_end)?;
    let device = draft.state.device(&wish.device)?.id;
    let pinhole = Pinhole {
        id: PinholeId(draft.next_id()),
        gateway: GatewayId::default(),
        device,
        port: range.first(),
        port_end: range.last(),
        protocols: or_all(wish.protocols),
        label: wish.label,
        enabled: true,
        origin: Origin::Manual,
    };
    put(draft, pinhole)
}

/// Puts a pinhole in a place that has to be free.
pub(super) fn put(draft: &mut Draft<'_>, pinhole: Pinhole) -> Result<(), Refusal> {
    name::check_label(&pinhole.label)?;
    let range = check_ports(pinhole.port, pinhole.port_end)?;
    let device = draft.state.device(&pinhole.device.to_string())?;
    let ipv6 = draft
        .state
        .subnets
        .get(&device.subnet)
        .and_then(|subnet| subnet.ipv6);
    if ipv6.is_none() {
        return Err(Refusal::PinholeWithoutIpv6 {
            device: device.name.clone(),
        });
    }
    for other in draft.state.pinholes_of(device.id) {
        let Some(ports) = other.ports().filter(|ports| ports.overlaps(range)) else {
            continue;
        };
        if let Some(protocol) = pinhole.protocols.intersection(&other.protocols).next() {
            let other = format!("pinhole {} ({ports}) of device `{}`", other.id, device.name);
            return Err(Refusal::PortTaken {
                range,
                protocol: *protocol,
                other,
            });
        }
    }
    draft.set(Object::Pinhole(pinhole));
    Ok(())
}

pub(super) fn set(
    draft: &mut Draft<'_>,
    reference: &str,
    patch: SetPinhole,
) -> Result<(), Refusal> {
    let mut pinhole = draft.state.pinhole(reference)?.clone();
    if patch == SetPinhole::default() {
        return Err(Refusal::NothingToChange {
            kind: "pinhole",
            reference: reference.to_owned(),
        });
    }
    if let Some(label) = patch.label {
        name::check_label(&label)?;
        pinhole.label = label;
    }
    pinhole.enabled = patch.enabled.unwrap_or(pinhole.enabled);
    draft.set(Object::Pinhole(pinhole));
    Ok(())
}
