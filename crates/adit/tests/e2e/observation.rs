//! What the gateway tells of itself: the audit log, events, metrics and status, each against what really happened.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use adit_lab::wait_until;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::{Findings, World, at, connect, listen};

const METRICS: u16 = 9586;

/// For an event that is to come.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn the_log_holds_exactly_the_changes_that_were_made_whatever_ends_the_daemon() -> Result<()> {
    let mut world = World::with_subnet("routed", "e2e-log")?;
    let added = world.adit("device add nas --kind server")?;
    world.adit("device add phone")?;
    world.adit("forward add 8080/tcp nas:80 --label web")?;
    world.adit("device set nas --disable")?;
    world.gateway.adit(["device", "config", "nas"])?;
    world.refused("device add nas")?;
    world.adit("device set nas --disable")?;
    world.adit("device remove nas")?;

    let entries = log(&world, "")?;
    let told: Vec<String> = entries.iter().rev().map(brief).collect();
    let expected = [
        "start",
        "add added subnet lan",
        "add added device nas",
        "add added device phone",
        "add added forward 8080/tcp to nas",
        "set changed device nas",
        "show-configuration shown device nas",
        "remove removed device nas, removed forward 8080/tcp to nas",
    ];
    ensure!(told == expected, "{told:#?}");
    let disabled = &entries[entries.len() - 6];
    ensure!(
        disabled["objects"][0]["fields"] == json!({"enabled": {"from": true, "to": false}}),
        "{disabled}"
    );
    for entry in &entries[..entries.len() - 1] {
        ensure!(
            entry["who"] == json!({"kind": "user", "uid": 0, "name": "root"}),
            "{entry}"
        );
    }
    let secret = preshared_key(&added)?;
    let text = format!(
        "{}{}",
        serde_json::to_string(&entries)?,
        world.gateway.log()?
    );
    ensure!(!text.contains(&secret), "the preshared key was told");
    ensure!(text.contains("\"hidden\""), "nothing is said of it");

    let about = log(&world, "--object device/nas")?;
    ensure!(about.len() == 5, "{about:#?}");
    let few = log(&world, "--object device/nas --limit 2")?;
    ensure!(few == about[..2], "{few:#?}");
    let people = world.gateway.adit(["log", "--since", "1h"])?.stdout;
    ensure!(
        people.contains("changed device nas: enabled true → false") && people.contains("root"),
        "{people}"
    );

    killed_while_changing(&mut world)?;
    world.gateway.terminate()?;
    world.gateway.start()?;
    let last = log(&world, "--limit 2")?;
    ensure!(
        last[1]["action"] == "stop" && last[0]["action"] == "start",
        "{last:#?}"
    );
    ensure!(
        !last[0]["detail"].to_string().contains("crash"),
        "{last:#?}"
    );
    Ok(())
}

