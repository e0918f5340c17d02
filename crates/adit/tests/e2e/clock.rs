//! The wall clock jumps by ten years, forth and back, while the gateway runs and while it does not: what has no expiry is
//! not affected, and what has follows the clock.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use adit_lab::wait_until;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::support::{Conversation, INTERNET4, World, at, converse, listen};

/// Debian's `libfaketime`, the variant for programs with threads.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// The daemon looks at the clock at least this often.
const NOTICED: Duration = Duration::from_secs(75);

struct Clock(PathBuf);

impl Clock {
    /// The clock that the daemon of this world has from its next start on.
    fn of(world: &mut World) -> Result<Self> {
        ensure!(
            fs::exists(LIBRARY)?,
            "{LIBRARY} is missing: scripts/install-packages"
        );
        let clock = Self(world.lab.folder().join("clock"));
        clock.set("+0")?;
        for (name, value) in [
            ("LD_PRELOAD", LIBRARY.as_ref()),
            ("FAKETIME_TIMESTAMP_FILE", clock.0.as_os_str()),
            ("FAKETIME_NO_CACHE", "1".as_ref()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".as_ref()),
            ("NO_FAKE_STAT", "1".as_ref()),
        ] {
            world.gateway.set_environment(name, value);
        }
        Ok(clock)
    }

    fn set(&self, offset: &str) -> Result<()> {
        // Never half written: it is read all the time.
        let new = self.0.with_extension("new");
        fs::write(&new, format!("{offset}\n"))?;
        Ok(fs::rename(new, &self.0)?)
    }
}

#[test]
fn jumps_of_the_clock_move_expiries_and_nothing_else() -> Result<()> {
    let mut world = World::start("routed", "e2e-clock")?;
    world.gateway.terminate()?;
    let clock = Clock::of(&mut world)?;
    world.gateway.start()?;
    let prefix = world.prefix()?;
    world.adit(&format!(
        "subnet add lan --ipv4 10.59.0.0/24 --ipv6 {prefix}"
    ))?;
    let lasting = world.join("box", "--kind server --routing full")?;
    let guest = world.join("laptop", "--routing full --expires 1h")?;
    let internet = world.host("internet")?;
    let listener = listen(&internet, at(INTERNET4, 7000))?;
    let mut conversation = converse(&lasting.host, None, at(INTERNET4, 7000), &listener)?;
    let talk_to_guest =
        || -> Result<Conversation> { converse(&guest.host, None, at(INTERNET4, 7000), &listener) };
    let mut with_guest = talk_to_guest()?;
    let first = world.revision()?;
    let mut revision = first;

    for (offset, is_expired) in [
        ("+10y", true),
        ("-10y", false),
        ("+10y", true),
        ("+0", false),
    ] {
        clock.set(offset)?;
        conversation.talk().with_context(|| offset.to_owned())?;
        // The first jump is noticed with nothing else happening; that takes up to a minute, so the others get a change.
        if revision > first {
            world.adit(&format!("pinhole add box {}", 2000 + revision))?;
            revision += 1;
        }
        await_peer(&world, "laptop", !is_expired).with_context(|| offset.to_owned())?;
        if is_expired {
            ensure!(
                with_guest.is_cut()?,
                "{offset}: a device that has expired is connected"
            );
        }
        check_idle(&mut world).with_context(|| offset.to_owned())?;

        // Changes are taken in their order, whatever the clock says.
        let label = format!("label{revision}");
        world.adit(&format!(
            "pinhole add box {} --label {label}",
            1000 + revision
        ))?;
        revision += 1;
        ensure!(
            world.revision()? == revision,
            "{offset}: not revision {revision}"
        );
        conversation.talk().with_context(|| offset.to_owned())?;

        world.gateway.terminate()?;
        world.gateway.start()?;
        ensure!(
            world.revision()? == revision,
            "{offset}: another revision after a restart"
        );
        await_peer(&world, "laptop", !is_expired).with_context(|| offset.to_owned())?;
        conversation.talk().with_context(|| offset.to_owned())?;
        let snapshot = fs::read_to_string(world.gateway.state_dir().join("adit.snapshot"))?;
        ensure!(
            snapshot.contains(&label),
            "{offset}: the snapshot is older than the stop"
        );
    }
    wait_until("the guest is back", Duration::from_secs(60), || {
        with_guest = talk_to_guest()?;
        Ok(true)
    })?;
    // The log is in the order of what happened, though its times are not.
    let told = world.adit("log --limit 200")?;
    let entries = told["entries"].as_array().context("entries")?;
    let field = |name: &str| -> Vec<u64> {
        entries
            .iter()
            .filter_map(|entry| entry[name].as_u64())
            .collect()
    };
    let times: Vec<&str> = entries
        .iter()
        .filter_map(|entry| entry["time"].as_str())
        .collect();
    ensure!(
        entries.len() > 15 && field("number").is_sorted_by(|newer, older| newer > older),
        "{told}"
    );
    ensure!(
        field("revision").is_sorted_by(|newer, older| newer >= older),
        "{told}"
    );
    ensure!(
        !times.is_sorted_by(|newer, older| newer >= older),
        "the clock did not jump: {told}"
    );
    let log = world.gateway.log()?;
    ensure!(!log.contains("panicked"), "{log}");
    Ok(())
}

/// The peers that WireGuard knows follow the clock.
fn await_peer(world: &World, name: &str, is_there: bool) -> Result<()> {
    let key = world.find("device", &json!({ "name": name }))?["public_key"].clone();
    let key = key.as_str().context("a key")?;
    let vps = world.host("vps")?;
    let what = format!("{name} among the peers: {is_there}");
    wait_until(&what, NOTICED, || {
        let peers = vps
            .exec(["wg", "show", world.gateway.interface(), "peers"])?
            .stdout;
        ensure!(peers.contains(key) == is_there, "{peers}");
        Ok(true)
    })
}

/// A timer that is always due shows as a busy processor.
fn check_idle(world: &mut World) -> Result<()> {
    let pid = world.gateway.process_id()?.context("a daemon")?;
    let used = || -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, rest) = text.rsplit_once(')').context("a name")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    };
    let before = used()?;
    sleep(Duration::from_secs(2));
    let ticks = used()? - before;
    // Of 200; the looks for drift and at the disk take a few.
    ensure!(ticks < 60, "{ticks} ticks of 200 were used");
    Ok(())
}
