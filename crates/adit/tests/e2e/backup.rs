//! A gateway moves to another VPS: everything comes along, and what still names the old one is told.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_lab::wait_until;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::{Device, Faults, Findings, World, at, connect, converse, listen, oracle};

/// The address of the other VPS.
const MOVED: &str = "203.0.113.77";

struct Scene {
    world: World,
    laptop: Device,
    folder: PathBuf,
    /// What does not depend on the host.
    content: String,
    key: Value,
}

impl Scene {
    fn start() -> Result<Self> {
        let world = World::with_subnet("routed", "e2e-backup")?;
        world.adit("subnet set lan --host-access on")?;
        let laptop = world.join("laptop", "")?;
        world.adit("device add box --kind server --public-key xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=")?;
        world.adit("forward add 203.0.113.2:9000/tcp laptop")?;
        world.adit("forward add 9001/tcp laptop")?;
        world.adit("token add ci --scope read")?;
        world.adit("settings set clamp-mtu 1300")?;
        let content = Self::content(&world)?;
        let key = world.adit("status")?["public_key"].clone();
        let folder = world.lab.folder().to_owned();
        Ok(Self {
            world,
            laptop,
            folder,
            content,
            key,
        })
    }

    fn content(world: &World) -> Result<String> {
        let text = world.gateway.adit(["export"])?.stdout;
        let text = text.split_once("\n\n").context("a document")?.1;
        Ok(format!("{text}{:?}", world.list("token")?))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn back_up(&self, name: &str, options: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let done = self
            .world
            .adit(&format!("backup {} {options}", path.display()))?;
        ensure!(done["objects"].as_u64() > Some(5), "{done}");
        let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{name} has mode {mode:o}");
        Ok(path)
    }

    fn restore(&self, path: &Path, options: &str) -> Result<Value> {
        self.world
            .adit(&format!("restore {} {options}", path.display()))
    }

    /// As a new VPS with another address: nothing of the old one is there.
    fn move_away(&mut self, name: &str, address: &str) -> Result<()> {
        let gateway = &mut self.world.gateway;
        gateway.terminate()?;
        gateway.teardown()?;
        fs::rename(gateway.state_dir(), self.folder.join(name))?;
        let vps = gateway.host();
        vps.exec(["ip", "-4", "address", "flush", "dev", "eth0"])?;
        vps.exec([
            "ip",
            "address",
            "add",
            &format!("{address}/24"),
            "dev",
            "eth0",
        ])?;
        vps.exec([
            "ip",
            "route",
            "replace",
            "default",
            "via",
            "203.0.113.1",
            "dev",
            "eth0",
        ])?;
        gateway.start()
    }

    /// Everything is there again.
    fn is_complete(&self) -> Result<()> {
        let content = Self::content(&self.world)?;
        ensure!(
            content == self.content,
            "{content}\nis not\n{}",
            self.content
        );
        let status = self.world.adit("status")?;
        ensure!(status["public_key"] == self.key, "{status}");
        Ok(())
    }

    /// And this host has it.
    fn is_back(&self) -> Result<()> {
        self.is_complete()?;
        oracle::check(&self.world)
    }

    /// The laptop knows an address, and is told another.
    fn reconnect(&self, address: &str) -> Result<()> {
        self.renew_endpoint(&format!("{address}:51820"), "")
    }

    /// The laptop knows a name, which leads to the other VPS by now. It looks it up again, as `reresolve-dns` of
    /// wireguard-tools does, and nothing changes on it.
    fn reconnect_by_name(&self, name: &str, address: &str) -> Result<()> {
        let config = self.world.gateway.adit(["device", "config", "laptop"])?;
        let endpoint = config
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix("Endpoint = "))
            .context("Endpoint")?;
        ensure!(endpoint == format!("{name}:51820"), "{endpoint}");
        let hosts = self.path("hosts");
        fs::write(&hosts, format!("{address} {name}\n"))?;
        let names = format!("mount --bind {} /etc/hosts && ", hosts.display());
        self.renew_endpoint(endpoint, &names)
    }

