//! Canaries: secrets that are known are looked for in everything that the gateway shows, writes and leaves behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use adit_lab::wait_until;
use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::World;

/// The secrets by name, in every form that programs write bytes in.
struct Canaries(BTreeMap<&'static str, Vec<Vec<u8>>>);

const GATEWAY_KEY: &str = "the gateway's private key";
const DEVICE_KEY: &str = "a device's private key";
const PRESHARED_KEY: &str = "a preshared key";
const TOKEN: &str = "a token";

impl Canaries {
    fn add_key(&mut self, name: &'static str, base64: &str) -> Result<()> {
        let bytes = STANDARD.decode(base64.trim())?;
        ensure!(bytes.len() == 32, "{name} has {} bytes", bytes.len());
        self.add(name, &bytes);
        Ok(())
    }

    fn add(&mut self, name: &'static str, bytes: &[u8]) {
        let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let list: Vec<String> = bytes.iter().map(u8::to_string).collect();
        let base64 = STANDARD.encode(bytes);
        // What follows in a longer text changes the last characters.
        let base64 = base64.trim_end_matches('=').get(..40).unwrap_or_default();
        self.0.insert(
            name,
            vec![
                bytes.to_vec(),
                base64.as_bytes().to_vec(),
                hexadecimal.to_uppercase().into_bytes(),
                hexadecimal.into_bytes(),
                list.join(", ").into_bytes(),
            ],
        );
    }

    fn found_in(&self, bytes: &[u8]) -> BTreeSet<&'static str> {
        let holds = |form: &Vec<u8>| bytes.windows(form.len()).any(|window| window == form);
        self.0
            .iter()
            .filter(|(_, forms)| forms.iter().any(holds))
            .map(|(name, _)| *name)
            .collect()
    }

    /// Fails with the name of the place, and says nothing of what is there.
    fn check(&self, place: &str, bytes: &[u8], allowed: &[&str]) -> Result<()> {
        let found = self.found_in(bytes);
        let mut leaked = found.iter().filter(|name| !allowed.contains(name));
        match leaked.next() {
            None => Ok(()),
            Some(name) => anyhow::bail!("{name} is in {place}"),
        }
    }
}

#[test]
fn secrets_are_where_they_belong_and_nowhere_else() -> Result<()> {
    let mut world = World::start("routed", "e2e-secrets")?;
    world.gateway.terminate()?;
    world.gateway.set_environment("RUST_LOG", "trace".as_ref());
    world.gateway.start()?;
    world.adit("subnet add lan --ipv4 10.59.0.0/24")?;
    let stop = AtomicBool::new(false);
    let daemon = world.gateway.process_id()?.context("a daemon")?;
    let (planted, processes) = thread::scope(|scope| -> Result<_> {
        let watcher = scope.spawn(|| watch_processes(daemon, &stop));
        let planted = plant(&world);
        thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        let processes = watcher.join().ok().context("the watcher of processes")?;
        Ok((planted?, processes))
    })?;
    let Planted { canaries, texts } = planted;

    let names: Vec<&String> = processes.keys().collect();
    ensure!(
        names.iter().any(|name| name.contains("adit")) && names.len() > 1,
        "the daemon and its children were not seen: {names:?}"
    );
    for (name, bytes) in &processes {
        canaries.check(&format!("a process: {name}"), bytes, &[])?;
    }

    world.refused("device add canary")?;

    // The search itself: the secrets are found where they are.
    let key = fs::read(world.gateway.state_dir().join("private.key"))?;
    ensure!(canaries.found_in(&key) == [GATEWAY_KEY].into());
    let database = fs::read(world.gateway.state_dir().join("adit.db-wal"))?;
    ensure!(canaries.found_in(&database) == [PRESHARED_KEY].into());

    ask_everything(&world, &canaries)?;
    send_nonsense(&world, &canaries, &texts)?;
    run_everything(&world, &canaries)?;

    wait_until("a snapshot of all of it", Duration::from_secs(20), || {
        let text = fs::read_to_string(world.gateway.state_dir().join("adit.snapshot"))?;
        ensure!(text.contains("canary"), "no device in the snapshot");
        Ok(true)
    })?;
    check_files(&world, &canaries)?;
    let log = world.gateway.log()?;
    ensure!(
        log.contains("DEBUG") && log.contains("a change was not made"),
        "the log is not as verbose as it can be"
    );
    canaries.check("the log", log.as_bytes(), &[])?;

    crash(&mut world)?;
    world.gateway.start()?;
    check_files(&world, &canaries)
}

struct Planted {
    canaries: Canaries,
    /// The secrets as the gateway showed them once.
    texts: Vec<String>,
}

