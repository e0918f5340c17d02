//! Programs that open their port by themselves, where the tunnel is the way to the Internet. Nobody tells them by which interface
//! to search.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_lab::{Process, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{TOLD, leases, port_of, run, says};
use crate::support::{Device, Findings, PUBLIC4, World, at, connect};

#[test]
fn programs_open_their_ports_by_themselves() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-igd-programs")?;
    world.adit(&format!(
        "uplink set --advertised {TOLD} --endpoint {PUBLIC4}"
    ))?;
    let device = world.join("box", "--kind server --routing full")?;
    let mut findings = Findings::default();
    findings.check("upnpc", says(&run(&device, "upnpc -s")?, "Found valid IGD"));
    findings.check("Transmission", transmission(&world, &device));
    findings.check("qBittorrent", qbittorrent(&world, &device));
    findings.check("Syncthing", syncthing(&world, &device));
    findings.conclude()
}

fn transmission(world: &World, device: &Device) -> Result<()> {
    let folder = folder(device, "transmission")?;
    let settings = json!({
        "peer-port": 51413,
        "port-forwarding-enabled": true,
        "download-dir": folder,
        "dht-enabled": false,
        "lpd-enabled": false,
        "rpc-bind-address": "127.0.0.1",
    });
    fs::write(folder.join("settings.json"), settings.to_string())?;
    let mut program = start(
        device,
        &folder,
        "transmission-daemon --foreground --config-dir FOLDER",
    )?;
    let lease = reached(world, &mut program, 51413)?;
    ensure!(port_of(&lease, "external")? == 51413, "{lease}");
    program.stop()?;
    wait_until(
        "Transmission's port to be closed",
        Duration::from_secs(30),
        || {
            let leases = leases(world, "box")?;
            ensure!(leases.is_empty(), "{leases:?}");
            Ok(true)
        },
    )
}

fn qbittorrent(world: &World, device: &Device) -> Result<()> {
    let folder = folder(device, "qbittorrent")?;
    let configuration = folder.join("qBittorrent/config");
    fs::create_dir_all(&configuration)?;
    let settings = "[LegalNotice]\nAccepted=true\n[BitTorrent]\nSession\\Port=51500\n[Network]\n\
        PortForwardingEnabled=true\n[Preferences]\nWebUI\\Address=127.0.0.1\nWebUI\\UseUPnP=false\n";
    fs::write(configuration.join("qBittorrent.conf"), settings)?;
    let mut program = start(device, &folder, "qbittorrent-nox --profile=FOLDER")?;
    reached(world, &mut program, 51500)?;
    program.stop()?;
    Ok(())
}

fn syncthing(world: &World, device: &Device) -> Result<()> {
    let folder = folder(device, "syncthing")?;
    let generate = ["syncthing", "generate", "--no-default-folder", "--home"];
    device.host.exec(
        generate
            .into_iter()
            .map(Path::new)
            .chain([folder.as_path()]),
    )?;
    let command = "syncthing serve --no-browser --no-restart --home FOLDER";
    let mut program = start(device, &folder, command)?;
    // It wishes for a public port of its own choice.
    reached(world, &mut program, 22000)?;
    program.stop()?;
    Ok(())
}

fn folder(device: &Device, name: &str) -> Result<PathBuf> {
    let folder = device.host.folder()?.join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Starts a program whose home is a folder; `FOLDER` in a word stands for it.
fn start(device: &Device, folder: &Path, command: &str) -> Result<Process> {
    let folder = folder.to_str().context("a folder with a name")?;
    let command = format!("env HOME=FOLDER {command}").replace("FOLDER", folder);
    device.host.spawn(command.split_whitespace())
}

/// The lease for a port of a program's, through which the Internet reaches it.
fn reached(world: &World, program: &mut Process, port: u16) -> Result<Value> {
    let mut found = None;
    let opened = wait_until("a port for the program", Duration::from_secs(90), || {
        let leases = leases(world, "box")?;
        found = leases
            .iter()
            .find(|lease| {
                port_of(lease, "internal").is_ok_and(|internal| internal == port)
                    && lease["protocol"] == "tcp"
            })
            .cloned();
        ensure!(found.is_some(), "{leases:?}");
        Ok(true)
    });
    if let Err(error) = opened {
        return Err(error.context(program.stop()?.to_string()));
    }
    let lease = found.context("a lease")?;
    ensure!(lease["mechanism"] == "upnp", "{lease}");
    let external = at(PUBLIC4, port_of(&lease, "external")?);
    let internet = world.host("internet")?;
    // The program may listen a little later than it asks, and a lease is listed a little sooner than it is in force.
    wait_until(
        "the program's port from the Internet",
        Duration::from_secs(20),
        || {
            connect(&internet, None, external, Duration::from_secs(5))?;
            Ok(true)
        },
    )?;
    Ok(lease)
}