    fn renew_endpoint(&self, endpoint: &str, before: &str) -> Result<()> {
        let interface = &self.laptop.interface;
        let line = format!(
            "{before}wg set {interface} peer $(wg show {interface} peers) endpoint {endpoint}"
        );
        let command = ["unshare", "--mount", "sh", "-c", &line];
        self.laptop.host.exec(command)?;
        // WireGuard takes 15 s to notice that nobody answers in the old session.
        wait_until("the laptop reconnects", Duration::from_secs(40), || {
            self.laptop.await_tunnel()?;
            Ok(true)
        })
    }

    fn named(&self) -> Result<Vec<Value>> {
        let status = self.world.adit("status")?;
        let problems = status["problems"].as_array().context("problems")?;
        let old = problems.iter().filter(|it| it["code"] == "old-address");
        Ok(old.cloned().collect())
    }

    fn about(&self, object: &str) -> Result<Option<String>> {
        let named = self.named()?;
        let found = named.iter().find(|it| {
            it["object"]
                .as_str()
                .is_some_and(|text| text.starts_with(object))
        });
        Ok(found.map(ToString::to_string))
    }
}

#[test]
fn a_gateway_moves_to_another_host() -> Result<()> {
    let mut scene = Scene::start()?;
    let mut findings = Findings::default();
    let first = scene.back_up("first.adit", "")?;
    let text = fs::read_to_string(&first)?;
    let key = fs::read_to_string(scene.world.gateway.state_dir().join("private.key"))?;
    ensure!(text.contains(key.trim()), "the private key is not in it");
    let answer = crate::support::Api::new(scene.world.gateway.runtime_dir());
    let answer = answer.ask("POST", "/backup", &[], None)?;
    ensure!(answer.status == 200 && !answer.text.contains(key.trim()));

    // The same host: nothing names another.
    let made = scene.restore(&first, "--yes")?;
    ensure!(made["running"] == true, "{made}");
    findings.check("on the same host", scene.is_back());
    findings.check("nothing is old there", {
        same(&json!(scene.named()?), &json!([]))
    });
    findings.check("the laptop goes on", scene.laptop.await_tunnel());

    scene.move_away("old", MOVED)?;
    ensure!(scene.world.list("device")?.is_empty());
    let made = scene.restore(&first, "")?;
    findings.check("on another host", scene.is_complete());
    findings.check("told at once", {
        let told = made["problems"].to_string();
        told.contains("old-address").then_some(()).context(told)
    });
    for (object, word) in [
        ("forward", "203.0.113.2"),
        ("subnet lan", "2001:db8:100:1::/64"),
        ("devices", "laptop"),
        ("devices", "box"),
    ] {
        let told = scene.about(object)?.unwrap_or_default();
        findings.check(object, told.contains(word).then_some(()).context(told));
    }
    // What can be nowhere here is not in the kernel either.
    let forward = json!({"port": 9000});
    let id = scene.world.id("forward", &forward)?;
    scene.world.adit(&format!("forward remove {id}"))?;
    scene.content = Scene::content(&scene.world)?;
    let first = scene.back_up("moved.adit", "")?;
    findings.check("without what is nowhere", oracle::check(&scene.world));
    findings.check("a device finds the way", scene.reconnect(MOVED));
    let told = scene.about("devices")?.unwrap_or_default();
    findings.check("it is no longer named", {
        let good = !told.contains("laptop") && told.contains("box");
        good.then_some(()).context(told)
    });
    findings.check("packets from outside", arrives(&scene));
    findings.check("sealed", sealed(&scene));
    findings.check("whom it asks", asks(&scene, &first));
    findings.check("with a name", with_a_name(&mut scene));
    findings.check("killed in between", killed(&mut scene, &first));
    findings.check("without a daemon", offline(&mut scene));
    findings.conclude()
}

fn arrives(scene: &Scene) -> Result<()> {
    let web = listen(&scene.laptop.host, at(scene.laptop.ipv4, 9001))?;
    let outside = scene.world.host("internet")?;
    let moved: std::net::Ipv4Addr = MOVED.parse()?;
    converse(&outside, None, at(moved, 9001), &web)?;
    let old = at(crate::support::PUBLIC4, 9001);
    let early = connect(&outside, None, old, Duration::from_millis(500));
    ensure!(early.is_err(), "the old address answers");
    Ok(())
}

