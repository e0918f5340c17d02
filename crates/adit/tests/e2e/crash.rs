//! Killed at every point of an apply: what was acknowledged is there, nothing is there by half, and what others own is as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use adit_lab::{Lab, Topology, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::{
    Faults, Findings, INTERNET4, PUBLIC4, Snapshot, World, at, binary, is_soak, oracle, send, udp,
};

/// After a kill all is as it shall be within this; measured on an idle machine it is a tenth of it.
const RECOVERED: Duration = Duration::from_secs(8);

/// How often a point is tried at most, each time in another change.
const OFTEN: usize = 1;

const KEYS: [&str; 4] = [
    "VOO+C8DndTc9u3B31XCRmkvQLUI+TyhZPYPJ81YWwkE=",
    "UKF/eLPz7PbZ/pa0QsEZrHCRPu3Yc3kE+Tfk9wyVy3E=",
    "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
    "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=",
];

/// A life of a gateway: what comes, changes and goes. `@forward 80` stands for the id of the forward of that port.
fn story() -> Vec<String> {
    let [server, phone, guest, another] = KEYS;
    [
        "subnet add lan --ipv4 10.59.0.0/24 --ipv6 2001:db8:1::/64".to_owned(),
        format!(
            "device add server --kind server --public-key {server} --delegate 124 --delegate 192.168.77.0/24"
        ),
        format!("device add phone --public-key {phone}"),
        "forward add 80 server".to_owned(),
        "forward add 5000-5010/udp server".to_owned(),
        "pinhole add server 443".to_owned(),
        "subnet add second --ipv4 10.60.0.0/24 --ipv6 fd00:60::/64".to_owned(),
        format!("device add guest --subnet second --public-key {guest}"),
        "forward add 81 guest:8081".to_owned(),
        "settings set clamp-mtu 1400".to_owned(),
        "settings set listen-port 51999".to_owned(),
        "forward set @forward 81 --device server --target-port 81".to_owned(),
        "device set server --revoke 192.168.77.0/24".to_owned(),
        format!("device rekey phone --public-key {another}"),
        "forward remove @forward 80".to_owned(),
        "pinhole remove @pinhole 443".to_owned(),
        "subnet set lan --peers off --host-access on".to_owned(),
        "device remove server".to_owned(),
        "subnet remove second --force".to_owned(),
    ]
    .into()
}

const FOREIGN: &str = "table inet foreign {
  set friends { type ipv4_addr; flags interval; elements = { 192.0.2.0/28 }; }
  chain forward { type filter hook forward priority 10; ip saddr @friends accept; }
}
";

struct Victim {
    world: World,
    faults: Faults,
    /// What others own; of the settings, those that the gateway has no business with.
    foreign: Snapshot,
    slowest: Duration,
    kills: usize,
}

impl Victim {
    fn start(purpose: &str) -> Result<Self> {
        let lab = Lab::temporary(&Topology::by_name("on-link")?, purpose)?;
        let vps = lab.host("vps")?;
        vps.exec_with_input(["nft", "-f", "-"], FOREIGN)?;
        for command in [
            "ip route add 198.18.5.0/24 via 203.0.113.1 proto 99",
            "ip route add 198.18.6.0/24 via 203.0.113.1 table 4201",
            "ip rule add from 192.0.2.98 lookup 4201 priority 4250",
            "ip neigh add proxy 2001:db8:1::77 dev eth0",
            "sysctl -q net.ipv4.conf.eth0.log_martians=1",
        ] {
            vps.exec(command.split_whitespace())?;
        }
        let mut gateway = lab.gateway(binary())?;
        let faults = Faults::install(&mut gateway)?;
        gateway.start()?;
        let world = World::of(gateway, lab);
        let foreign = Snapshot::of_others(&vps, world.gateway.interface())?.without_sysctls();
        Ok(Self {
            world,
            faults,
            foreign,
            slowest: Duration::ZERO,
            kills: 0,
        })
    }

    fn kernel(&self) -> Result<Snapshot> {
        Snapshot::complete(&self.world.host("vps")?, self.world.gateway.interface())
    }

    /// Packets from outside, so that there are tracked connections of every forward.
    fn knock(&self) -> Result<()> {
        let outside = udp(&self.world.host("internet")?, at(INTERNET4, 0))?;
        for port in [80, 81, 5001] {
            send(&outside, at(PUBLIC4, port), "knock")?;
        }
        let inside = udp(&self.world.host("vps")?, at(Ipv4Addr::UNSPECIFIED, 0))?;
        // To a device, which does not answer: only that it is tracked matters.
        let _ = inside.send_to(b"knock", at(Ipv4Addr::new(10, 59, 0, 2), 7));
        Ok(())
    }