/// Whenever the daemon is killed: an entry is there if and only if its change is.
fn killed_while_changing(world: &mut World) -> Result<()> {
    for round in 0..3_u16 {
        let mut acknowledged = Vec::new();
        let pid = world.gateway.process_id()?.context("a daemon")?.to_string();
        let vps = world.host("vps")?;
        thread::scope(|scope| -> Result<()> {
            let gateway = &world.gateway;
            let workers: Vec<_> = (0..3)
                .map(|worker: u16| {
                    scope.spawn(move || {
                        let mut done = Vec::new();
                        for number in 0..200 {
                            let port = 1000 + round * 3000 + worker * 1000 + number;
                            let command = format!("pinhole add phone {port} --json");
                            match gateway.try_adit(command.split(' ')) {
                                Ok(output) if output.status.success() => done.push(port),
                                Ok(_) | Err(_) => break,
                            }
                        }
                        done
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(700));
            vps.exec(["kill", "-KILL", &pid])?;
            for worker in workers {
                acknowledged.extend(worker.join().unwrap_or_default());
            }
            Ok(())
        })?;
        wait_until("the gateway is gone", Duration::from_secs(5), || {
            Ok(!world.gateway.is_running()?)
        })?;
        world.gateway.start()?;
        let pinholes: BTreeMap<u64, u64> = world
            .list("pinhole")?
            .iter()
            .map(|pinhole| {
                let number = |name: &str| pinhole[name].as_u64().unwrap_or_default();
                (number("id"), number("version"))
            })
            .collect();
        let entries = log(world, "--limit 2000")?;
        ensure!(
            entries[0]["action"] == "start"
                && entries[0]["detail"].to_string().contains("without a word"),
            "{}",
            entries[0]
        );
        let told: BTreeMap<u64, u64> = entries
            .iter()
            .filter(|entry| entry["objects"][0]["kind"] == "pinhole")
            .map(|entry| {
                let number = |value: &Value| value.as_u64().unwrap_or_default();
                (
                    number(&entry["objects"][0]["id"]),
                    number(&entry["revision"]),
                )
            })
            .collect();
        ensure!(told == pinholes, "log: {told:?}\nstate: {pinholes:?}");
        ensure!(
            !acknowledged.is_empty() && told.len() >= acknowledged.len(),
            "{} were acknowledged, {} are there",
            acknowledged.len(),
            told.len()
        );
        let numbers: BTreeSet<u64> = entries
            .iter()
            .filter_map(|entry| entry["number"].as_u64())
            .collect();
        ensure!(numbers.len() == entries.len(), "a number was used twice");
    }
    Ok(())
}

#[test]
fn listeners_hear_of_changes_once_and_go_on_where_they_were() -> Result<()> {
    let mut world = World::with_subnet("routed", "e2e-events")?;
    let socket = world.gateway.runtime_dir().join("adit.sock");
    let mut stream = Listener::start(&socket, None)?;
    let start = stream.next("start")?;
    ensure!(start.id == Some(world.revision()?), "{start:?}");

    let device = world.join("laptop", "")?;
    let added = stream.next("edits")?;
    let edits = added.data["edits"].as_array().context("edits")?;
    ensure!(edits.len() == 1, "{added:?}");
    let object = &edits[0]["object"];
    ensure!(
        edits[0]["kind"] == "device" && object["ipv4"] == device.ipv4.to_string(),
        "{added:?}"
    );
    let text = added.data.to_string();
    let secret = preshared_key(&device.answer)?;
    ensure!(
        !text.contains(&secret) && !text.contains("preshared"),
        "{text}"
    );

    let before = stream.traffic("laptop", |_| true)?;
    let gateway = "10.59.0.1";
    device
        .host
        .exec(["ping", "-c", "20", "-i", "0.01", "-s", "1000", gateway])?;
    let bytes = |event: &Value| event["received_bytes"].as_u64().unwrap_or_default();
    let after = stream.traffic("laptop", |it| bytes(it) >= bytes(&before) + 20_000)?;
    ensure!(after["connected"] == true, "{after}");
    let endpoint = after["endpoint"].as_str().unwrap_or_default();
    ensure!(!endpoint.is_empty(), "{after}");

    let seen = added.id.context("id")?;
    drop(stream);
    world.adit("pinhole add laptop 80")?;
    world.adit("device set laptop --routing split")?;
    let pinhole = world.id("pinhole", &json!({"device": "laptop"}))?;
    world.adit(&format!("pinhole remove {pinhole}"))?;
    let mut stream = Listener::start(&socket, Some(seen))?;
    for (revision, kind, is_there) in [
        (seen + 1, "pinhole", true),
        (seen + 2, "device", true),
        (seen + 3, "pinhole", false),
    ] {
        let event = stream.next("edits")?;
        let edit = &event.data["edits"][0];
        ensure!(
            event.id == Some(revision)
                && edit["kind"] == kind
                && edit["object"].is_object() == is_there,
            "{event:?}"
        );
    }
    problems_come_and_go(&world, &mut stream)?;

    let stop = Instant::now();
    let status = world.gateway.terminate()?;
    ensure!(status.is_some_and(|status| status.success()), "{status:?}");
    ensure!(
        stop.elapsed() < Duration::from_secs(10),
        "with a listener it ended after {:?}",
        stop.elapsed()
    );
    ensure!(stream.ends()?, "the stream outlives the daemon");
    world.gateway.start()?;
    let last = world.revision()?;
    let mut stream = Listener::start(&socket, Some(last))?;
    world.adit("pinhole add laptop 81")?;
    ensure!(stream.next("edits")?.id == Some(last + 1));
    let mut stream = Listener::start(&socket, Some(seen))?;
    ensure!(stream.next("reset")?.id == Some(last + 1));
    let refused = ask(&socket, "GET /api/v1/events", "Last-Event-ID: x\r\n")?;
    ensure!(refused.starts_with("HTTP/1.1 400"), "{refused}");
    Ok(())
}

fn problems_come_and_go(world: &World, stream: &mut Listener) -> Result<()> {
    world.adit("device add guest --expires 3s")?;
    let event = stream.next("problems")?;
    let appeared = &event.data["appeared"];
    ensure!(
        appeared[0]["code"] == "device-expired" && event.id.is_none(),
        "{event:?}"
    );
    world.adit("device remove guest")?;
    let gone = stream.next("problems")?;
    ensure!(
        gone.data["cleared"] == *appeared && gone.data["appeared"] == json!([]),
        "{gone:?}"
    );
    Ok(())
}

#[test]
fn metrics_are_well_formed_and_move_with_the_traffic() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-metrics")?;
    let vps = world.host("vps")?;
    let device = world.join("laptop", "--delegate 10.77.0.0/24")?;
    let key = world.find("device", &json!({"name": "laptop"}))?["public_key"].clone();
    let key = key.as_str().context("public_key")?;
    let read = || -> Result<Samples> {
        let answer = over_tcp(&vps, "GET /metrics", &format!("127.0.0.1:{METRICS}"))?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        ensure!(answer.contains("text/plain; version=0.0.4"), "{answer}");
        parse(answer.split_once("\r\n\r\n").context("a body")?.1)
    };
    let before = read()?;
    let ipv6 = device.ipv6()?;
    let allowed = format!("{}/32,{ipv6}/128,10.77.0.0/24", device.ipv4);
    let labels = [
        ("allowed_ips", allowed.as_str()),
        ("friendly_name", "laptop"),
        ("interface", world.gateway.interface()),
        ("public_key", key),
    ];
    let received = before.get("wireguard_peer_received_bytes_total", &labels)?;
    let sent = before.get("wireguard_peer_sent_bytes_total", &labels)?;
    let handshake = before.get("wireguard_peer_last_handshake_seconds", &labels)?;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs_f64();
    ensure!(
        (now - 180.0..=now + 1.0).contains(&handshake),
        "{handshake} at {now}"
    );

    world.refused("device add laptop")?;
    world.adit("pinhole add laptop 80")?;
    let gateway = "10.59.0.1";
    device
        .host
        .exec(["ping", "-c", "50", "-i", "0.01", "-s", "1000", gateway])?;
    thread::sleep(Duration::from_millis(1100));
    let after = read()?;
    for (name, before) in [
        ("wireguard_peer_received_bytes_total", received),
        ("wireguard_peer_sent_bytes_total", sent),
    ] {
        let moved = after.get(name, &labels)? - before;
        ensure!((50_000.0..500_000.0).contains(&moved), "{name}: {moved}");
    }
    let moved = |name: &str, labels: &[(&str, &str)]| -> Result<f64> {
        Ok(after.get(name, labels)? - before.get(name, labels).unwrap_or(0.0))
    };
    for (name, labels, by) in [
        ("adit_revision", &[][..], 1.0),
        ("adit_commit_duration_seconds_count", &[], 1.0),
        ("adit_objects", &[("kind", "pinhole")], 1.0),
        ("adit_refusals_total", &[("code", "name-taken")], 1.0),
        (
            "adit_changes_total",
            &[("action", "add"), ("kind", "pinhole")],
            1.0,
        ),
        (
            "adit_http_requests_total",
            &[
                ("method", "POST"),
                ("route", "/api/v1/pinholes"),
                ("status", "201"),
            ],
            1.0,
        ),
        (
            "adit_http_requests_total",
            &[
                ("method", "POST"),
                ("route", "/api/v1/devices"),
                ("status", "409"),
            ],
            1.0,
        ),
    ] {
        let moved = moved(name, labels)?;
        ensure!(
            (moved - by).abs() < 0.5,
            "{name}{labels:?} moved by {moved}"
        );
    }
    ensure!((after.get("adit_applied", &[])? - 1.0).abs() < 0.5);
    ensure!((after.get("adit_devices_connected", &[])? - 1.0).abs() < 0.5);
    ensure!(after.get("process_resident_memory_bytes", &[])? > 1e6);

    let own = format!("127.0.0.1:{METRICS}");
    for (request, host, status) in [
        ("GET /metrics", "evil.example:9586", "403"),
        ("POST /metrics", own.as_str(), "404"),
        ("GET /api/v1/status", own.as_str(), "404"),
    ] {
        let answer = over_tcp(&vps, request, host)?;
        let expected = format!("HTTP/1.1 {status}");
        ensure!(
            answer.starts_with(&expected),
            "{request} of {host}: {answer}"
        );
    }
    let socket = world.gateway.runtime_dir().join("adit.sock");
    let answer = ask(&socket, "GET /metrics", "Connection: close\r\n")?;
    ensure!(
        answer.contains("wireguard_peer_received_bytes_total{"),
        "{answer}"
    );
    Ok(())
}

#[test]
fn status_says_what_is_wrong_and_how_to_mend_it() -> Result<()> {
    let mut world = World::with_subnet("routed", "e2e-status")?;
    let vps = world.host("vps")?;
    let device = world.join("laptop", "")?;
    world.adit("device add spare")?;
    let mut findings = Findings::default();
    findings.check("a healthy gateway", {
        let text = world.gateway.adit(["status", "--check"])?.stdout;
        let says = |part: &str| text.contains(part);
        let all = [
            "Nothing is wrong.",
            "laptop",
            "lan 10.59.0.0/24",
            "203.0.113.2",
        ];
        all.iter()
            .all(|part| says(part))
            .then_some(())
            .with_context(|| text.clone())
            .and_then(|()| {
                let unseen = text.split("Not connected").nth(1).unwrap_or_default();
                ensure!(
                    unseen.contains("spare") && !unseen.contains("laptop"),
                    "{text}"
                );
                Ok(())
            })
    });
    let status = world.adit("status")?;
    ensure!(
        status["connected"][0]["name"] == "laptop"
            && status["connected"][0]["ipv4"] == device.ipv4.to_string()
            && status["counts"]["unseen"] == 1,
        "{status}"
    );

    world.gateway.terminate()?;
    let taken = listen(&vps, at(Ipv4Addr::LOCALHOST, METRICS))?;
    world.gateway.start()?;
    wait_until("a taken port is told", Duration::from_secs(5), || {
        let text = world.gateway.adit(["status"])?.stdout;
        for part in [
            "1 problem:",
            "metrics-listener",
            "fix: see who listens there",
        ] {
            ensure!(text.contains(part), "{text}");
        }
        Ok(true)
    })?;
    let checked = world.gateway.try_adit(["status", "--check", "--json"])?;
    ensure!(checked.status.code() == Some(1), "{checked}");
    let document: Value = serde_json::from_str(&checked.stdout)?;
    ensure!(
        document["applied"] == true && document["problems"][0]["code"] == "metrics-listener",
        "{document}"
    );
    let error: Value = serde_json::from_str(&checked.stderr)?;
    ensure!(error["error"]["code"] == "not-well", "{error}");
    drop(taken);
    findings.conclude()
}

/// Entries of the log, the newest first.
fn log(world: &World, options: &str) -> Result<Vec<Value>> {
    let document = world.adit(&format!("log {options}"))?;
    let entries = document["entries"].as_array();
    Ok(entries.with_context(|| format!("{document}"))?.clone())
}

fn brief(entry: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let objects = entry["objects"].as_array().cloned().unwrap_or_default();
    let objects: Vec<String> = objects
        .iter()
        .map(|object| {
            let [verb, kind, name] = ["verb", "kind", "name"].map(|field| text(&object[field]));
            format!("{verb} {kind} {name}")
        })
        .collect();
    let brief = format!("{} {}", text(&entry["action"]), objects.join(", "));
    brief.trim().to_owned()
}

fn preshared_key(added: &Value) -> Result<String> {
    let config = added["config"].as_str().context("config")?;
    let line = config
        .lines()
        .find_map(|line| line.strip_prefix("PresharedKey = "));
    Ok(line.context("a preshared key")?.to_owned())
}

#[derive(Debug)]
struct Event {
    id: Option<u64>,
    name: String,
    data: Value,
}

/// A listener that reads the stream as it is on the wire.
struct Listener {
    stream: UnixStream,
    buffer: String,
}

impl Listener {
    fn start(socket: &std::path::Path, last: Option<u64>) -> Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let last = last.map_or_else(String::new, |last| format!("Last-Event-ID: {last}\r\n"));
        write!(
            stream,
            "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n{last}\r\n"
        )?;
        let mut listener = Self {
            stream,
            buffer: String::new(),
        };
        while !listener.buffer.contains("\r\n\r\n") {
            ensure!(listener.read()?, "no answer: {}", listener.buffer);
        }
        ensure!(
            listener.buffer.starts_with("HTTP/1.1 200"),
            "{}",
            listener.buffer
        );
        Ok(listener)
    }

    /// The next event of a kind; others are passed over.
    fn next(&mut self, name: &str) -> Result<Event> {
        let start = Instant::now();
        // Heartbeats come for ever.
        while start.elapsed() < PATIENCE {
            while let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let event = parse_event(event);
                self.buffer = rest.to_owned();
                if let Some(event) = event?.filter(|event| event.name == name) {
                    return Ok(event);
                }
            }
            ensure!(self.read()?, "the stream ended before an event `{name}`");
        }
        anyhow::bail!("no event `{name}` within {PATIENCE:?}")
    }

    /// Waits until a device's traffic is as wanted.
    fn traffic(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let event = self.next("traffic")?;
            let devices = event.data["devices"].as_array().cloned();
            let device = devices
                .unwrap_or_default()
                .into_iter()
                .find(|device| device["name"] == name);
            if let Some(device) = device.filter(|device| wanted(device)) {
                return Ok(device);
            }
        }
        anyhow::bail!("the traffic of {name} is not as wanted within {PATIENCE:?}")
    }

    fn ends(&mut self) -> Result<bool> {
        while self.read()? {}
        Ok(true)
    }

    fn read(&mut self) -> Result<bool> {
        let mut bytes = [0; 4096];
        let length = self.stream.read(&mut bytes).context("read the stream")?;
        self.buffer
            .push_str(&String::from_utf8_lossy(&bytes[..length]));
        Ok(length > 0)
    }
}

