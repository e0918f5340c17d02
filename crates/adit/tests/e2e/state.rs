//! The gateway's memory: a full disk, a damaged or newer database, a lost key. Packets keep flowing, and nothing is lost or
//! begun anew in silence.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use adit_lab::{Lab, Topology, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::support::{
    Conversation, Device, INTERNET6, Snapshot, World, at, binary, converse, listen,
};

/// A file system of its own on the state directory; gone before the lab is.
struct Disk {
    path: PathBuf,
}

impl Disk {
    /// One mebibyte.
    fn small(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        let disk = Self {
            path: path.to_owned(),
        };
        mount(["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs"], path)?;
        Ok(disk)
    }

    /// One that goes read-only when it finds an error, with its content in `image`.
    fn fragile(path: &Path, image: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        fs::File::create(image)?.set_len(32 << 20)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image))?;
        let disk = Self {
            path: path.to_owned(),
        };
        // The daemon has a mount namespace of its own, which follows what happens on a shared mount.
        mount(["--bind", path.to_str().context("a path")?], path)?;
        mount(["--make-shared"], path)?;
        disk.mount_image(image, "rw")?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        Ok(disk)
    }

    fn mount_image(&self, image: &Path, how: &str) -> Result<()> {
        let options = format!("loop,{how},errors=remount-ro");
        let image = image.to_str().context("a path")?;
        mount(["-o", &options, image], &self.path)
    }

    fn remount(&self, how: &str) -> Result<()> {
        mount(["-o", &format!("remount,{how}")], &self.path)
    }

    fn unmount(&self) -> Result<()> {
        run(Command::new("umount").arg(&self.path))
    }

    /// As a failing disk does it to its file system.
    fn fail(image: &Path) -> Result<()> {
        let source = Command::new("losetup")
            .args(["--noheadings", "--output", "NAME", "--associated"])
            .arg(image)
            .output()?
            .stdout;
        let source = String::from_utf8(source)?;
        let name = source.trim().trim_start_matches("/dev/");
        let trigger = format!("/sys/fs/ext4/{name}/trigger_fs_error");
        fs::write(&trigger, "end-to-end test").with_context(|| trigger.clone())
    }

    /// To the last page: each write that no longer fits is halved.
    fn fill(&self) -> Result<PathBuf> {
        let filler = self.path.join("filler");
        let mut size = 1 << 20;
        let mut file = fs::File::create(&filler)?;
        while size >= 512 {
            if std::io::Write::write_all(&mut file, &vec![0; size]).is_err() {
                size /= 2;
            }
        }
        Ok(filler)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the daemon, which the lab ends, still has files there.
        let unmount = || {
            Command::new("umount")
                .args(["-q", "-l"])
                .arg(&self.path)
                .status()
        };
        while unmount().is_ok_and(|status| status.success()) {}
    }
}

/// Fields are dropped in order: the file system goes before the lab's folder, in which it is mounted.
struct OnDisk {
    disk: Disk,
    world: World,
}

impl OnDisk {
    fn start(purpose: &str, disk: impl FnOnce(&Path, &Path) -> Result<Disk>) -> Result<Self> {
        let lab = Lab::temporary(&Topology::by_name("routed")?, purpose)?;
        let disk = disk(&lab.folder().join("state"), &lab.folder())?;
        let gateway = lab.start_gateway(binary())?;
        let world = World::of(gateway, lab);
        let prefix = world.prefix()?;
        world.adit(&format!(
            "subnet add lan --ipv4 10.59.0.0/24 --ipv6 {prefix}"
        ))?;
        Ok(Self { disk, world })
    }
}

