//! No packet is lost: streams through one device, both ways and in both families, while everything around it changes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, thread};

use adit_api::client::Client;
use adit_api::types::device::{AddDevice, SetDevice};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::{
    Device, Dialogue, Findings, INTERNET4, INTERNET6, Machine, PUBLIC4, Transfer, World, at,
    binary, converse, dataplane, is_soak, listen, udp,
};

const PACE: Duration = Duration::from_millis(5);
const BLOCKS: Duration = Duration::from_millis(20);
const STREAM: u16 = 80;
const WEB: u16 = 8080;

#[test]
fn no_packet_is_lost_with_a_routed_prefix() -> Result<()> {
    let _machine = Machine::alone();
    nothing_is_lost("routed")
}

#[test]
fn no_packet_is_lost_with_an_on_link_prefix() -> Result<()> {
    let _machine = Machine::alone();
    nothing_is_lost("on-link")
}

pub(crate) fn nothing_is_lost(topology: &str) -> Result<()> {
    let mut world = World::with_subnet(topology, "e2e-loss")?;
    let server = world.join("box", "--kind server")?;
    for interface in [world.gateway.interface(), server.interface.as_str()] {
        prefer(dataplane(interface)?)?;
    }
    let advertises = world.host("edge")?.folder()?.join("radvd.pid");
    if topology != "ipv4-only" {
        prefer(fs::read_to_string(advertises)?.trim().parse()?)?;
    }
    let mut traffic = Traffic::start(&world, &server)?;
    let disturbances: [(&str, Disturbance); 8] = [
        ("devices", devices),
        ("forwards and pinholes", permissions),
        ("subnets", subnets),
        ("settings", settings),
        ("kill -9 and start", crashes),
        ("SIGTERM and start", restarts),
        ("upgrade", upgrade),
        ("a burst of changes", burst),
    ];
    let mut findings = Findings::default();
    for (name, disturb) in disturbances {
        traffic.enter(name);
        let outcome = disturb(&mut world);
        findings.check(name, outcome);
        thread::sleep(Duration::from_millis(500));
    }
    traffic.conclude(topology, &mut findings)?;
    findings.conclude()
}

/// A userspace WireGuard that gets no processor for a tenth of a second lets its socket's buffer overflow, and the default
/// route is gone 12 s after the last advertisement. How busy the machine is with other things must not decide what this test
/// says, so they go first on it.
fn prefer(process: i32) -> Result<()> {
    let output = Command::new("chrt")
        .args(["--all-tasks", "--rr", "--pid", "1", &process.to_string()])
        .output()?;
    ensure!(output.status.success(), "chrt of {process}: {output:?}");
    Ok(())
}

type Disturbance = fn(&mut World) -> Result<()>;

/// What runs through the device, and beside it through no tunnel.
struct Traffic {
    dialogues: Vec<Dialogue>,
    transfers: Vec<Transfer>,
    /// What was going on from which number of each dialogue.
    chapters: Vec<(&'static str, Vec<u32>)>,
    began: Instant,
}

impl Traffic {
    fn start(world: &World, server: &Device) -> Result<Self> {
        let internet = world.host("internet")?;
        let vps = world.host("vps")?;
        world.publish("box", &format!("{STREAM}/udp"))?;
        world.publish("box", &format!("{WEB}/tcp"))?;
        let six = server.ipv6()?;
        let outside6 = world.outside6(server);
        let mut dialogues = vec![
            Dialogue::start(
                "forward, IPv4",
                udp(&internet, at(INTERNET4, 7001))?,
                at(PUBLIC4, STREAM),
                udp(&server.host, at(server.ipv4, STREAM))?,
                PACE,
            )?,
            Dialogue::start(
                "outwards, IPv4",
                udp(&server.host, at(server.ipv4, 6001))?,
                at(INTERNET4, 7002),
                udp(&internet, at(INTERNET4, 7002))?,
                PACE,
            )?,
            Dialogue::start(
                CONTROL,
                udp(&internet, at(INTERNET4, 7003))?,
                at(PUBLIC4, 7),
                udp(&vps, at(world.local4()?, 7))?,
                PACE,
            )?,
        ];
        if let Some(outside6) = outside6 {
            dialogues.push(Dialogue::start(
                "inwards, IPv6",
                udp(&internet, at(INTERNET6, 7001))?,
                at(outside6, STREAM),
                udp(&server.host, at(six, STREAM))?,
                PACE,
            )?);
            dialogues.push(Dialogue::start(
                "outwards, IPv6",
                udp(&server.host, at(six, 6001))?,
                at(INTERNET6, 7002),
                udp(&internet, at(INTERNET6, 7002))?,
                PACE,
            )?);
        }
        let web4 = listen(&server.host, at(server.ipv4, WEB))?;
        let far = listen(&internet, at(INTERNET4, 7004))?;
        let own = Some(at(server.ipv4, 0));
        let mut transfers = vec![
            Transfer::start(
                "TCP, forward, IPv4",
                converse(&internet, None, at(PUBLIC4, WEB), &web4)?,
                BLOCKS,
            )?,
            Transfer::start(
                "TCP, outwards, IPv4",
                converse(&server.host, own, at(INTERNET4, 7004), &far)?,
                BLOCKS,
            )?,
        ];
        if let Some(outside6) = outside6 {
            let web6 = listen(&server.host, at(six, WEB))?;
            transfers.push(Transfer::start(
                "TCP, inwards, IPv6",
                converse(&internet, None, at(outside6, WEB), &web6)?,
                BLOCKS,
            )?);
        }
        Ok(Self {
            dialogues,
            transfers,
            chapters: Vec::new(),
            began: Instant::now(),
        })
    }

