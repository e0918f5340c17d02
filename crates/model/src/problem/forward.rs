//! Problems of forwards: the host changed after they were decided.

use std::net::IpAddr;

use super::{Problem, View, problem};

pub(super) fn find(view: &View<'_>, problems: &mut Vec<Problem>) {
    for forward in view
        .state
        .forwards
        .values()
        .filter(|forward| forward.enabled)
    {
        let Some(device) = view.state.devices.get(&forward.device) else {
            continue;
        };
        let Some(subnet) = view.state.subnets.get(&device.subnet) else {
            continue;
        };
        let object = format!("forward {}", forward.id);
        let local = forward.local_addresses(subnet, device, view.uplinks, view.facts);
        let gone = |address: &IpAddr| !view.uplinks.iter().any(|uplink| uplink.has(*address));
        if local.is_empty() && !view.uplinks.is_empty() {
            problems.push(problem(
                "forward-address-gone",
                object,
                format!("the uplink of device `{}` has no address that it could be on", device.name),
                "mend the host's default route and addresses, or remove the forward and add it with an address",
            ));
            continue;
        }
        if let Some(address) = local.iter().find(|address| gone(address)) {
            problems.push(problem(
                "forward-address-gone",
                object,
                format!("no uplink has its address {address}, so nothing arrives there"),
                format!(
                    "give the host the address again, or `adit forward remove {}`",
                    forward.id
                ),
            ));
            continue;
        }
        if let Some(listener) = forward.listener(&local, view.facts) {
            let service = listener
                .process
                .as_deref()
                .unwrap_or("a service of this host");
            if let Some(hostname) = &forward.hostname {
                problems.push(problem(
                    "name-port-taken",
                    object,
                    format!(
                        "{service} listens on port {}/{} of this host, so connections for `{hostname}` do not reach device `{}`",
                        listener.port, listener.protocol, device.name
                    ),
                    format!("move the service to another port or stop it, or `adit forward remove {}`", forward.id),
                ));
                continue;
            }
            problems.push(problem(
                "forward-hides-service",
                object,
                format!(
                    "{service} listens on port {}/{} of this host, but what the Internet sends there goes to device `{}`",
                    listener.port, listener.protocol, device.name
                ),
                format!("move the service to another port, or `adit forward remove {}`", forward.id),
            ));
        }
    }
}