    /// Runs a command of the story; none when the daemon died under it.
    fn run(&self, command: &str) -> Result<Option<Value>> {
        let mut words = Vec::new();
        let mut parts = command.split_whitespace();
        while let Some(word) = parts.next() {
            match word.strip_prefix('@') {
                Some(kind) => {
                    let port: u64 = parts.next().context("a port")?.parse()?;
                    let id = self.world.id(kind, &json!({ "port": port }))?;
                    words.push(id.to_string());
                }
                None => words.push(word.to_owned()),
            }
        }
        words.push("--json".to_owned());
        let output = self.world.gateway.try_adit(&words)?;
        if output.status.success() {
            return Ok(Some(serde_json::from_str(&output.stdout)?));
        }
        ensure!(
            output.status.code() == Some(3),
            "{command}: was refused: {output}"
        );
        Ok(None)
    }

    /// Starts the daemon again, and looks how long it takes until all is as it shall be.
    fn recover(&mut self) -> Result<()> {
        self.faults.clear()?;
        let began = Instant::now();
        self.world.gateway.start()?;
        let took = began.elapsed();
        self.slowest = self.slowest.max(took);
        self.kills += 1;
        ensure!(
            took < RECOVERED,
            "recovered after {took:?}; the end of the log is\n{}",
            self.world.gateway.log_end()
        );
        Ok(())
    }

    fn await_death(&mut self) -> Result<bool> {
        let gateway = &mut self.world.gateway;
        let died = wait_until("the daemon dies", Duration::from_secs(2), || {
            Ok(!gateway.is_running()?)
        });
        Ok(died.is_ok())
    }

    /// All that is committed, to be put back later.
    fn save(&self, name: &str) -> Result<Saved> {
        let folder = self.world.gateway.state_dir().with_file_name(name);
        fs::create_dir_all(&folder)?;
        let saved = Saved { folder };
        copy_database(&self.world.gateway.state_dir(), &saved.folder)?;
        Ok(saved)
    }

    /// The state as it was saved, in a daemon that had to lead the kernel there from wherever it was.
    fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.faults.clear()?;
        if self.world.gateway.is_running()? {
            self.world.gateway.kill()?;
        }
        copy_database(&saved.folder, &self.world.gateway.state_dir())?;
        self.world.gateway.start()
    }

    /// What a fresh start on a clean host makes of the present state.
    fn canonical(&mut self) -> Result<Snapshot> {
        self.world.gateway.kill()?;
        self.world.gateway.teardown()?;
        self.world.gateway.start()?;
        self.kernel()
    }

    fn verify(&self, wanted: &Snapshot) -> Result<()> {
        oracle::check(&self.world)?;
        wanted
            .ensure_same(&self.kernel()?)
            .context("compared to a fresh start with the same state")?;
        let foreign =
            Snapshot::of_others(&self.world.host("vps")?, self.world.gateway.interface())?;
        self.foreign
            .ensure_same(&foreign.without_sysctls())
            .context("what others own")
    }
}

struct Saved {
    folder: PathBuf,
}

/// The log of the database goes along: after a kill it holds the last commits. So do the other witnesses, which would not
/// believe a database that is older than they are.
fn copy_database(from: &Path, to: &Path) -> Result<()> {
    for name in [
        "adit.db",
        "adit.db-wal",
        "adit.revision",
        "adit.snapshot",
        "adit.snapshot.1",
    ] {
        let (from, to) = (from.join(name), to.join(name));
        if from.exists() {
            fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
        } else if to.exists() {
            fs::remove_file(&to)?;
        }
    }
    Ok(())
}

