//! Leases and services of the host on the same port.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use adit_lab::wait_until;
use anyhow::Result;
use serde_json::json;

use super::granted;
use crate::support::{PUBLIC4, World, at, listen, udp};

/// Sockets that may be gone soon count after ten seconds, and all are looked at then. A service that is there in that moment alone
/// suspends a lease, and not for longer than until the next look.
#[test]
fn a_service_of_a_moment_suspends_no_lease_for_good() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-leases-moment")?;
    let server = world.join("box", "--kind server")?;
    granted(&server, json!({"internal": 8720, "external": 8720}))?;
    let vps = world.host("vps")?;
    let is_suspended = || -> Result<bool> {
        let lease = world.find(
            "lease",
            &json!({"internal": format!("{}:8720", server.ipv4)}),
        )?;
        Ok(lease["suspended_by"].is_string())
    };
    // The tunnel's own socket is one of those.
    thread::sleep(Duration::from_secs(12));
    let _question = udp(&vps, at(Ipv4Addr::UNSPECIFIED, 40_000))?;
    vps.exec("ip route add 192.0.2.77 dev eth0".split(' '))?;
    thread::sleep(Duration::from_millis(9500));
    let service = listen(&vps, at(PUBLIC4, 8720))?;
    wait_until(
        "the lease is suspended",
        Duration::from_secs(8),
        is_suspended,
    )?;
    drop(service);
    wait_until("the lease is back", Duration::from_secs(45), || {
        Ok(!is_suspended()?)
    })
}
