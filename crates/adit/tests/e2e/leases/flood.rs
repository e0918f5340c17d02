//! One device asks without end; the others get their answers as ever.

use std::thread;
use std::time::Duration;

use adit_lab::Process;
use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::hostile_packets::{HOSTILE_CORE, OWN_CORE, keep_to};
use crate::support::{Device, Findings, Machine, World, dataplane};

const FLOODING: &str = include_str!("flooding.py");
const PATIENT: &str = include_str!("patient.py");
const RATE: u32 = 10_000;
const SECONDS: u32 = 8;

/// In milliseconds.
const LONGEST: f64 = 50.0;

#[derive(Debug, Deserialize)]
struct Told {
    took: Took,
    lost: usize,
    refused: usize,
}

#[derive(Debug, Deserialize)]
struct Took {
    new: Vec<f64>,
    renewal: Vec<f64>,
    address: Vec<f64>,
}

#[test]
fn a_flood_of_requests_keeps_nobody_waiting() -> Result<()> {
    let _machine = Machine::alone();
    let mut world = World::with_subnet("routed", "e2e-leases-flood")?;
    let hostile = world.join("box", "--kind server")?;
    let mut others = Vec::new();
    for name in ["laptop", "nas", "stranger"] {
        others.push(world.join(name, "--kind server")?);
        // Enough for all attempts.
        world.adit(&format!("device set {name} --lease-quota 1000"))?;
    }
    separate(&mut world, &hostile)?;
    let alone = measure(&others, 2, 20_000, "beside nobody")?;
    // A machine that others use, too, may hold everything up for a moment.
    let mut findings = Vec::new();
    for first in [24_000, 28_000, 32_000] {
        match beside_a_flood(&hostile, &others, first, &alone) {
            Ok(()) => return Ok(()),
            Err(error) => findings.push(format!("{error:#}")),
        }
    }
    bail!("{}", findings.join("\n"))
}

fn beside_a_flood(hostile: &Device, others: &[Device], first: u16, alone: &[Told]) -> Result<()> {
    let mut flood = hostile.host.spawn([
        "nice",
        "taskset",
        "-c",
        HOSTILE_CORE,
        "python3",
        "-c",
        FLOODING,
        &hostile.ipv4.to_string(),
        &RATE.to_string(),
        &(SECONDS + 1).to_string(),
    ])?;
    thread::sleep(Duration::from_millis(500));
    let beside = measure(others, SECONDS, first, "beside a flood")?;
    let status = flood.wait(Duration::from_secs(30))?;
    ensure!(status.success(), "{}", flood.stderr()?);
    let said = flood.stdout()?;
    Findings::note(&format!("figure: requests of the flood: {}", said.trim()));
    let sent: u32 = said.split(' ').next().context("a number")?.parse()?;
    ensure!(sent > RATE * SECONDS, "the flood was none: {said}");
    for told in &beside {
        ensure!(
            told.lost == 0 && told.refused == 0,
            "{} were lost, {} refused",
            told.lost,
            told.refused
        );
    }
    for ((what, beside), (_, alone)) in slowest(&beside).into_iter().zip(slowest(alone)) {
        // A new port waits for the disk and the kernel of a machine that may have other work.
        let most = if what == "new" {
            LONGEST + alone
        } else {
            LONGEST
        };
        ensure!(
            beside < most,
            "99 of 100 answers ({what}) took up to {beside:.1} ms, and {alone:.1} ms beside nobody"
        );
    }
    Ok(())
}

/// The gateway has a core of its own, as where nobody else works on its host.
fn separate(world: &mut World, hostile: &Device) -> Result<()> {
    let vps = world.host("vps")?;
    let daemon = world.gateway.process_id()?.context("the daemon runs")?;
    keep_to(&vps, daemon, OWN_CORE)?;
    keep_to(&vps, dataplane(world.gateway.interface())?, OWN_CORE)?;
    keep_to(&hostile.host, dataplane(&hostile.interface)?, HOSTILE_CORE)
}

/// What three devices are told that ask at the same time.
fn measure(others: &[Device], seconds: u32, first: u16, when: &str) -> Result<Vec<Told>> {
    let start = |device: &Device| -> Result<Process> {
        let words = [
            "python3".to_owned(),
            "-c".to_owned(),
            PATIENT.to_owned(),
            device.ipv4.to_string(),
            seconds.to_string(),
            first.to_string(),
        ];
        device.host.spawn(words)
    };
    let processes: Vec<Process> = others.iter().map(start).collect::<Result<_>>()?;
    let mut all = Vec::new();
    for mut process in processes {
        let status = process.wait(Duration::from_secs(u64::from(seconds) + 30))?;
        ensure!(status.success(), "{}", process.stderr()?);
        all.push(serde_json::from_str::<Told>(&process.stdout()?)?);
    }
    for (what, slowest) in slowest(&all) {
        Findings::note(&format!(
            "figure: {when}, {what}: 99 of 100 answers within {slowest:.1} ms"
        ));
    }
    Ok(all)
}

/// The time within which 99 of 100 answers came, of all devices together.
fn slowest(all: &[Told]) -> [(&'static str, f64); 3] {
    let of = |name, times: fn(&Took) -> &Vec<f64>| {
        let mut times: Vec<f64> = all.iter().flat_map(|it| times(&it.took)).copied().collect();
        times.sort_by(f64::total_cmp);
        let place = times.len() * 99 / 100;
        (name, times.get(place).copied().unwrap_or(f64::INFINITY))
    };
    [
        of("new", |took| &took.new),
        of("renewal", |took| &took.renewal),
        of("address", |took| &took.address),
    ]
}
