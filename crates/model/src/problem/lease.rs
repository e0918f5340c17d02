//! Problems of leases: a service of this host came to listen on a port that a device has opened.

use super::{Problem, View, problem};

pub(super) fn find(view: &View<'_>, problems: &mut Vec<Problem>) {
    if view.facts.listeners.is_empty() {
        return;
    }
    let leases = view.state.leases.values();
    for lease in leases.filter(|lease| lease.is_valid(view.now)) {
        let place = view.state.lease_place(lease, view.uplinks, view.facts);
        let Some((_, Some(listener))) = place else {
            continue;
        };
        let device = view.state.devices.get(&lease.device);
        let name = device.map_or("?", |device| device.name.as_str());
        let service = listener
            .process
            .as_deref()
            .unwrap_or("a service of this host");
        problems.push(problem(
            "lease-suspended",
            format!("lease {}", lease.id),
            format!(
                "device `{name}` opened port {}/{} by itself, but {service} listens there by now, so the port does not lead to the device",
                listener.port, listener.protocol
            ),
            format!("move the service to another port, or `adit lease remove {}`", lease.id),
        ));
    }
}
