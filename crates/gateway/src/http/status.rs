//! The state of the whole gateway.

use std::cmp::Reverse;
use std::sync::Arc;

use adit_api::timestamp::Timestamp;
use adit_api::types::confirmation::Awaiting;
use adit_api::types::status::{
    Api, Counts, Front, FrontRefused, Mtu, Status, StatusDevice, StatusProblem, StatusSubnet,
};
use adit_host::wireguard;
use adit_model::state::Device;
use axum::Json;
use axum::extract::State;

use super::answer::Failure;
use super::view;
use crate::control::{Control, PeerStatus, Snapshot};
use crate::names;

/// Objects of one kind that are told; the counts are those of all.
const SHOWN: usize = 20;

/// What is up, and what is wrong.
#[utoipa::path(
    get,
    path = "/status",
    operation_id = "show_status",
    tag = "gateway",
    responses((status = 200, description = "The state", body = Status), Failure)
)]
pub(super) async fn show(State(control): State<Arc<Control>>) -> Json<Status> {
    Json(status(&control.refreshed().await))
}

const fn front(counts: names::Counts) -> Front {
    let names::Counts {
        connections,
        waiting,
        flows,
        failures,
    } = counts;
    Front {
        connections,
        flows,
        waiting,
        refused: FrontRefused {
            limited: failures.limited,
            unknown_name: failures.unknown_name,
            too_slow: failures.too_slow,
            malformed: failures.malformed,
            unreachable: failures.unreachable,
        },
    }
}

fn status(snapshot: &Snapshot) -> Status {
    let state = &snapshot.state;
    let mut connected: Vec<(&Device, &PeerStatus)> = snapshot.connected().collect();
    connected.sort_by_key(|(device, peer)| (Reverse(peer.last_handshake), device.id));
    let now = Timestamp::from(snapshot.now).0;
    let unseen: Vec<&Device> = state
        .devices
        .values()
        .filter(|device| {
            let peer = snapshot.peers.get(&device.public_key);
            device.is_active(now) && peer.is_none_or(|peer| peer.last_handshake.is_none())
        })
        .collect();
    Status {
        revision: state.revision,
        applied: snapshot.applied,
        awaiting: state.confirmation.as_ref().map(|awaiting| Awaiting {
            revision: awaiting.revision,
            deadline: Timestamp(awaiting.deadline),
        }),
        dataplane: snapshot.dataplane.to_owned(),
        dataplane_reason: reason(snapshot.dataplane, wireguard::is_in_kernel()).to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        interface: snapshot.interface.clone(),
        listen_port: state.settings.listen_port,
        public_key: snapshot.gateway_key,
        problems: snapshot
            .all_problems()
            .iter()
            .map(StatusProblem::from)
            .collect(),
        healed: snapshot
            .healed
            .iter()
            .map(|(kind, count)| ((*kind).to_owned(), *count))
            .collect(),
        counts: Counts {
            devices: state.devices.len(),
            connected: connected.len(),
            unseen: unseen.len(),
            subnets: state.subnets.len(),
            forwards: state.forwards.len(),
            pinholes: state.pinholes.len(),
            leases: (state.leases.values())
                .filter(|lease| lease.is_open())
                .count(),
        },
        front: snapshot.holding.counts().map(front),
        mtu: Mtu {
            value: snapshot.mtu,
            reason: snapshot.mtu_reason.clone(),
        },
        uplinks: snapshot
            .uplinks
            .iter()
            .map(|shown| view::uplink(snapshot, shown))
            .collect(),
        api: snapshot.api.as_ref().map(|api| Api {
            address: api.address,
            tls: api.fingerprint.is_some(),
            fingerprint: api.fingerprint.clone(),
        }),
        subnets: state
            .subnets
            .values()
            .take(SHOWN)
            .map(|subnet| StatusSubnet {
                name: subnet.name.clone(),
                ipv4: subnet.ipv4,
                ipv6: subnet.ipv6,
                devices: state.devices_of(subnet.id).count(),
            })
            .collect(),
        connected: connected
            .into_iter()
            .take(SHOWN)
            .map(|(device, peer)| StatusDevice {
                id: device.id.0,
                name: device.name.clone(),
                ipv4: device.ipv4,
                endpoint: peer.endpoint,
                last_handshake: peer.last_handshake.map(Timestamp::from),
                received_bytes: peer.received,
                sent_bytes: peer.sent,
            })
            .collect(),
        unseen: unseen
            .into_iter()
            .take(SHOWN)
            .map(|device| device.name.clone())
            .collect(),
    }
}

/// Why that carries the packets, for people.
fn reason(dataplane: &str, is_in_kernel: bool) -> &'static str {
    match (dataplane, is_in_kernel) {
        ("kernel", _) => "this kernel has WireGuard",
        ("none", _) => "nothing has been started yet",
        (_, false) => "this kernel has no WireGuard",
        (_, true) => {
            "it was there before this kernel had WireGuard: `adit gateway teardown` and a start change over"
        }
    }
}
