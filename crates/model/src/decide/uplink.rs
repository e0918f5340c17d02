//! Uplinks: what administrators say about them.

use super::Draft;
use crate::change::{Patch, SetUplink};
use crate::edit::Object;
use crate::refusal::Refusal;
use crate::state::{GatewayId, Uplink, UplinkId};

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
            return Err(Refusal::UplinkUnknown {
                name: names.join(", "),
            });
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
    let refuse = |reason: &str| {
        Err(Refusal::UplinkInvalid {
            name: name.clone(),
            reason: reason.to_owned(),
        })
    };
    if let Patch::Set(address) = patch.advertised
        && (address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast()
            || address.is_link_local()
            || address.is_broadcast())
    {
        return refuse("the advertised address is no address that the Internet can reach");
    }
    if let Patch::Set(endpoint) = &patch.endpoint
        && !is_host(endpoint)
    {
        return refuse("the endpoint must be an address or a host name, without a port");
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
    patch.advertised.apply(&mut uplink.advertised);
    patch.endpoint.apply(&mut uplink.endpoint);
    draft.set(Object::Uplink(uplink));
    Ok(())
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
    text.parse::<std::net::IpAddr>().is_ok()
        || (text.len() <= 253
            && text.trim_end_matches('.').split('.').all(label)
            && !text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.'))
}
