//! Programs that open their port by themselves, where the tunnel is the way to the Internet.

use std::time::Duration;

use adit_lab::wait_until;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{TOLD, leases, port_of, run, says};
use crate::support::{PUBLIC4, World, at, connect};

/// The port that Transmission wishes for unless told otherwise.
const PORT: u16 = 51413;

#[test]
fn transmission_opens_its_port_and_closes_it() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-igd-programs")?;
    world.adit(&format!(
        "uplink set --advertised {TOLD} --endpoint {PUBLIC4}"
    ))?;
    let device = world.join("box", "--kind server --routing full")?;
    // Nobody has to say by which interface it is to search.
    says(&run(&device, "upnpc -s")?, "Found valid IGD")?;

    let folder = device.host.folder()?.join("transmission");
    std::fs::create_dir_all(&folder)?;
    let settings = json!({
        "peer-port": PORT,
        "port-forwarding-enabled": true,
        "download-dir": folder,
        "dht-enabled": false,
        "lpd-enabled": false,
        "rpc-bind-address": "127.0.0.1",
    });
    std::fs::write(folder.join("settings.json"), settings.to_string())?;
    let folder = folder.to_str().context("a folder with a name")?;
    let mut transmission = device.host.spawn([
        "transmission-daemon",
        "--foreground",
        "--log-debug",
        "--config-dir",
        folder,
    ])?;
    let opened = wait_until("a port for Transmission", Duration::from_secs(90), || {
        let leases = leases(&world, "box")?;
        let ports: Vec<u16> = leases
            .iter()
            .filter_map(|lease| port_of(lease, "external").ok())
            .collect();
        ensure!(ports.contains(&PORT), "{leases:?}");
        Ok(true)
    });
    if let Err(error) = opened {
        let output = transmission.stop()?;
        return Err(error.context(output.to_string()));
    }
    let lease = world.find("lease", &json!({"device": "box", "protocol": "tcp"}))?;
    ensure!(lease["mechanism"] == "upnp", "{lease}");
    connect(
        &world.host("internet")?,
        None,
        at(PUBLIC4, PORT),
        Duration::from_secs(5),
    )?;
    transmission.stop()?;
    wait_until(
        "Transmission's port to be closed",
        Duration::from_secs(30),
        || {
            let leases = leases(&world, "box")?;
            ensure!(leases.is_empty(), "{leases:?}");
            Ok(true)
        },
    )
}