fn mount<const N: usize>(arguments: [&str; N], path: &Path) -> Result<()> {
    run(Command::new("mount").args(arguments).arg(path))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// Waits until `adit status` names a problem of this code, or no longer does; the problem.
fn await_problem(world: &World, code: &str, is_there: bool) -> Result<Option<Value>> {
    let mut found = None;
    let what = format!("adit status with {code}: {is_there}");
    wait_until(&what, Duration::from_secs(20), || {
        let status = world.adit("status")?;
        let problems = status["problems"].as_array().context("problems")?;
        found = problems.iter().find(|it| it["code"] == code).cloned();
        ensure!(found.is_some() == is_there, "{problems:?}");
        Ok(true)
    })?;
    Ok(found)
}

/// Changes until one is refused; the refusal.
fn exhaust(world: &World) -> Result<String> {
    for number in 0..64 {
        let label = "x".repeat(180);
        let command = format!("pinhole add box {} --label {label}", 1000 + number);
        let output = world.gateway.try_adit(command.split(' '))?;
        if !output.status.success() {
            return Ok(output.stderr);
        }
    }
    anyhow::bail!("64 changes were taken")
}

fn reached(world: &World) -> Result<(Device, Conversation)> {
    let server = world.join("box", "--kind server")?;
    world.adit("pinhole add box 80/tcp")?;
    let web = listen(&server.host, at(server.ipv6()?, 80))?;
    let internet = world.host("internet")?;
    let conversation = converse(&internet, None, at(server.ipv6()?, 80), &web)?;
    Ok((server, conversation))
}

#[test]
fn a_full_disk_refuses_changes_and_stops_no_packet() -> Result<()> {
    let mut place = OnDisk::start("e2e-disk", |state, _| Disk::small(state))?;
    let OnDisk { disk, world } = &mut place;
    let (_server, mut conversation) = reached(world)?;
    // Once it is quiet, the snapshot of it is on the disk.
    wait_until("a snapshot", Duration::from_secs(20), || {
        let text = fs::read_to_string(world.gateway.state_dir().join("adit.snapshot"))?;
        ensure!(text.contains("\"box\""), "no device in {text}");
        Ok(true)
    })?;

    let filler = disk.fill()?;
    let before = world.revision()?;
    let refusal = exhaust(world)?;
    ensure!(
        refusal.contains("disk is full"),
        "the refusal does not say why: {refusal}"
    );
    let kept = world.revision()?;
    let pinholes = world.list("pinhole")?.len();
    ensure!(
        kept >= before && pinholes as u64 == 1 + kept - before,
        "revision {kept} after {before} with {pinholes} pinholes"
    );
    await_problem(world, "state-not-writable", true)?;
    if kept > before {
        await_problem(world, "snapshot-failed", true)?;
    }
    conversation
        .talk()
        .context("packets while the disk is full")?;

    // A boot on the full disk: settings are as the kernel has them, and the record is of another boot.
    let vps = world.host("vps")?;
    let forwarding = [
        "net.ipv4.conf.all.forwarding",
        "net.ipv6.conf.all.forwarding",
    ];
    let is_on =
        |name: &str| -> Result<bool> { Ok(vps.exec(["sysctl", "-n", name])?.stdout.trim() == "1") };
    world.gateway.terminate()?;
    let record = world.gateway.state_dir().join("sysctls.json");
    let text = fs::read_to_string(&record)?;
    let boot = text.replacen("\"boot\": \"", "\"boot\": \"0", 1);
    ensure!(boot != text, "no boot in {text}");
    fs::write(&filler, "")?;
    fs::write(&record, boot)?;
    for name in forwarding {
        vps.exec(["sysctl", "-w", &format!("{name}=0")])?;
    }
    disk.fill()?;
    world.gateway.start()?;
    for name in forwarding {
        ensure!(is_on(name)?, "{name} is off after a boot with a full disk");
    }
    ensure!(world.revision()? == kept && world.list("pinhole")?.len() == pinholes);
    conversation
        .talk()
        .context("packets after a boot with a full disk")?;
    await_problem(world, "state-not-writable", true)?;

    fs::remove_file(&filler)?;
    await_problem(world, "state-not-writable", false)?;
    await_problem(world, "snapshot-failed", false)?;
    world.adit("pinhole add box 2000")?;
    conversation.talk()?;
    world.gateway.terminate()?;
    world.gateway.teardown()?;
    for name in forwarding {
        ensure!(!is_on(name)?, "{name} is not put back as the boot left it");
    }
    Ok(())
}

#[test]
fn a_disk_that_takes_no_writes_refuses_changes_and_stops_no_packet() -> Result<()> {
    let mut place = OnDisk::start("e2e-readonly", |state, folder| {
        Disk::fragile(state, &folder.join("disk"))
    })?;
    let OnDisk { disk, world } = &mut place;
    let image = world.lab.folder().join("disk");
    let (_server, mut conversation) = reached(world)?;
    let before = world.revision()?;

    Disk::fail(&image)?;
    let refused = world.refused("pinhole add box 81")?;
    ensure!(
        refused.code == "store" && refused.message.contains("read-only"),
        "{refused:?}"
    );
    let problem = await_problem(world, "state-not-writable", true)?;
    let text = problem.map(|problem| problem.to_string());
    ensure!(
        text.as_ref().is_some_and(|text| text.contains("read-only")),
        "{text:?}"
    );
    conversation.talk().context("packets on a failed disk")?;

    // Repaired while the daemon runs: it keeps nothing open there.
    disk.unmount()?;
    let refused = world.refused("pinhole add box 82")?;
    ensure!(refused.code == "store", "{refused:?}");
    ensure!(
        fs::read_dir(world.gateway.state_dir())?.next().is_none(),
        "something was begun where the disk was"
    );
    disk.mount_image(&image, "rw")?;
    world.adit("pinhole add box 83")?;
    ensure!(world.revision()? == before + 1);
    await_problem(world, "state-not-writable", false)?;

    // Read-only from the start.
    world.gateway.terminate()?;
    disk.remount("ro")?;
    world.gateway.start()?;
    ensure!(world.revision()? == before + 1 && world.list("pinhole")?.len() == 2);
    let refused = world.refused("pinhole add box 84")?;
    ensure!(refused.message.contains("read-only"), "{refused:?}");
    await_problem(world, "state-not-writable", true)?;
    conversation.talk().context("packets after a start on it")?;
    disk.remount("rw")?;
    let daemon = world.gateway.process_id()?.context("a daemon")?;
    // The daemon's mount namespace has a flag of its own for each mount.
    run(Command::new("nsenter")
        .args(["--mount", "--target", &daemon.to_string()])
        .args(["mount", "-o", "remount,rw"])
        .arg(world.gateway.state_dir()))?;
    await_problem(world, "state-not-writable", false)?;
    world.adit("pinhole add box 85")?;
    conversation.talk()?;

    world.gateway.kill()?;
    world.gateway.start()?;
    ensure!(world.revision()? == before + 2 && world.list("pinhole")?.len() == 3);
    Ok(())
}

#[test]
fn a_damaged_state_is_restored_when_nothing_is_lost_and_refused_otherwise() -> Result<()> {
    let mut world = World::with_subnet("routed", "e2e-restore")?;
    let (_server, mut conversation) = reached(&world)?;
    world.gateway.terminate()?;
    let directory = world.gateway.state_dir();
    let file = |name: &str| directory.join(name);
    let revision = |world: &World| world.revision();

    // Stopped in peace: the snapshot has everything.
    let mut damaged = fs::read(file("adit.db"))?;
    let name = b"\"box\"";
    let place = damaged.windows(name.len()).position(|bytes| bytes == name);
    let byte = place.and_then(|place| damaged.get_mut(place + 1));
    *byte.context("the device's name in the database")? ^= 1;
    let expected = {
        world.gateway.start()?;
        let expected = (revision(&world)?, names(&world)?);
        world.gateway.terminate()?;
        expected
    };
    fs::write(file("adit.db"), &damaged)?;
    world.gateway.start()?;
    ensure!((revision(&world)?, names(&world)?) == expected);
    conversation.talk()?;
    let problem = await_problem(&world, "state-restored", true)?.context("a problem")?;
    ensure!(
        problem["message"].to_string().contains("with nothing lost"),
        "{problem}"
    );
    ensure!(
        world
            .gateway
            .log()?
            .contains("the state was damaged and restored"),
        "the log says nothing"
    );
    let kept: Vec<PathBuf> = fs::read_dir(&directory)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    let kept: Vec<&PathBuf> = kept
        .iter()
        .filter(|path| path.to_string_lossy().contains("adit.db.damaged-"))
        .collect();
    let is_kept = |path: &&&PathBuf| fs::read(path).is_ok_and(|bytes| bytes == damaged);
    ensure!(kept.iter().find(is_kept).is_some(), "{kept:?}");
    for path in kept {
        fs::remove_file(path)?;
    }
    await_problem(&world, "state-restored", false)?;

    // Killed before a snapshot was made of the last change.
    let older = ["adit.snapshot", "adit.snapshot.1"];
    let contents = older.map(|name| fs::read(file(name)).unwrap_or_default());
    world.adit("pinhole add box 81")?;
    world.gateway.kill()?;
    for (name, content) in older.iter().zip(contents) {
        fs::write(file(name), content)?;
    }
    let last = expected.0 + 1;
    let whole = files(&directory)?;
    fs::write(file("adit.db"), "")?;
    let vps = world.host("vps")?;
    let before = Snapshot::of_all(&vps)?;
    let error = match world.gateway.start() {
        Ok(()) => anyhow::bail!("it started with a change lost"),
        Err(error) => format!("{error:#}"),
    };
    let way_out = format!("adit gateway recover --state-dir {}", directory.display());
    for text in [&format!("revision {last} would be lost"), &way_out] {
        ensure!(error.contains(text), "no `{text}` in {error}");
    }
    before.ensure_same(&Snapshot::of_all(&vps)?)?;
    conversation.talk()?;

    // What the refusal names works; and so does putting everything back.
    let mut command = vec![binary().to_str().context("a path")?];
    command.extend(way_out.split(' ').skip(1));
    let said = vps.exec(&command)?.stdout;
    ensure!(said.contains("adit.snapshot"), "{said}");
    world.gateway.start()?;
    ensure!(revision(&world)? == last + 1, "a revision came again");
    ensure!(world.list("pinhole")?.len() == 1);
    conversation.talk()?;
    world.gateway.terminate()?;
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        if !whole.contains_key(&path) {
            fs::remove_file(path)?;
        }
    }
    for (path, bytes) in &whole {
        fs::write(path, bytes)?;
    }
    world.gateway.start()?;
    ensure!(revision(&world)? == last && world.list("pinhole")?.len() == 2);
    conversation.talk()
}

