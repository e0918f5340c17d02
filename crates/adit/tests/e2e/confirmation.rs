//! Changes that cut off whoever makes them: without a confirmation the way in is there again, also after a crash.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use adit_lab::{Lab, Process, Topology, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::{Api, Device, Findings, PUBLIC4, World, binary, is_soak};

const PORT: u16 = 8443;

/// How long the changes of the long test await their confirmation.
const AWAITED: Duration = Duration::from_secs(2);

/// After that, or after a start, the way in is back within this; an idle machine needs a tenth of it.
const BACK: Duration = Duration::from_secs(20);

/// A public key that nobody has the private one of.
const FOREIGN: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

/// An administrator whose only way in is the tunnel.
struct Administrator {
    device: Device,
    token: PathBuf,
    certificate: PathBuf,
    /// The tunnel as it was set up.
    tunnel: PathBuf,
}

impl Administrator {
    fn words(&self, command: &str) -> Vec<String> {
        let mut words = vec![
            binary().to_string_lossy().into_owned(),
            "--url".to_owned(),
            format!("https://{PUBLIC4}:{PORT}"),
            "--token-file".to_owned(),
            self.token.to_string_lossy().into_owned(),
            "--ca-file".to_owned(),
            self.certificate.to_string_lossy().into_owned(),
            "--json".to_owned(),
        ];
        words.extend(command.split_whitespace().map(str::to_owned));
        words
    }

    /// Makes a change after which there may be no answer.
    fn begin(&self, command: &str) -> Result<Process> {
        self.device.host.spawn(self.words(command))
    }

    fn adit(&self, command: &str) -> Result<Value> {
        let output = self.device.host.exec(self.words(command))?;
        serde_json::from_str(&output.stdout).with_context(|| output.to_string())
    }

    /// A device notices within fifteen seconds that its session is no longer good; this one at once.
    fn reconnect(&self) -> Result<()> {
        let interface = &self.device.interface;
        let file = self.tunnel.display();
        let line = format!(
            "for peer in $(wg show {interface} peers); do wg set {interface} peer $peer remove; done; \
             wg addconf {interface} {file}"
        );
        self.device.host.exec(["sh", "-c", &line]).map(drop)
    }

    fn await_access(&self, what: &str) -> Result<Duration> {
        let started = Instant::now();
        wait_until(what, BACK, || {
            self.reconnect()?;
            let line = self.words("status").join(" ");
            let limited = ["timeout", "2", "sh", "-c", &line];
            Ok(self.device.host.try_exec(limited)?.status.success())
        })?;
        Ok(started.elapsed())
    }
}

fn start(purpose: &str) -> Result<(World, Administrator)> {
    let lab = Lab::temporary(&Topology::by_name("routed")?, purpose)?;
    let mut gateway = lab.gateway(binary())?;
    gateway.run_with(["--listen", &format!("[::]:{PORT}")]);
    gateway.start()?;
    let world = World::of(gateway, lab);
    let prefix = world.prefix()?;
    world.adit(&format!(
        "subnet add lan --ipv4 10.59.0.0/24 --ipv6 {prefix} --host-access on"
    ))?;
    let device = world.join("laptop", "")?;
    world.adit(&format!("device add other --public-key {}", OTHER))?;
    world.adit("forward add 8080/tcp other")?;
    let added = world.adit("token add admin --scope read --scope write --scope secrets")?;
    let token = world.lab.folder().join("admin.token");
    fs::write(&token, added["secret"].as_str().context("the secret")?)?;
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600))?;
    let certificate = world.gateway.state_dir().join("api-certificate.pem");
    let shown = device.host.exec(["wg", "showconf", &device.interface])?;
    let tunnel = world.lab.folder().join("laptop.peers");
    let peers = shown.stdout.find("[Peer]").context("a peer")?;
    fs::write(&tunnel, &shown.stdout[peers..])?;
    let administrator = Administrator {
        device,
        token,
        certificate,
        tunnel,
    };
    Ok((world, administrator))
}