#[test]
fn killed_at_every_point_of_a_change() -> Result<()> {
    let mut victim = Victim::start("e2e-crash")?;
    let mut tried: BTreeMap<String, usize> = BTreeMap::new();
    let mut before = (oracle::state(&victim.world)?, victim.canonical()?);
    for command in story() {
        let saved = victim.save("before")?;
        victim.knock()?;
        victim.faults.forget_hits()?;
        ensure!(
            victim.run(&command)?.is_some(),
            "{command}: the daemon died"
        );
        let mut points = victim.faults.hits()?;
        points.sort();
        points.dedup();
        oracle::check(&victim.world).with_context(|| command.clone())?;
        let live = victim.kernel()?;
        let after = (oracle::state(&victim.world)?, victim.canonical()?);
        after
            .1
            .ensure_same(&live)
            .with_context(|| format!("{command}: a change, compared to a fresh start"))?;
        victim.world.gateway.kill()?;
        let done = victim.save("after")?;
        for point in points {
            let times = tried.entry(point.clone()).or_default();
            // What the sweep of tracked connections leaves behind differs from change to change.
            let is_plain = !point.starts_with("netfilter") && !point.starts_with("step/end");
            if *times >= OFTEN && is_plain && !is_soak() {
                continue;
            }
            victim.restore(&saved)?;
            victim.knock()?;
            victim.faults.plan(&format!("kill {point} 1"))?;
            let answer = victim.run(&command)?;
            // Some points are passed by chance, as those of the neighbours that are looked at twice a second.
            if !victim.await_death()? {
                continue;
            }
            *times += 1;
            let outcome = survived(&mut victim, answer.is_some(), &before, &after);
            outcome.with_context(|| format!("killed at {point} of `{command}`"))?;
        }
        victim.restore(&done)?;
        before = after;
    }
    Findings::note(&format!(
        "figure: {} kills at {} points; the slowest start after one took {:?}",
        victim.kills,
        tried.len(),
        victim.slowest
    ));
    ensure!(tried.len() > 30, "only these points were passed: {tried:?}");
    Ok(())
}

fn survived(
    victim: &mut Victim,
    acknowledged: bool,
    before: &(Value, Snapshot),
    after: &(Value, Snapshot),
) -> Result<()> {
    victim.recover()?;
    let state = oracle::state(&victim.world)?;
    ensure!(
        state == after.0 || state == before.0 && !acknowledged,
        "acknowledged: {acknowledged}; the state is {state}"
    );
    let wanted = if state == after.0 { after } else { before };
    victim.verify(&wanted.1)
}

#[test]
fn killed_at_every_point_of_a_start() -> Result<()> {
    let mut victim = Victim::start("e2e-birth")?;
    let story = story();
    let empty = victim.save("empty")?;
    for command in story.iter().take(12) {
        ensure!(victim.run(command)?.is_some(), "{command}");
    }
    let wanted = victim.canonical()?;
    let state = oracle::state(&victim.world)?;
    victim.world.gateway.kill()?;
    let full = victim.save("full")?;
    victim.world.gateway.teardown()?;
    victim.faults.forget_hits()?;
    victim.world.gateway.start()?;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for point in victim.faults.hits()? {
        *counts.entry(point).or_default() += 1;
    }
    let mut points = 0;
    for (point, count) in counts {
        let mut times = if is_soak() {
            (1..=count).collect()
        } else {
            vec![1, count.div_ceil(2)]
        };
        times.dedup();
        for nth in times {
            victim.world.gateway.kill()?;
            victim.world.gateway.teardown()?;
            victim.faults.plan(&format!("kill {point} {nth}"))?;
            // It dies before it is applied, or just after.
            let _ = victim.world.gateway.start();
            if !victim.await_death()? {
                continue;
            }
            points += 1;
            victim.recover()?;
            let outcome = victim.verify(&wanted);
            outcome.with_context(|| format!("killed at {point} {nth} of a start"))?;
            ensure!(oracle::state(&victim.world)? == state);
        }
    }
    // And on the way from all of it to nothing.
    victim.restore(&empty)?;
    let nothing = victim.canonical()?;
    victim.restore(&full)?;
    victim.world.gateway.kill()?;
    copy_database(&empty.folder, &victim.world.gateway.state_dir())?;
    victim.faults.forget_hits()?;
    victim.world.gateway.start()?;
    nothing
        .ensure_same(&victim.kernel()?)
        .context("withdrawn at a start")?;
    let mut removals = victim.faults.hits()?;
    removals.retain(|point| point.contains("remove") || point.contains("delete"));
    removals.sort();
    removals.dedup();
    ensure!(removals.len() > 5, "{removals:?}");
    for point in removals {
        victim.restore(&full)?;
        victim.world.gateway.kill()?;
        copy_database(&empty.folder, &victim.world.gateway.state_dir())?;
        victim.faults.plan(&format!("kill {point} 1"))?;
        let _ = victim.world.gateway.start();
        ensure!(victim.await_death()?, "{point} is not passed any more");
        points += 1;
        victim.recover()?;
        let outcome = victim.verify(&nothing);
        outcome.with_context(|| format!("killed at {point} of a withdrawal"))?;
    }
    Findings::note(&format!(
        "figure: {points} kills during a start; the slowest start after one took {:?}",
        victim.slowest
    ));
    Ok(())
}