/// None for a comment. The lengths of chunks stand on lines of their own, which are no fields.
fn parse_event(text: &str) -> Result<Option<Event>> {
    let field = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(name).map(str::trim))
    };
    let (Some(name), Some(data)) = (field("event:"), field("data:")) else {
        return Ok(None);
    };
    let data: Value = serde_json::from_str(data).with_context(|| text.to_owned())?;
    ensure!(data["event"] == name, "{text}");
    Ok(Some(Event {
        id: field("id:").map(str::parse).transpose()?,
        name: name.to_owned(),
        data,
    }))
}

/// One request on the administrator's socket, and all of the answer.
fn ask(socket: &std::path::Path, request: &str, headers: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn over_tcp(vps: &adit_lab::Host, request: &str, host: &str) -> Result<String> {
    let to = at(Ipv4Addr::LOCALHOST, METRICS);
    let mut stream = connect(vps, None, to, Duration::from_secs(4))?;
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Samples by name and sorted labels.
#[derive(Debug)]
struct Samples(BTreeMap<(String, Vec<(String, String)>), f64>);

impl Samples {
    fn get(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let mut labels: Vec<(String, String)> = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        labels.sort();
        let found = self.0.get(&(name.to_owned(), labels.clone()));
        found
            .copied()
            .with_context(|| format!("no {name}{labels:?} among {:#?}", self.0.keys()))
    }
}

/// Prometheus' text format, as strictly as it is written down: every family is declared once and before its samples, which
/// follow it without others between them, and no sample is there twice.
fn parse(text: &str) -> Result<Samples> {
    ensure!(text.ends_with('\n'), "the last line has no end");
    let mut samples = BTreeMap::new();
    let mut families: BTreeSet<String> = BTreeSet::new();
    let mut family: Option<(String, String)> = None;
    let mut help: Option<String> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').context("help without words")?;
            ensure!(is_name(name) && !words.is_empty(), "{line}");
            help = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').context("a type without kind")?;
            ensure!(help.as_deref() == Some(name), "{line} without its help");
            ensure!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            ensure!(kind != "counter" || name.ends_with("_total"), "{line}");
            ensure!(families.insert(name.to_owned()), "{name} is declared twice");
            family = Some((name.to_owned(), kind.to_owned()));
        } else {
            let (name, labels, value) = parse_sample(line).with_context(|| line.to_owned())?;
            let (base, kind) = family.as_ref().context("a sample before any type")?;
            let suffix = name.strip_prefix(base.as_str());
            let is_fitting = match (kind.as_str(), suffix) {
                ("histogram", Some(suffix)) => ["_bucket", "_sum", "_count"].contains(&suffix),
                (_, Some(suffix)) => suffix.is_empty(),
                (_, None) => false,
            };
            ensure!(is_fitting, "{line} does not belong to {base}");
            let before = samples.insert((name, labels), value);
            ensure!(before.is_none(), "{line} is there twice");
        }
    }
    Ok(Samples(samples))
}