/// Makes the gateway make secrets, and takes them from the answers that show them once.
fn plant(world: &World) -> Result<Planted> {
    let mut canaries = Canaries(BTreeMap::new());
    let key = fs::read_to_string(world.gateway.state_dir().join("private.key"))?;
    canaries.add_key(GATEWAY_KEY, &key)?;
    let answer = world.adit("device add canary --kind server")?;
    let text = answer["config"].as_str().context("a configuration")?;
    let value = |name: &str| -> Result<String> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
        let line = lines.next().with_context(|| format!("no {name}"))?;
        Ok(line.trim_start_matches([' ', '=']).to_owned())
    };
    let (private, preshared) = (value("PrivateKey")?, value("PresharedKey")?);
    canaries.add_key(DEVICE_KEY, &private)?;
    canaries.add_key(PRESHARED_KEY, &preshared)?;
    world.adit("forward add 8080/tcp canary")?;
    world.adit("device add other")?;
    world.adit("device rekey other")?;
    let token = world.adit("token add canary --scope write")?;
    let secret = token["secret"].as_str().context("a secret")?.to_owned();
    let (_, hexadecimal) = secret.split_once('_').context("the form of a token")?;
    let bytes: Vec<u8> = (0..hexadecimal.len() / 2)
        .map(|index| {
            Ok(u8::from_str_radix(
                &hexadecimal[2 * index..2 * index + 2],
                16,
            )?)
        })
        .collect::<Result<_>>()?;
    canaries.add(TOKEN, &bytes);
    Ok(Planted {
        canaries,
        texts: vec![key.trim().to_owned(), private, preshared, secret],
    })
}

/// What processes show of themselves: all that the daemon starts, for as long as it is watched.
fn watch_processes(daemon: i32, stop: &AtomicBool) -> BTreeMap<String, Vec<u8>> {
    let mut seen: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = namespace(&daemon.to_string());
    while !stop.load(Ordering::Relaxed) {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if !pid.bytes().all(|byte| byte.is_ascii_digit()) || namespace(&pid) != own {
                continue;
            }
            let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
            let command = read("cmdline");
            let name = String::from_utf8_lossy(&command).replace('\0', " ");
            let all = [command, read("environ"), read("comm")].concat();
            seen.entry(name.chars().take(60).collect())
                .or_default()
                .extend(all);
        }
    }
    seen
}

/// Everything that can be read over HTTP, with every id and name.
fn ask_everything(world: &World, canaries: &Canaries) -> Result<()> {
    let document = body_of(&http(world, "GET", "/api/v1/openapi.json", "", None)?)?;
    let paths = document["paths"].as_object().context("paths")?;
    let last = 12;
    let references: Vec<String> = (1..=last)
        .map(|id| id.to_string())
        .chain(["canary", "other", "lan", "eth0"].map(str::to_owned))
        .collect();
    let mut asked = 0;
    for (path, operations) in paths {
        if operations.get("get").is_none() {
            continue;
        }
        let concrete: Vec<String> = match path.split_once('{') {
            None => vec![path.clone()],
            Some((before, rest)) => {
                let (_, after) = rest.split_once('}').context("a parameter")?;
                let fill = |reference: &String| format!("{before}{reference}{after}");
                references.iter().map(fill).collect()
            }
        };
        // A configuration is what brings the preshared key to the device.
        let allowed: &[&str] = match path.ends_with("/config") {
            true => &[PRESHARED_KEY],
            false => &[],
        };
        for path in concrete {
            let answer = http(world, "GET", &path, "", None)?;
            canaries.check(&format!("GET {path}"), &answer, allowed)?;
            asked += usize::from(answer.starts_with(b"HTTP/1.1 200"));
        }
    }
    ensure!(asked > 15, "only {asked} things could be read");
    Ok(())
}