/// Names of what is acknowledged, by kind; of the change that was under way at a kill only it is not known.
#[derive(Debug, Default)]
struct Acknowledged {
    devices: BTreeSet<String>,
    ports: BTreeSet<u64>,
}

/// One change after the other for ever, until the daemon dies. Tells which one has no answer.
fn stream(world: &World, known: &mut Acknowledged, mut number: u64) -> Result<(u64, Doubt)> {
    loop {
        number += 1;
        let name = format!("d{}", number % 40);
        let port = 1000 + number % 50;
        let (words, doubt): (Vec<String>, Doubt) = if number.is_multiple_of(3) {
            if known.devices.contains(&name) {
                (
                    vec!["device".into(), "remove".into(), name.clone()],
                    Doubt::Device(name),
                )
            } else {
                let add = ["device", "add", &name, "--subnet", "lan"].map(str::to_owned);
                (add.into(), Doubt::Device(name))
            }
        } else if known.ports.contains(&port) {
            let Ok(id) = world.id("forward", &json!({ "port": port })) else {
                return Ok((number, Doubt::None));
            };
            (
                vec!["forward".into(), "remove".into(), id.to_string()],
                Doubt::Port(port),
            )
        } else {
            (
                vec![
                    "forward".into(),
                    "add".into(),
                    port.to_string(),
                    "server".into(),
                ],
                Doubt::Port(port),
            )
        };
        let output = world.gateway.try_adit(&words)?;
        match output.status.code() {
            Some(0) => doubt.resolve(known),
            Some(3) => return Ok((number, doubt)),
            _ => anyhow::bail!("{words:?}: {output}"),
        }
    }
}

/// What may or may not have been changed.
#[derive(Debug)]
enum Doubt {
    None,
    Device(String),
    Port(u64),
}

impl Doubt {
    /// It was changed: what was there is gone, what was not is there.
    fn resolve(self, known: &mut Acknowledged) {
        match self {
            Self::None => {}
            Self::Device(name) => {
                if !known.devices.remove(&name) {
                    known.devices.insert(name);
                }
            }
            Self::Port(port) => {
                if !known.ports.remove(&port) {
                    known.ports.insert(port);
                }
            }
        }
    }
}

#[test]
fn killed_at_random_points_of_a_stream_of_changes() -> Result<()> {
    let kills = if is_soak() { 1000 } else { 30 };
    let mut victim = Victim::start("e2e-random")?;
    let [server, ..] = KEYS;
    victim
        .world
        .adit("subnet add lan --ipv4 10.59.0.0/24 --ipv6 2001:db8:1::/64")?;
    victim.world.adit(&format!(
        "device add server --kind server --public-key {server}"
    ))?;
    let mut known = Acknowledged::default();
    let mut number = 0;
    // The same every time: what differs is the machine.
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    for kill in 0..kills {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let pause = Duration::from_micros(random % 150_000);
        let pid = victim.world.gateway.process_id()?.context("a daemon")?;
        let killer = thread::spawn(move || {
            thread::sleep(pause);
            kill_process(pid)
        });
        let (reached, doubt) = stream(&victim.world, &mut known, number)?;
        killer.join().ok().context("the killer")??;
        number = reached;
        ensure!(victim.await_death()?, "it lives on");
        victim.knock()?;
        victim.recover()?;
        let names = |kind: &str, field: &str| -> Result<Vec<Value>> {
            let items = victim.world.list(kind)?;
            Ok(items.iter().map(|item| item[field].clone()).collect())
        };
        let devices: BTreeSet<String> = names("device", "name")?
            .iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .filter(|name| name != "server")
            .collect();
        let ports: BTreeSet<u64> = names("forward", "port")?
            .iter()
            .filter_map(Value::as_u64)
            .collect();
        let is_same = |known: &Acknowledged| known.devices == devices && known.ports == ports;
        if !is_same(&known) {
            let case = format!("kill {kill}: {doubt:?}; {devices:?} and {ports:?} where {known:?}");
            doubt.resolve(&mut known);
            ensure!(is_same(&known), "{case}");
        }
        oracle::check(&victim.world).with_context(|| format!("kill {kill}"))?;
        if kill % 100 == 99 {
            Findings::note(&format!("{} kills during {number} changes", kill + 1));
        }
    }
    let live = victim.kernel()?;
    victim.canonical()?.ensure_same(&live)?;
    Findings::note(&format!(
        "figure: {kills} kills during {number} changes; the slowest start after one took {:?}",
        victim.slowest
    ));
    Ok(())
}

fn kill_process(pid: i32) -> Result<()> {
    let status = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()?;
    ensure!(status.success(), "kill -9 {pid}: {status}");
    Ok(())
}