    fn enter(&mut self, chapter: &'static str) {
        let positions = self.dialogues.iter().map(Dialogue::position).collect();
        self.chapters.push((chapter, positions));
    }

    fn conclude(mut self, topology: &str, findings: &mut Findings) -> Result<()> {
        self.enter("the end");
        let took = self.began.elapsed();
        self.dialogues.iter().for_each(Dialogue::end);
        let (mut sent, mut lost) = (0, 0);
        for (number, dialogue) in self.dialogues.into_iter().enumerate() {
            let account = dialogue.stop()?;
            Findings::note(&format!(
                "{topology}, {}: {} sent in {took:.0?}, {} lost there, {} lost back; the sender was up to {:.0?} late",
                account.name,
                account.sent,
                account.lost_there.len(),
                account.lost_back.len(),
                account.latest
            ));
            if account.name != CONTROL {
                sent += account.sent;
                lost += account.lost();
            }
            let mut where_lost = String::new();
            for pair in self.chapters.windows(2) {
                let [(name, from), (_, to)] = pair else {
                    continue;
                };
                let span = from[number]..to[number];
                let lost: Vec<&u32> = account
                    .lost_there
                    .iter()
                    .chain(&account.lost_back)
                    .filter(|number| span.contains(number))
                    .collect();
                if !lost.is_empty() {
                    where_lost.push_str(&format!(" {name} ({span:?}): {lost:?}"));
                }
            }
            let outcome = if account.lost() == 0 && account.sent > 1000 {
                Ok(())
            } else {
                Err(anyhow::anyhow!(
                    "of {} packets {} were lost there and {} of the answers:{where_lost}; not taken: {:?}",
                    account.sent,
                    account.lost_there.len(),
                    account.lost_back.len(),
                    account.not_sent
                ))
            };
            findings.check(&account.name, outcome);
        }
        Findings::note(&format!(
            "figure: {topology}: {lost} of {sent} packets lost in either direction"
        ));
        for transfer in self.transfers {
            let name = transfer.name.clone();
            let outcome = transfer.stop().and_then(|progress| {
                Findings::note(&format!(
                    "{topology}, {name}: {} bytes there and back, at most {:.0?} without any",
                    progress.bytes, progress.stall
                ));
                ensure!(progress.bytes > 100_000, "only {progress:?}");
                ensure!(
                    progress.stall < Duration::from_secs(2),
                    "it stood still: {progress:?}"
                );
                Ok(())
            });
            findings.check(&name, outcome);
        }
        Ok(())
    }
}

/// The same pace between the same hosts, without a tunnel: what it loses, the machine lost.
const CONTROL: &str = "control, no tunnel";

fn devices(world: &mut World) -> Result<()> {
    let count = if is_soak() { 100 } else { 12 };
    for number in 0..count {
        world.adit(&format!("device add peer{number} --subnet lan"))?;
    }
    for number in 0..count {
        world.adit(&format!("device set peer{number} --name other{number}"))?;
        world.adit(&format!("device rekey other{number}"))?;
        world.adit(&format!("device set other{number} --routing split"))?;
        world.adit(&format!("device set other{number} --disable"))?;
        world.adit(&format!("device set other{number} --enable"))?;
        let address = format!("10.59.0.{}", 120 + number);
        world.adit(&format!("device set other{number} --ipv4 {address}"))?;
    }
    world.adit("device set box --name renamed")?;
    world.adit("device set renamed --name box")?;
    for number in 0..count {
        world.adit(&format!("device remove other{number}"))?;
    }
    Ok(())
}

fn permissions(world: &mut World) -> Result<()> {
    world.adit("device add other --subnet lan --kind server")?;
    for _ in 0..if is_soak() { 20 } else { 3 } {
        let mut forwards = Vec::new();
        let mut pinholes = Vec::new();
        let mut add = |kind: &str, what: String| -> Result<()> {
            let answer = world.adit(&format!("{kind} add {what}"))?;
            let id = answer["id"].as_u64().context("id")?;
            if kind == "forward" {
                forwards.push(id);
            } else {
                pinholes.push(id);
            }
            Ok(())
        };
        for (ports, device) in [
            ("79", "box"),
            ("81", "other"),
            ("80/tcp", "other"),
            ("5000-5010/udp", "other"),
            ("5020-5030", "box"),
            ("8079", "box"),
            ("8081", "other"),
            ("8080/udp", "other"),
        ] {
            add("forward", format!("{ports} {device}"))?;
            add("pinhole", format!("{device} {ports}"))?;
        }
        for id in &forwards {
            world.adit(&format!("forward set {id} --disable"))?;
            world.adit(&format!("forward set {id} --enable"))?;
        }
        for (id, pinhole) in forwards.iter().zip(&pinholes) {
            world.adit(&format!("forward remove {id}"))?;
            world.adit(&format!("pinhole remove {pinhole}"))?;
        }
    }
    world.adit("device remove other")?;
    Ok(())
}

fn subnets(world: &mut World) -> Result<()> {
    for round in 0..if is_soak() { 20 } else { 4 } {
        let six = match (round % 2, world.provided()) {
            (0, Some("2001:db8:100:1::/64")) => "--ipv6 2001:db8:100:7::/64",
            _ => "",
        };
        world.adit(&format!("subnet add guests --ipv4 10.77.0.0/24 {six}"))?;
        world.adit("device add guest --subnet guests")?;
        world.adit("forward add 7070 guest")?;
        world.adit("subnet set guests --peers off --host-access on")?;
        world.adit("subnet set lan --peers off")?;
        world.adit("subnet set lan --peers on")?;
        world.adit("subnet remove guests --force")?;
    }
    Ok(())
}

fn settings(world: &mut World) -> Result<()> {
    for setting in [
        "dns-servers 9.9.9.9",
        "dns-servers none",
        "snat-ports 41000-60000",
        "snat-ports 40000-65535",
        "clamp-mtu 1400",
        "clamp-mtu 1280",
    ] {
        world.adit(&format!("settings set {setting}"))?;
    }
    world.adit("uplink set eth0 --endpoint vpn.example.net")?;
    world.adit("uplink set eth0 --endpoint none")?;
    world.adit("uplink set eth0 --advertised 198.18.99.99")?;
    world.adit("uplink set eth0 --advertised none")?;
    Ok(())
}

fn crashes(world: &mut World) -> Result<()> {
    for _ in 0..if is_soak() { 20 } else { 5 } {
        world.gateway.kill()?;
        world.gateway.start()?;
    }
    Ok(())
}

fn restarts(world: &mut World) -> Result<()> {
    for _ in 0..if is_soak() { 10 } else { 2 } {
        world.gateway.terminate()?;
        world.gateway.start()?;
    }
    Ok(())
}

/// Another executable takes over, and the first one again.
fn upgrade(world: &mut World) -> Result<()> {
    let other = match env::var_os("ADIT_SOAK_UPGRADE") {
        Some(path) => PathBuf::from(path),
        None => another_build(world)?,
    };
    for next in [other.as_path(), binary()] {
        world.gateway.terminate()?;
        world.gateway.use_binary(next)?;
        world.gateway.start()?;
        world.adit("device add upgraded --subnet lan")?;
        world.adit("device remove upgraded")?;
    }
    Ok(())
}

/// The same program as another file with other bytes.
fn another_build(world: &World) -> Result<PathBuf> {
    let path = world.lab.folder().join("another-adit");
    let mut bytes = fs::read(binary())?;
    bytes.extend(b"another build");
    fs::write(&path, bytes)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn burst(world: &mut World) -> Result<()> {
    const IN_FLIGHT: usize = 32;
    /// What one chain does.
    const CHANGES: usize = 5;
    let chains = if is_soak() { 200 } else { 30 };
    let client = Client::unix(&world.gateway.runtime_dir().join("adit.sock"));
    let before = world.revision()?;
    let began = Instant::now();
    Runtime::new()?.block_on(async {
        let turns = Arc::new(Semaphore::new(IN_FLIGHT));
        let mut tasks = JoinSet::new();
        for number in 0..chains {
            let (client, turns) = (client.clone(), Arc::clone(&turns));
            tasks.spawn(async move {
                let _turn = turns.acquire().await?;
                chain(&client, number).await
            });
        }
        while let Some(outcome) = tasks.join_next().await {
            outcome??;
        }
        anyhow::Ok(())
    })?;
    let made = world.revision()? - before;
    Findings::note(&format!(
        "{} changes, {IN_FLIGHT} in flight, took {:.1?}, in {made} revisions",
        chains * CHANGES,
        began.elapsed()
    ));
    ensure!(world.list("device")?.len() == 1, "something is left of it");
    Ok(())
}

async fn chain(client: &Client, number: usize) -> Result<()> {
    let name = format!("burst{number}");
    let device = AddDevice {
        name: name.clone(),
        subnet: Some("lan".to_owned()),
        ..AddDevice::default()
    };
    client.add_device(&device).await?;
    let port = 10_000 + number;
    let forward = serde_json::from_value(json!({"device": name, "port": port}))?;
    client.add_forward(&forward).await?;
    let pinhole = serde_json::from_value(json!({"device": name, "port": port}))?;
    client.add_pinhole(&pinhole).await?;
    let disabled = SetDevice {
        enabled: Some(false),
        ..SetDevice::default()
    };
    client.set_device(&name, &disabled).await?;
    client.remove_device(&name).await?;
    Ok(())
}
