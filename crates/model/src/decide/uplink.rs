//! Uplinks: what administrators say about them.

use std::net::{IpAddr, Ipv4Addr};

use super::{Draft, subnet};
use crate::change::{Patch, SetUplink};
use crate::edit::Object;
use crate::refusal::Refusal;
use crate::state::{Forward, GatewayId, Uplink, UplinkId};

pub(super) fn set(
    draft: &mut Draft<'_>,
    name: Option<String>,
    patch: SetUplink,
) -> Result<(), Refusal> {
    let name = match (name, draft.uplinks.as_slice()) {
        (Some(name), _) => name,
        (None, [only]) => only.name.clone(),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|uplink| uplink.name.as_str()).collect();
            let name = if names.is_empty() {
                "default".to_owned()
            } else {
                names.join(", ")
            };
            return Err(Refusal::UplinkUnknown { name });
        }
    };
    let stored = draft.state.uplink(&name).cloned();
    if stored.is_none() && !draft.uplinks.iter().any(|uplink| uplink.name == name) {
        return Err(Refusal::UplinkUnknown { name });
    }
    if patch == SetUplink::default() {
        return Err(Refusal::NothingToChange {
            kind: "uplink",
            reference: name,
        });
    }
    if let Patch::Set(address) = patch.advertised {
        check_advertised(draft, &name, address)?;
    }
    if let Patch::Set(endpoint) = &patch.endpoint {
        check_endpoint(&name, endpoint)?;
    }
    let mut uplink = match stored {
        Some(uplink) => uplink,
        None => Uplink {
            id: UplinkId(draft.next_id()),
            gateway: GatewayId::default(),
            name: name.clone(),
            advertised: None,
            endpoint: None,
        },
    };
    let before = uplink.advertised;
    patch.advertised.apply(&mut uplink.advertised);
    if before != uplink.advertised {
        move_forwards(draft, &name, before, uplink.advertised);
    }
    patch.endpoint.apply(&mut uplink.endpoint);
    draft.set(Object::Uplink(uplink));
    Ok(())
}

/// Puts what is said of an uplink in a place that is empty; `is_known` where something was said of it before.
pub(super) fn put(draft: &mut Draft<'_>, uplink: Uplink, is_known: bool) -> Result<(), Refusal> {
    let name = &uplink.name;
    if !is_known && !draft.uplinks.iter().any(|it| it.name == *name) {
        return Err(Refusal::UplinkUnknown { name: name.clone() });
    }
    if let Some(address) = uplink.advertised {
        check_advertised(draft, name, address)?;
    }
    if let Some(endpoint) = &uplink.endpoint {
        check_endpoint(name, endpoint)?;
    }
    draft.set(Object::Uplink(uplink));
    Ok(())
}

fn refuse(name: &str, reason: &str) -> Result<(), Refusal> {
    Err(Refusal::UplinkInvalid {
        name: name.to_owned(),
        reason: reason.to_owned(),
    })
}

fn check_endpoint(name: &str, endpoint: &str) -> Result<(), Refusal> {
    if is_host(endpoint) {
        return Ok(());
    }
    refuse(
        name,
        "the endpoint must be an address or a host name, without a port",
    )
}

/// An advertised address is one uplink's alone, and no device's. Another address of the interface itself would be two places
/// at once for the forwards that name it.
fn check_advertised(draft: &Draft<'_>, name: &str, address: Ipv4Addr) -> Result<(), Refusal> {
    if address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_link_local()
        || address.is_broadcast()
    {
        return refuse(
            name,
            "the advertised address is no address that the Internet can reach",
        );
    }
    let other = draft
        .uplinks
        .iter()
        .find(|uplink| uplink.name != name && uplink.has(IpAddr::V4(address)));
    if let Some(other) = other {
        return Err(Refusal::UplinkInvalid {
            name: name.to_owned(),
            reason: format!("{address} belongs to uplink {}", other.name),
        });
    }
    let is_second =
        draft.uplinks.iter().any(|uplink| {
            uplink.name == name
                && uplink.local_ipv4() != Some(address)
                && draft.facts.addresses.iter().any(|held| {
                    held.interface == name && held.address.addr() == IpAddr::V4(address)
                })
        });
    if is_second {
        return Err(Refusal::UplinkInvalid {
            name: name.to_owned(),
            reason: format!("{address} is on the interface itself, so nothing translates it"),
        });
    }
    subnet::check_overlap(draft, IpAddr::V4(address).into(), None)
}

/// Forwards that name the old advertised address go along with it, since they meant the local address behind it.
fn move_forwards(
    draft: &mut Draft<'_>,
    name: &str,
    before: Option<Ipv4Addr>,
    after: Option<Ipv4Addr>,
) {
    let local = draft
        .uplinks
        .iter()
        .find(|uplink| uplink.name == name)
        .and_then(|uplink| uplink.local_ipv4());
    let (Some(before), Some(after)) = (before, after.or(local)) else {
        return;
    };
    let state = draft.state;
    for forward in state.forwards.values() {
        if forward.address == Some(IpAddr::V4(before)) && local != Some(before) {
            draft.set(Object::Forward(Forward {
                address: Some(IpAddr::V4(after)),
                ..forward.clone()
            }));
        }
    }
}

/// An address, or a host name of letters, digits, `-` and `.`.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.parse::<IpAddr>().is_ok()
        || (text.len() <= 253
            && text.trim_end_matches('.').split('.').all(label)
            && !text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.'))
}
