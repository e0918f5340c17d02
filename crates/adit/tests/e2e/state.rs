//! The gateway's memory: a full disk, a damaged or newer database, a lost key. Packets keep flowing, and nothing is lost or
//! begun anew in silence.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use adit_lab::{Lab, Topology};
use anyhow::{Context as _, Result, ensure};

use crate::support::{
    Conversation, Device, INTERNET6, Snapshot, World, at, binary, converse, listen,
};

/// A small file system on the state directory; gone before the lab is.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    fn mount(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs"])
            .arg(path)
            .status()?;
        ensure!(status.success(), "mount tmpfs: {status}");
        Ok(Self {
            path: path.to_owned(),
        })
    }
}

/// Fields are dropped in order: the file system goes before the lab's folder, in which it is mounted.
struct Cramped {
    _disk: SmallDisk,
    world: World,
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the daemon, which the lab ends, still has files there.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
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
    let lab = Lab::temporary(&Topology::by_name("routed")?, "e2e-disk")?;
    let state_dir = lab.folder().join("state");
    let disk = SmallDisk::mount(&state_dir)?;
    let gateway = lab.start_gateway(binary())?;
    let cramped = Cramped {
        _disk: disk,
        world: World { gateway, lab },
    };
    let world = &cramped.world;
    let prefix = world.prefix()?;
    world.adit(&format!(
        "subnet add lan --ipv4 10.59.0.0/24 --ipv6 {prefix}"
    ))?;
    let (_server, mut conversation) = reached(world)?;

    let filler = state_dir.join("filler");
    let mut size = 1 << 20;
    // To the last page: each write that no longer fits is halved.
    let mut file = fs::File::create(&filler)?;
    while size >= 512 {
        if std::io::Write::write_all(&mut file, &vec![0; size]).is_err() {
            size /= 2;
        }
    }
    drop(file);
    let before = world.revision()?;
    let mut refusal = None;
    for number in 0..64 {
        let label = "x".repeat(180);
        let command = format!("pinhole add box {} --label {label}", 1000 + number);
        let output = world.gateway.try_adit(command.split(' '))?;
        if !output.status.success() {
            refusal = Some(output.stderr);
            break;
        }
    }
    let refusal = refusal.context("64 changes were taken on a full disk")?;
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
    conversation
        .talk()
        .context("packets while the disk is full")?;

    fs::remove_file(&filler)?;
    world.adit("pinhole add box 2000")?;
    conversation.talk()
}

#[test]
fn a_state_that_cannot_be_trusted_stops_the_start_and_nothing_else() -> Result<()> {
    let mut world = World::with_subnet("on-link", "e2e-damage")?;
    let (device, mut conversation) = reached(&world)?;
    let devices = world.list("device")?;
    world.gateway.terminate()?;
    let vps = world.host("vps")?;
    let interface = world.gateway.interface().to_owned();
    let before = Snapshot::of_all(&vps)?;
    let database = world.gateway.state_dir().join("adit.db");
    let key = world.gateway.state_dir().join("private.key");
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

    let name = b"\"box\"";
    let mut damaged = good.clone();
    let place = good.windows(name.len()).position(|bytes| bytes == name);
    let byte = place.and_then(|place| damaged.get_mut(place + 1));
    *byte.context("the device's name in the database")? ^= 1;
    fs::write(&database, &damaged)?;
    refuses("a flipped bit", &["adit.db", "damaged"])?;
    fs::write(&database, b"")?;
    refuses("an emptied database", &["adit.db"])?;
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
    let names = |list: &[serde_json::Value]| -> Vec<String> {
        list.iter()
            .map(|device| device["name"].to_string())
            .collect()
    };
    ensure!(names(&world.list("device")?) == names(&devices));
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