const OTHER: &str = "VOO+C8DndTc9u3B31XCRmkvQLUI+TyhZPYPJ81YWwkE=";

fn awaiting(world: &World) -> Result<Value> {
    Ok(world.adit("status")?["awaiting"].clone())
}

#[test]
fn a_change_stays_when_it_is_confirmed() -> Result<()> {
    let (world, administrator) = start("e2e-confirm")?;
    let mut findings = Findings::default();
    findings.check("through the tunnel", usual(&world, &administrator));
    findings.check("over SSH", over_ssh(&world));
    findings.check("what came later", later(&world));
    findings.check("what is not confirmed", refusals(&world));
    findings.conclude()
}

/// A change of what the connection hangs on awaits a confirmation by itself, any other does not.
fn usual(world: &World, administrator: &Administrator) -> Result<()> {
    administrator.adit("device set other --disable")?;
    ensure!(awaiting(world)?.is_null(), "{}", awaiting(world)?);
    administrator.adit("device set other --enable")?;
    administrator.adit("subnet set lan --peers off")?;
    let awaited = awaiting(world)?;
    ensure!(awaited["revision"] == world.revision()?, "{awaited}");
    let confirmed = administrator.adit("confirm")?;
    ensure!(confirmed["confirmed"] == awaited["revision"], "{confirmed}");
    ensure!(awaiting(world)?.is_null());
    let api = Api::new(world.gateway.runtime_dir());
    let header = ["Confirm-Within: 300".to_owned()];
    let body = json!({"peers": true});
    let reply = api.ask("PATCH", "/subnets/lan", &header, Some(&body))?;
    let within = reply.header("confirm-within");
    ensure!(
        within.is_some_and(|text| text == "300" || text == "299"),
        "{reply:?}"
    );
    world.adit("confirm")?;
    ensure!(world.find("subnet", &json!({"name": "lan"}))?["peers"] == true);
    Ok(())
}

fn over_ssh(world: &World) -> Result<()> {
    let run = |client: &str, command: &str| -> Result<()> {
        let vps = world.host("vps")?;
        let runtime_dir = world.gateway.runtime_dir();
        let mut words = vec![
            "env".to_owned(),
            format!("SSH_CONNECTION={client} 50000 10.59.0.1 22"),
            // As `sudo` does, which takes the variable away from the program, not from the shell.
            "sh".to_owned(),
            "-c".to_owned(),
        ];
        let binary = binary().display();
        let runtime_dir = runtime_dir.display();
        words.push(format!(
            "env -u SSH_CONNECTION {binary} --runtime-dir {runtime_dir} {command}; true"
        ));
        vps.exec(words).map(drop)
    };
    run("198.51.100.20", "subnet set lan --peers off")?;
    ensure!(awaiting(world)?.is_null());
    run("10.59.0.2", "subnet set lan --peers on")?;
    ensure!(!awaiting(world)?.is_null(), "nothing is awaited");
    run("10.59.0.2", "confirm")?;
    run("10.59.0.2", "--confirm off subnet set lan --peers off")?;
    ensure!(awaiting(world)?.is_null());
    run("198.51.100.20", "subnet set lan --peers on")
}

/// What others do in the meantime stays, and what would be in the way of going back is refused.
fn later(world: &World) -> Result<()> {
    world.adit("--confirm 4 device set other --ipv4 10.59.0.50 --routing inbound")?;
    world.adit("device set other --kind server")?;
    world.adit(&format!("device add late --public-key {FOREIGN}"))?;
    let refused = world.refused("device set late --ipv4 10.59.0.3")?;
    ensure!(refused.code == "awaits-confirmation", "{refused:?}");
    ensure!(refused.message.contains("device `other`"), "{refused:?}");
    wait_until("the change is taken back", BACK, || {
        Ok(awaiting(world)?.is_null())
    })?;
    let other = world.find("device", &json!({"name": "other"}))?;
    ensure!(other["ipv4"] == "10.59.0.3", "{other}");
    ensure!(other["routing"] == "full", "{other}");
    ensure!(other["kind"] == "server", "{other}");
    world.find("device", &json!({"name": "late"}))?;
    world.adit("device remove late")?;
    let log = world.adit("log")?;
    let entries = log["entries"].as_array().context("entries")?;
    let told = entries.iter().find(|entry| entry["action"] == "take-back");
    let told = told.with_context(|| format!("nothing of it in {log}"))?;
    ensure!(told["who"]["kind"] == "gateway", "{told}");
    Ok(())
}