type Sample = (String, Vec<(String, String)>, f64);

fn parse_sample(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ']).context("a sample without value")?;
    let (name, mut rest) = line.split_at(end);
    ensure!(is_name(name), "{name} is no name");
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        let mut inside = inside;
        loop {
            let (label, after) = inside.split_once("=\"").context("a label")?;
            ensure!(is_name(label) && !label.contains(':'), "{label}");
            let mut value = String::new();
            let mut characters = after.chars();
            loop {
                match characters.next().context("an open label")? {
                    '"' => break,
                    '\\' => match characters.next() {
                        Some('n') => value.push('\n'),
                        Some(escaped @ ('\\' | '"')) => value.push(escaped),
                        other => anyhow::bail!("\\{other:?}"),
                    },
                    other => value.push(other),
                }
            }
            labels.push((label.to_owned(), value));
            inside = characters.as_str();
            if let Some(after) = inside.strip_prefix('}') {
                rest = after;
                break;
            }
            inside = inside.strip_prefix(',').context("a comma")?;
        }
    }
    labels.sort();
    let value = rest.strip_prefix(' ').context("a blank")?;
    Ok((name.to_owned(), labels, value.parse()?))
}

fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    !name.is_empty() && name.bytes().all(good) && !name.as_bytes()[0].is_ascii_digit()
}