#[test]
fn a_state_that_cannot_be_trusted_stops_the_start_and_nothing_else() -> Result<()> {
    let mut world = World::with_subnet("on-link", "e2e-damage")?;
    let (device, mut conversation) = reached(&world)?;
    let devices = names(&world)?;
    world.gateway.terminate()?;
    let vps = world.host("vps")?;
    let interface = world.gateway.interface().to_owned();
    let before = Snapshot::of_all(&vps)?;
    let directory = world.gateway.state_dir();
    let whole = files(&directory)?;
    let database = directory.join("adit.db");
    let key = directory.join("private.key");
    let good = fs::read(&database)?;

    let mut refuses = |what: &str, said: &[&str]| -> Result<()> {
        let error = match world.gateway.start() {
            Ok(()) => anyhow::bail!("{what}: the gateway started"),
            Err(error) => format!("{error:#}"),
        };
        for text in said {
            ensure!(error.contains(text), "{what}: no `{text}` in {error}");
        }
        ensure!(!world.gateway.is_running()?, "{what}: it still runs");
        before
            .ensure_same(&Snapshot::of_all(&vps)?)
            .with_context(|| what.to_owned())?;
        conversation.talk().with_context(|| what.to_owned())
    };

    for path in whole.keys().filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("adit.")
    }) {
        fs::remove_file(path)?;
    }
    refuses(
        "a key and nothing else",
        &["private.key", "shows that there was", "--empty"],
    )?;
    ensure!(!database.exists(), "an empty database was made");
    for (path, bytes) in &whole {
        fs::write(path, bytes)?;
    }
    let mut newer = good.clone();
    newer
        .get_mut(60..64)
        .context("a header")?
        .copy_from_slice(&99_u32.to_be_bytes());
    fs::write(&database, &newer)?;
    refuses("a newer database", &["schema 99", "Install"])?;
    fs::write(&database, &good)?;

    let hidden = key.with_extension("hidden");
    fs::rename(&key, &hidden)?;
    refuses("a missing key", &["private.key", "missing"])?;
    ensure!(!key.exists(), "a new key was made");
    fs::write(&key, "no key\n")?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    refuses("a malformed key", &["private.key", "malformed"])?;
    fs::rename(&hidden, &key)?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    refuses("an open key", &["private.key", "chmod 600"])?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;

    world.gateway.start()?;
    ensure!(names(&world)? == devices);
    ensure!(world.gateway.interface() == interface);
    conversation.talk()?;
    let internet = world.host("internet")?;
    let far = listen(&internet, at(INTERNET6, 7905))?;
    converse(
        &device.host,
        Some(at(device.ipv6()?, 0)),
        at(INTERNET6, 7905),
        &far,
    )?;
    Ok(())
}

fn names(world: &World) -> Result<Vec<String>> {
    let devices = world.list("device")?;
    Ok(devices.iter().map(|it| it["name"].to_string()).collect())
}

/// Everything in a folder.
fn files(directory: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    fs::read_dir(directory)?
        .map(|entry| {
            let path = entry?.path();
            let bytes = fs::read(&path)?;
            Ok((path, bytes))
        })
        .collect()
}
