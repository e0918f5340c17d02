//! Tells in the status who overloads the dataplane, by the names of devices.

use std::sync::Weak;

use adit_host::policing::Policed;
use adit_model::problem::Problem;
use tokio::sync::watch;

use crate::control::{Control, Snapshot};

const CODE: &str = "dataplane-overloaded";

/// Sources that are named.
const NAMED: usize = 3;

/// Keeps the problem as the host tells it, until the daemon ends.
pub(crate) async fn tell(control: Weak<Control>, mut policed: watch::Receiver<Option<Policed>>) {
    loop {
        let now = policed.borrow_and_update().clone();
        let Some(control) = control.upgrade() else {
            return;
        };
        match now {
            Some(policed) => {
                let snapshot = control.refreshed().await;
                control.troubles.set(problem(&policed, &snapshot));
            }
            None => control.troubles.clear(CODE),
        }
        drop(control);
        if policed.changed().await.is_err() {
            return;
        }
    }
}

fn problem(policed: &Policed, snapshot: &Snapshot) -> Problem {
    let mut flooding = None;
    let mut named = Vec::new();
    for source in policed.sources.iter().take(NAMED) {
        let mut connected = snapshot.connected();
        let device = connected
            .find(|(_, peer)| peer.endpoint == Some(source.endpoint))
            .map(|(device, _)| &device.name);
        flooding = flooding.or(device);
        named.push(match device {
            Some(name) => format!("device {name} ({})", source.endpoint),
            None => source.endpoint.to_string(),
        });
    }
    let from = if named.is_empty() {
        String::new()
    } else {
        format!(" Most of it comes from {}.", named.join(", "))
    };
    let fix = match flooding {
        Some(name) => format!(
            "if that is not wanted: `adit device set {name} --disable`, or `adit device rekey {name}` if its key was stolen; {MORE}"
        ),
        None => MORE.to_owned(),
    };
    Problem {
        code: CODE.to_owned(),
        object: format!("interface {}", snapshot.interface),
        message: format!(
            "more arrives than the dataplane ({}) can carry, so each source is held to {} packets per second for now.{from}",
            snapshot.dataplane, policed.limit
        ),
        fix,
    }
}

const MORE: &str = "the kernel's WireGuard and more cores carry more; the limit ends by itself";