fn sealed(scene: &Scene) -> Result<()> {
    let (good, bad) = (scene.path("good"), scene.path("bad"));
    fs::write(&good, "correct horse battery staple\n")?;
    fs::write(&bad, "another\n")?;
    let option = |path: &Path| format!("--passphrase-file {}", path.display());
    let file = scene.back_up("sealed.adit", &option(&good))?;
    let text = fs::read_to_string(&file)?;
    ensure!(
        !text.contains("public_key") && !text.contains("laptop"),
        "it can be read"
    );
    for options in [String::new(), option(&bad)] {
        let command = format!("restore --yes {} {options}", file.display());
        let refused = scene.world.refused(&command)?;
        ensure!(refused.code == "backup-unusable", "{refused:?}");
        ensure!(refused.hint.contains("--passphrase-file"), "{refused:?}");
    }
    scene.world.adit("device remove box")?;
    scene.restore(&file, &format!("--yes {}", option(&good)))?;
    scene.is_back()
}

/// Nobody is there to be asked; what is damaged, or of another kind, is refused.
fn asks(scene: &Scene, first: &Path) -> Result<()> {
    let refused = scene
        .world
        .refused(&format!("restore {}", first.display()))?;
    ensure!(refused.code == "not-confirmed", "{refused:?}");
    let broken = scene.path("broken.adit");
    let text = fs::read_to_string(first)?;
    fs::write(&broken, text.replace("laptop", "desktop"))?;
    let command = format!("restore --yes {}", broken.display());
    let refused = scene.world.refused(&command)?;
    ensure!(refused.message.contains("checksum"), "{refused:?}");
    Ok(())
}

/// Where devices know a name, no device is told of.
fn with_a_name(scene: &mut Scene) -> Result<()> {
    scene
        .world
        .adit("uplink set eth0 --endpoint gw.example.com")?;
    scene.content = Scene::content(&scene.world)?;
    let file = scene.back_up("named.adit", "")?;
    scene.move_away("second", "203.0.113.78")?;
    scene.restore(&file, "")?;
    scene.is_back()?;
    ensure!(
        scene.about("devices")?.is_none(),
        "{:?}",
        scene.about("devices")?
    );
    ensure!(
        scene
            .about("forward")?
            .is_none_or(|text| !text.contains(MOVED))
    );
    scene.reconnect_by_name("gw.example.com", "203.0.113.78")
}

/// A crash at any step of it leaves a gateway that ends up with the backup.
fn killed(scene: &mut Scene, first: &Path) -> Result<()> {
    let faults = Faults::install(&mut scene.world.gateway)?;
    scene.world.gateway.terminate()?;
    scene.world.gateway.start()?;
    for point in ["restore/staged", "restore/key", "restore/state"] {
        scene
            .world
            .adit("device add extra --public-key VOO+C8DndTc9u3B31XCRmkvQLUI+TyhZPYPJ81YWwkE=")?;
        faults.plan(&format!("kill {point}"))?;
        let command = format!("restore --yes {}", first.display());
        let words: Vec<&str> = command.split(' ').collect();
        let restoring = scene.world.gateway.host().spawn(
            [
                env!("CARGO_BIN_EXE_adit"),
                "--runtime-dir",
                &scene.world.gateway.runtime_dir().to_string_lossy(),
            ]
            .into_iter()
            .chain(words),
        )?;
        wait_until("the daemon dies", Duration::from_secs(20), || {
            Ok(!scene.world.gateway.is_running()?)
        })
        .context(point)?;
        faults.clear()?;
        scene.world.gateway.start().context(point)?;
        drop(restoring);
        let devices = scene.world.list("device")?;
        ensure!(devices.len() == 2, "{point}: {devices:?}");
        let status = scene.world.adit("status")?;
        ensure!(status["public_key"] == scene.key, "{point}: {status}");
        oracle::check(&scene.world).context(point)?;
    }
    Ok(())
}

fn offline(scene: &mut Scene) -> Result<()> {
    scene.content = Scene::content(&scene.world)?;
    scene.world.gateway.terminate()?;
    let state_dir = scene.world.gateway.state_dir();
    let place = format!("--state-dir {}", state_dir.display());
    let file = scene.back_up("offline.adit", &place)?;
    fs::rename(&state_dir, scene.path("third"))?;
    let made = scene.restore(&file, &place)?;
    ensure!(made["running"] == false, "{made}");
    scene.world.gateway.start()?;
    scene.is_back()
}

fn same(left: &Value, right: &Value) -> Result<()> {
    ensure!(left == right, "{left} is not {right}");
    Ok(())
}
