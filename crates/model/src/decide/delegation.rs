//! Delegations: prefixes for the network behind a device.

use std::net::IpAddr;

use ipnet::IpNet;

use super::occupancy::Occupancy;
use super::{Draft, subnet as subnets};
use crate::address;
use crate::change::DelegationWish;
use crate::edit::{Key, Object};
use crate::refusal::Refusal;
use crate::state::{Delegation, DelegationId, Device, Subnet};

/// Adds the prefixes that are wanted for a device; `occupied` is what is taken of its subnet's prefix.
pub(super) fn add(
    draft: &mut Draft<'_>,
    subnet: &Subnet,
    device: &Device,
    occupied: &mut Occupancy<'_>,
    wishes: &[DelegationWish],
) -> Result<(), Refusal> {
    let mut taken: Vec<IpNet> = Vec::new();
    for wish in wishes {
        let prefix = match *wish {
            DelegationWish::Length(length) => choose(subnet, occupied, length)?,
            DelegationWish::Prefix(prefix) => check(draft, subnet, occupied, prefix)?,
        };
        if let Some(other) = taken
            .iter()
            .find(|other| other.contains(&prefix) || prefix.contains(*other))
        {
            let owner = format!("device `{}` (delegation)", device.name);
            return Err(Refusal::Overlap {
                network: prefix,
                other: *other,
                owner,
            });
        }
        if let IpNet::V6(net) = prefix {
            occupied.take_prefix(net, format!("device `{}` (delegation {net})", device.name));
        }
        taken.push(prefix);
        let id = DelegationId(draft.next_id());
        draft.set(Object::Delegation(Delegation {
            id,
            device: device.id,
            prefix,
        }));
    }
    Ok(())
}

/// Takes prefixes back; the same change may delegate what becomes free.
pub(super) fn revoke(
    draft: &mut Draft<'_>,
    device: &Device,
    prefixes: &[IpNet],
) -> Result<(), Refusal> {
    for prefix in prefixes {
        let delegation = draft
            .state
            .delegations_of(device.id)
            .find(|delegation| delegation.prefix == *prefix);
        let id = delegation
            .ok_or_else(|| Refusal::DelegationInvalid {
                prefix: prefix.to_string(),
                reason: format!("device `{}` does not have it", device.name),
            })?
            .id;
        if draft.revoked.insert(id) {
            draft.remove(Key::Delegation(id));
        }
    }
    Ok(())
}

fn choose(subnet: &Subnet, occupied: &Occupancy<'_>, length: u8) -> Result<IpNet, Refusal> {
    let Some(prefix) = subnet.ipv6 else {
        return Err(Refusal::DelegationInvalid {
            prefix: format!("/{length}"),
            reason: format!(
                "subnet `{}` has no IPv6 prefix to take it from",
                subnet.name
            ),
        });
    };
    if length <= prefix.prefix_len() || length > 128 {
        return Err(Refusal::DelegationInvalid {
            prefix: format!("/{length}"),
            reason: format!(
                "it must be longer than the /{} of subnet `{}`, and at most 128",
                prefix.prefix_len(),
                subnet.name
            ),
        });
    }
    let free = occupied.lowest_free(prefix, length);
    free.map(IpNet::V6)
        .ok_or_else(|| Refusal::DelegationExhausted {
            length,
            subnet: subnet.name.clone(),
            prefix: prefix.to_string(),
        })
}

fn check(
    draft: &Draft<'_>,
    subnet: &Subnet,
    occupied: &Occupancy<'_>,
    prefix: IpNet,
) -> Result<IpNet, Refusal> {
    let refuse = |reason: String| {
        Err(Refusal::DelegationInvalid {
            prefix: prefix.to_string(),
            reason,
        })
    };
    if prefix.addr() != prefix.network() {
        return refuse(format!(
            "it has host bits set; the prefix is {}",
            prefix.trunc()
        ));
    }
    let special = match prefix {
        IpNet::V4(net) => subnets::special_ipv4(net),
        IpNet::V6(net) => subnets::special_ipv6(net),
    };
    if let Some(reason) = special {
        return refuse(reason.to_owned());
    }
    match prefix {
        IpNet::V4(net) if net.prefix_len() < 8 => {
            return refuse("an IPv4 prefix must be /8 or longer".to_owned());
        }
        IpNet::V6(net) if net.prefix_len() < 16 => {
            return refuse("an IPv6 prefix must be /16 or longer".to_owned());
        }
        IpNet::V4(_) | IpNet::V6(_) => {}
    }
    let inside_own = match (prefix, subnet.ipv6) {
        (IpNet::V6(net), Some(own)) => own.contains(&net) && own != net,
        (IpNet::V4(_) | IpNet::V6(_), _) => false,
    };
    if let (IpNet::V6(net), true) = (prefix, inside_own) {
        if let Some((host, owner)) = occupied.inside(net) {
            return Err(Refusal::DelegationCoversHost {
                prefix,
                address: IpAddr::V6(host),
                owner,
            });
        }
        return Ok(prefix);
    }
    subnets::check_overlap(draft, prefix, None)?;
    // A prefix of its own may be part of what an IPv6 uplink has on its link, but never take the link's own hosts away.
    match prefix {
        IpNet::V4(_) => subnets::check_uplinks(draft, prefix)?,
        IpNet::V6(net) => {
            if let Some((address, owner)) = draft.reserved_in(prefix) {
                return Err(Refusal::DelegationCoversHost {
                    prefix,
                    address,
                    owner: owner.to_owned(),
                });
            }
            if address::is_unique_local(net.network()) && net.prefix_len() < 48 {
                return refuse("a unique local prefix must be /48 or longer (RFC 4193)".to_owned());
            }
        }
    }
    Ok(prefix)
}