/// Requests that are wrong and hold secrets: what comes back, and what is logged, must not.
fn send_nonsense(world: &World, canaries: &Canaries, texts: &[String]) -> Result<()> {
    for secret in texts {
        for (path, body) in [
            (
                "/api/v1/devices",
                format!(r#"{{"name": "wrong", "public_key": "{secret}x"}}"#),
            ),
            (
                "/api/v1/devices",
                format!(r#"{{"name": "wrong", "public_key": "x{secret}"#),
            ),
            (
                "/api/v1/devices/canary/rekey",
                format!(r#"{{"public_key": " {secret} {secret}"}}"#),
            ),
        ] {
            let answer = http(world, "POST", path, &body, None)?;
            ensure!(
                answer.starts_with(b"HTTP/1.1 4"),
                "{path}: {}",
                String::from_utf8_lossy(&answer)
            );
            canaries.check(&format!("a refusal of POST {path}"), &answer, &[])?;
        }
        // These get back what they sent, if anything; the log is what counts.
        http(
            world,
            "POST",
            "/api/v1/devices",
            &format!(r#"{{"name": ["{secret}"]}}"#),
            None,
        )?;
        http(
            world,
            "POST",
            "/api/v1/tokens",
            &format!(r#"{{"{secret}": 1}}"#),
            None,
        )?;
        let header = format!("Authorization: Bearer {secret}");
        http(world, "GET", "/api/v1/status", "", Some(&header))?;
        let header = format!("Idempotency-Key: {secret}");
        http(world, "POST", "/api/v1/devices", "{}", Some(&header))?;
    }
    Ok(())
}

/// Every command that shows something.
fn run_everything(world: &World, canaries: &Canaries) -> Result<()> {
    let commands = [
        "status",
        "uplink list",
        "subnet list",
        "subnet show lan",
        "device list",
        "device show canary",
        "device show nobody",
        "forward list",
        "pinhole list",
        "token list",
        "settings show",
        "log",
    ];
    for command in commands {
        for ending in ["", " --json", " -vv"] {
            let line = format!("{command}{ending}");
            let output = world.gateway.try_adit(line.split(' '))?;
            let all = format!("{}{}", output.stdout, output.stderr);
            canaries.check(&format!("`adit {line}`"), all.as_bytes(), &[])?;
        }
    }
    let output = world.gateway.adit(["device", "config", "canary"])?;
    canaries.check(
        "a configuration",
        output.stdout.as_bytes(),
        &[PRESHARED_KEY],
    )
}

fn check_files(world: &World, canaries: &Canaries) -> Result<()> {
    for folder in [world.gateway.state_dir(), world.gateway.runtime_dir()] {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let allowed: &[&str] = match name.as_str() {
                "private.key" => &[GATEWAY_KEY],
                _ if name.starts_with("adit.db") || name.starts_with("adit.snapshot") => {
                    &[PRESHARED_KEY]
                }
                _ => &[],
            };
            if path.is_file() {
                canaries.check(&name, &fs::read(&path)?, allowed)?;
            }
        }
    }
    Ok(())
}

/// A crash leaves no core file, even where they are wanted; that one would be left is shown by another process.
fn crash(world: &mut World) -> Result<()> {
    let daemon = world.gateway.process_id()?.context("a daemon")?;
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    ensure!(
        !pattern.trim_start().starts_with(['|', '/']),
        "core files go to {pattern}: this test looks for them in a folder of its own"
    );
    let folder = world.lab.folder().join("cores");
    fs::create_dir_all(&folder)?;
    let mut control = Command::new("sleep")
        .arg("60")
        .current_dir(&folder)
        .stdin(Stdio::null())
        .spawn()?;
    let here = fs::read_link(format!("/proc/{daemon}/cwd"))?;
    let before = cores_in(&here)?;
    let allow = |pid: String| {
        Command::new("prlimit")
            .args(["--core=unlimited:unlimited", "--pid", &pid])
            .stderr(Stdio::null())
            .status()
    };
    ensure!(allow(control.id().to_string())?.success(), "prlimit");
    // Where the limit can be lifted again, what keeps the file from being written is that the process is not dumpable.
    if !allow(daemon.to_string())?.success() {
        let limits = fs::read_to_string(format!("/proc/{daemon}/limits"))?;
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let numbers: Vec<&str> = line
            .unwrap_or_default()
            .split_whitespace()
            .skip(4)
            .collect();
        ensure!(numbers.starts_with(&["0", "0"]), "{line:?}");
    }
    kill(Pid::from_raw(control.id().cast_signed()), Signal::SIGSEGV)?;
    control.wait()?;
    ensure!(
        !cores_in(&folder)?.is_empty(),
        "no process leaves a core file here"
    );
    kill(Pid::from_raw(daemon), Signal::SIGABRT)?;
    wait_until("the daemon's end", Duration::from_secs(10), || {
        ensure!(!world.gateway.is_running()?, "it still runs");
        Ok(true)
    })?;
    let left = cores_in(&here)?;
    let new: Vec<&String> = left.difference(&before).collect();
    ensure!(
        new.is_empty(),
        "the daemon left {new:?} in {}",
        here.display()
    );
    Ok(())
}

fn cores_in(folder: &Path) -> Result<BTreeSet<String>> {
    let names = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<BTreeSet<_>>>()?;
    Ok(names
        .into_iter()
        .filter(|name| name.starts_with("core"))
        .collect())
}

/// One request on the administrator's socket; everything that comes back, a stream's first second.
fn http(
    world: &World,
    method: &str,
    path: &str,
    body: &str,
    header: Option<&str>,
) -> Result<Vec<u8>> {
    let mut stream = UnixStream::connect(world.gateway.runtime_dir().join("adit.sock"))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let header = header.map_or(String::new(), |header| format!("{header}\r\n"));
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => Err(error.into()),
        Ok(_) | Err(_) => Ok(answer),
    }
}

fn body_of(answer: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(answer)?;
    let (_, body) = text.split_once("\r\n\r\n").context("a body")?;
    Ok(serde_json::from_str(body)?)
}