fn refusals(world: &World) -> Result<()> {
    let refused = world.refused("confirm")?;
    ensure!(refused.code == "nothing-to-confirm", "{refused:?}");
    for wrong in ["0", "-1", "1h", "99999"] {
        let output = world
            .gateway
            .try_adit(["--confirm", wrong, "device", "remove", "other"])?;
        ensure!(output.status.code() == Some(2), "{wrong}: {output}");
    }
    world.adit("--confirm 60 device set other --disable")?;
    let refused = world.refused("--confirm 60 device set other --enable")?;
    ensure!(refused.code == "awaits-confirmation", "{refused:?}");
    world.adit("confirm").map(drop)
}

/// Whatever the administrator breaks, the way in comes back by itself; every other time the daemon is killed in between.
#[test]
fn whatever_is_broken_through_the_tunnel_comes_back() -> Result<()> {
    let (mut world, administrator) = start("e2e-unconfirmed")?;
    let empty = world.lab.folder().join("empty.toml");
    fs::write(&empty, "")?;
    let breaking: Vec<String> = [
        "device set laptop --disable".to_owned(),
        "device set laptop --ipv4 10.59.0.99".to_owned(),
        "device remove laptop".to_owned(),
        format!("device rekey laptop --public-key {FOREIGN}"),
        "subnet set lan --host-access off".to_owned(),
        "subnet remove lan --force".to_owned(),
        "settings set listen-port 51999".to_owned(),
        format!("apply --yes -f {}", empty.display()),
        "uplink set eth0 --endpoint nowhere.example".to_owned(),
    ]
    .into();
    let wanted = world.gateway.adit(["export"])?.stdout;
    let wanted = wanted
        .split_once("\n\n")
        .context("a document")?
        .1
        .to_owned();
    let rounds = if is_soak() { 500 } else { 2 * breaking.len() };
    let mut slowest = Duration::ZERO;
    // Numbers as even as the test needs them, and the same each time.
    let mut dice: u64 = 0x9e37_79b9_7f4a_7c15;
    for round in 0..rounds {
        dice = dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let pick = usize::try_from(dice >> 33)?;
        let command = &breaking[if is_soak() { pick } else { round / 2 } % breaking.len()];
        let what = format!("round {round}: {command}");
        let before = world.revision()?;
        let dies = round % 2 == 1;
        // After a crash nothing waits for the time to come.
        let seconds = if dies { 300 } else { AWAITED.as_secs() };
        let change = administrator.begin(&format!("--confirm {seconds} {command}"))?;
        wait_until(&format!("{what}: the change"), BACK, || {
            Ok(world.revision()? > before)
        })?;
        if dies {
            thread::sleep(Duration::from_millis((dice >> 40) % 1000));
            world.gateway.kill().context(what.clone())?;
            world.gateway.start().context(what.clone())?;
        } else {
            thread::sleep(AWAITED);
        }
        drop(change);
        slowest = slowest.max(administrator.await_access(&what)?);
        let found = world.gateway.adit(["export"])?.stdout;
        ensure!(found.ends_with(&wanted), "{what}: {found}");
        ensure!(awaiting(&world)?.is_null(), "{what}: still awaited");
    }
    Findings::note(&format!(
        "figure: access back after {rounds} breaking changes, the slowest {} ms after its time",
        slowest.as_millis()
    ));
    Ok(())
}
