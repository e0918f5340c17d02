//! Many administrators at once: nobody's edit is lost, nobody is told to come back later, and what a client asks for twice
//! because it heard no answer is done once.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use adit_lab::{Lab, Topology, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::{Api, Faults, Findings, World, binary, is_soak};

const CLIENTS: usize = 64;
/// Objects that all clients edit, and each of them has a counter in its label.
const SHARED: usize = 8;

#[test]
fn of_two_that_edit_at_once_none_is_lost_and_others_do_not_notice() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-edits")?;
    world.adit("device add box --kind server")?;
    let api = Api::new(world.gateway.runtime_dir());
    let pinhole = |port: usize, label: &str| -> Result<u64> {
        let body = json!({"device": "box", "port": port, "protocols": ["tcp"], "label": label});
        let reply = api.ask("POST", "/pinholes", &[], Some(&body))?;
        ensure!(reply.status == 201, "{reply:?}");
        let id = reply.json()?["id"].as_u64().context("an id")?;
        let location = format!("/api/v1/pinholes/{id}");
        ensure!(
            reply.header("location") == Some(location.as_str()),
            "{reply:?}"
        );
        Ok(id)
    };
    let mut shared = Vec::new();
    for number in 0..SHARED {
        shared.push(pinhole(1000 + number, "0")?);
    }
    let mut own = Vec::new();
    for number in 0..CLIENTS {
        own.push(pinhole(2000 + number, "mine")?);
    }
    let edits = if is_soak() { 1000 } else { 30 };
    let conflicts = AtomicU64::new(0);
    let began = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let mut clients = Vec::new();
        for (client, own) in own.iter().enumerate() {
            let (api, shared, conflicts) = (&api, &shared, &conflicts);
            clients.push(scope.spawn(move || -> Result<()> {
                // Nobody else edits this one, so the version that the last edit answered is the present one.
                let mut tag = "*".to_owned();
                for edit in 0..edits {
                    let object = shared
                        .get((client + edit) % SHARED)
                        .context("a shared object")?;
                    count(api, *object, conflicts)?;
                    tag = relabel(api, *own, &tag, &edit.to_string())?
                        .with_context(|| format!("edit {edit} of an object of its own"))?;
                }
                Ok(())
            }));
        }
        for client in clients {
            client
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(())
    })?;
    let took = began.elapsed();
    let mut total = 0;
    for id in &shared {
        let object = api
            .ask("GET", &format!("/pinholes/{id}"), &[], None)?
            .json()?;
        total += object["label"]
            .as_str()
            .context("a label")?
            .parse::<usize>()?;
    }
    ensure!(
        total == CLIENTS * edits,
        "{} edits were acknowledged, and {total} are there",
        CLIENTS * edits
    );
    let conflicts = conflicts.into_inner();
    ensure!(conflicts > 0, "64 clients never met: this showed nothing");
    let rate = (2 * total) as u128 * 1000 / took.as_millis().max(1);
    Findings::note(&format!(
        "figure: {} edits by {CLIENTS} clients, {conflicts} conflicts, {rate} acknowledged edits a second",
        2 * total
    ));
    Ok(())
}

/// Reads a counter and writes the next number, again if somebody else was faster.
fn count(api: &Api, id: u64, conflicts: &AtomicU64) -> Result<()> {
    loop {
        let reply = api.ask("GET", &format!("/pinholes/{id}"), &[], None)?;
        ensure!(reply.status == 200, "{reply:?}");
        let tag = reply.header("etag").context("a tag")?.to_owned();
        let object = reply.json()?;
        ensure!(tag == format!("\"{}\"", object["version"]), "{reply:?}");
        let number: u64 = object["label"].as_str().context("a label")?.parse()?;
        if relabel(api, id, &tag, &(number + 1).to_string())?.is_some() {
            return Ok(());
        }
        conflicts.fetch_add(1, Ordering::Relaxed);
    }
}

/// The new tag, or none where the object was changed meanwhile. Nothing else may come back.
fn relabel(api: &Api, id: u64, tag: &str, label: &str) -> Result<Option<String>> {
    let condition = [format!("If-Match: {tag}")];
    let body = json!({ "label": label });
    let reply = api.ask("PATCH", &format!("/pinholes/{id}"), &condition, Some(&body))?;
    if reply.status == 412 {
        ensure!(reply.code()? == "version-mismatch", "{reply:?}");
        return Ok(None);
    }
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(reply.json()?["label"] == label, "{reply:?}");
    Ok(Some(reply.header("etag").context("a tag")?.to_owned()))
}

#[test]
fn conditions_are_kept_for_every_kind_of_object() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-conditions")?;
    let api = Api::new(world.gateway.runtime_dir());
    world.adit("device add box --kind server")?;
    world.adit("pinhole add box 80/tcp")?;
    world.adit("forward add 81/tcp box")?;
    world.adit("token add dashboard")?;
    let uplink = world.list("uplink")?;
    let uplink = uplink.first().and_then(|uplink| uplink["name"].as_str());
    let uplink = format!("/uplinks/{}", uplink.context("an uplink")?);
    let id = |kind: &str| -> Result<String> {
        let items = world.list(kind)?;
        Ok(format!("/{kind}s/{}", items.first().context("one")?["id"]))
    };
    let change = json!({ "label": "x" });
    for (path, change) in [
        // What is shown of one of these may tell of those below it.
        (id("token")?, None),
        (id("pinhole")?, Some(change.clone())),
        (id("forward")?, Some(change)),
        (id("device")?, Some(json!({"delegate": ["192.168.7.0/24"]}))),
        (id("subnet")?, Some(json!({"peers": false}))),
        (uplink, Some(json!({"endpoint": "gw.example.com"}))),
        ("/settings".to_owned(), Some(json!({"clamp_mtu": 1400}))),
    ] {
        let ask = |method: &str, header: String, body: Option<&Value>| {
            api.ask(method, &path, &[header], body)
        };
        let shown = api.ask("GET", &path, &[], None)?;
        let tag = shown
            .header("etag")
            .with_context(|| format!("{path}: {shown:?}"))?;
        ensure!(
            tag == format!("\"{}\"", shown.json()?["version"]),
            "{path}: {shown:?}"
        );
        let known = ask("GET", format!("If-None-Match: W/{tag}, \"0000\""), None)?;
        ensure!(
            known.status == 304 && known.text.is_empty() && known.header("etag") == Some(tag),
            "{path}: {known:?}"
        );
        let Some(change) = change else {
            let removed = ask("DELETE", format!("If-Match: W/{tag}"), None)?;
            ensure!(removed.status == 412, "{path}: {removed:?}");
            let removed = ask("DELETE", format!("If-Match: {tag}"), None)?;
            ensure!(removed.status == 200, "{path}: {removed:?}");
            continue;
        };
        for other in [format!("W/{tag}"), "\"999999\"".to_owned(), String::new()] {
            let refused = ask("PATCH", format!("If-Match: {other}"), Some(&change))?;
            ensure!(
                refused.status == 412 && refused.code()? == "version-mismatch",
                "{path} If-Match {other}: {refused:?}"
            );
        }
        let made = ask(
            "PATCH",
            format!("If-Match: \"999999\", {tag}"),
            Some(&change),
        )?;
        ensure!(made.status == 200, "{path}: {made:?}");
        ensure!(
            made.header("etag").is_some_and(|new| new != tag),
            "{path}: {made:?}"
        );
        let late = ask("PATCH", format!("If-Match: {tag}"), Some(&change))?;
        ensure!(late.status == 412, "{path}: {late:?}");
        let again = ask("GET", format!("If-None-Match: {tag}"), None)?;
        ensure!(again.status == 200, "{path}: {again:?}");
        ensure!(
            again.header("etag") == made.header("etag"),
            "{path}: {again:?}"
        );
    }

    // On the command line; and a rename elsewhere makes what is shown another, but is no conflict.
    let device = world.find("device", &json!({"name": "box"}))?;
    let version = &device["version"];
    let refused = world.refused("device set box --kind client --if-version 1")?;
    ensure!(refused.code == "version-mismatch", "{refused:?}");
    let refused = world.refused("device remove box --if-version 1")?;
    ensure!(refused.code == "version-mismatch", "{refused:?}");
    world.adit("subnet set lan --name home")?;
    let path = id("device")?;
    let header = format!("If-None-Match: \"{version}\"");
    let shown = api.ask("GET", &path, &[header], None)?;
    ensure!(
        shown.status == 200 && shown.json()?["subnet"] == "home",
        "{shown:?}"
    );
    world.adit(&format!(
        "device set box --kind client --if-version {version}"
    ))?;
    let refused = world.refused(&format!("device rekey box --if-version {version}"))?;
    ensure!(refused.code == "version-mismatch", "{refused:?}");
    Ok(())
}

#[test]
fn lists_come_in_pages_that_hold_still() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-pages")?;
    let api = Api::new(world.gateway.runtime_dir());
    world.adit("device add other")?;
    world.adit("device add box --kind server")?;
    world.adit("pinhole add other 99/tcp")?;
    for port in 1000..1007 {
        world.adit(&format!("pinhole add box {port}/tcp"))?;
    }
    let mut path = "/pinholes?limit=3&device=box".to_owned();
    let mut ports = Vec::new();
    loop {
        let page = api.ask("GET", &path, &[], None)?.json()?;
        let pinholes = page["pinholes"].as_array().context("pinholes")?;
        ensure!(pinholes.len() <= 3, "{page}");
        ports.extend(
            pinholes
                .iter()
                .filter_map(|pinhole| pinhole["port"].as_u64()),
        );
        // What comes between two pages moves nothing, and what goes leaves no gap.
        if ports.len() == 3 {
            world.adit("pinhole add box 1007/tcp")?;
            let first = world.id("pinhole", &json!({"port": 1000}))?;
            world.adit(&format!("pinhole remove {first}"))?;
        }
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = next.strip_prefix("/api/v1").context("a path")?.to_owned();
    }
    ensure!(ports == (1000..1008).collect::<Vec<_>>(), "{ports:?}");
    for (path, status) in [
        ("/pinholes?limit=0", 400),
        ("/pinholes?limit=5001", 400),
        ("/pinholes?after=-1", 400),
        ("/pinholes?subnet=lan", 400),
        ("/pinholes?device=nobody", 404),
        ("/devices?subnet=nothing", 404),
    ] {
        let reply = api.ask("GET", path, &[], None)?;
        ensure!(reply.status == status, "{path}: {reply:?}");
        reply.code()?;
    }
    let all = api
        .ask("GET", "/devices?subnet=lan&limit=5000", &[], None)?
        .json()?;
    ensure!(
        all["devices"].as_array().is_some_and(|all| all.len() == 2),
        "{all}"
    );
    ensure!(all.get("next").is_none(), "{all}");
    Ok(())
}

#[test]
fn what_is_asked_for_again_is_done_once_and_no_secret_is_kept_for_it() -> Result<()> {
    let mut world = World::with_subnet("routed", "e2e-repeat")?;
    let api = Api::new(world.gateway.runtime_dir());
    let with = |key: &str| [format!("Idempotency-Key: {key}")];
    let device = json!({"name": "box", "kind": "server"});
    let add = |key: &str, body: &Value| api.ask("POST", "/devices", &with(key), Some(body));

    // Many at once: one is made, and all are told of it.
    let replies = thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| add("k-1", &device)))
            .collect();
        clients
            .into_iter()
            .map(|client| {
                client
                    .join()
                    .map_err(|_| anyhow::anyhow!("a client panicked"))?
            })
            .collect::<Result<Vec<_>>>()
    })?;
    ensure!(
        replies.iter().all(|reply| reply.status == 201),
        "{replies:?}"
    );
    let (again, first): (Vec<_>, Vec<_>) = replies
        .into_iter()
        .partition(|reply| reply.header("idempotency-replayed") == Some("true"));
    ensure!(
        first.len() == 1 && world.list("device")?.len() == 1,
        "{first:?}"
    );
    let first = first.first().context("the first")?;
    let config = first.json()?["config"]
        .as_str()
        .context("a config")?
        .to_owned();
    let secret = config
        .lines()
        .find_map(|line| line.strip_prefix("PrivateKey = "))
        .context("a private key")?
        .to_owned();
    for reply in &again {
        let told = reply.json()?;
        ensure!(told["device"] == first.json()?["device"], "{told}");
        ensure!(told.get("config").is_none(), "{told}");
        ensure!(told["private_key_shown"] == false, "{told}");
        ensure!(
            told["next"].to_string().contains("adit device rekey box"),
            "{told}"
        );
        ensure!(reply.header("etag") == first.header("etag"), "{reply:?}");
        ensure!(
            reply.header("location") == first.header("location"),
            "{reply:?}"
        );
    }

    let other = add("k-1", &json!({"name": "other"}))?;
    ensure!(
        other.status == 422 && other.code()? == "idempotency-mismatch",
        "{other:?}"
    );
    let refused = add("k-2", &json!({"name": "box"}))?;
    ensure!(refused.code()? == "name-taken", "{refused:?}");
    let bad = add("a b", &device)?;
    ensure!(
        bad.status == 400 && bad.code()? == "invalid-request",
        "{bad:?}"
    );

    let token = json!({"name": "dashboard"});
    let add_token = || api.ask("POST", "/tokens", &with("\"k-3\""), Some(&token));
    let told = add_token()?.json()?;
    let token_secret = told["secret"].as_str().context("a secret")?.to_owned();
    let told = add_token()?;
    ensure!(
        told.status == 201 && told.json()?.get("secret").is_none(),
        "{told:?}"
    );

    // A refusal is not kept: the same request may be made when its reason is gone.
    let path = format!("/devices/{}", first.json()?["device"]["id"]);
    let rename = json!({"name": "nas"});
    world.adit("device add nas")?;
    let patch = || api.ask("PATCH", &path, &with("k-4"), Some(&rename));
    ensure!(patch()?.code()? == "name-taken", "{:?}", patch()?);
    world.adit("device remove nas --yes")?;
    let renamed = patch()?;
    ensure!(renamed.status == 200, "{renamed:?}");
    world.adit("device set nas --name third")?;
    let told = patch()?;
    ensure!(told.text == renamed.text, "{told:?} after {renamed:?}");
    world.find("device", &json!({"name": "third"}))?;

    // The whole of it after a restart, and after a crash.
    let remove = || api.ask("DELETE", &path, &with("k-5"), None);
    let removed = remove()?;
    ensure!(removed.status == 200, "{removed:?}");
    for round in 0..2 {
        if round == 0 {
            world.gateway.terminate()?;
        } else {
            world.gateway.kill()?;
        }
        world.gateway.start()?;
        ensure!(remove()?.text == removed.text, "{:?}", remove()?);
        let told = add("k-1", &device)?;
        ensure!(
            told.status == 201 && told.json()?["device"]["name"] == "box",
            "{told:?}"
        );
        ensure!(
            world.list("device")?.is_empty(),
            "{:?}",
            world.list("device")?
        );
        ensure!(
            add("k-1", &token)?.code()? == "idempotency-mismatch",
            "round {round}"
        );
    }
    for entry in fs::read_dir(world.gateway.state_dir())? {
        let path = entry?.path();
        let bytes = fs::read(&path)?;
        let text = String::from_utf8_lossy(&bytes);
        for secret in [&secret, &token_secret] {
            ensure!(
                !text.contains(secret.as_str()),
                "a secret is in {}",
                path.display()
            );
        }
    }
    Ok(())
}

/// Where a change is on its way when the daemon dies, and whether it is made then.
const DEATHS: &[(&str, bool)] = &[
    ("store/begin", false),
    ("store/commit", false),
    ("store/committed", true),
    ("writer/published", true),
    ("bridge/applied", true),
];

#[test]
fn a_client_that_heard_nothing_asks_again_after_a_crash_and_gets_one_device() -> Result<()> {
    let lab = Lab::temporary(&Topology::by_name("routed")?, "e2e-once")?;
    let mut gateway = lab.gateway(binary())?;
    let faults = Faults::install(&mut gateway)?;
    gateway.start()?;
    let mut world = World::of(gateway, lab);
    world.adit("subnet add lan --ipv4 10.59.0.0/24 --ipv6 none")?;
    let api = Api::new(world.gateway.runtime_dir());
    for (number, (point, is_made)) in DEATHS.iter().enumerate() {
        let body = json!({"name": format!("box{number}")});
        let key = [format!("Idempotency-Key: crash-{number}")];
        let add = || api.ask("POST", "/devices", &key, Some(&body));
        faults.plan(&format!("kill {point}"))?;
        let unheard = add();
        ensure!(unheard.is_err(), "{point}: {unheard:?}");
        let gateway = &mut world.gateway;
        wait_until("the daemon dies", Duration::from_secs(5), || {
            Ok(!gateway.is_running()?)
        })?;
        faults.clear()?;
        world.gateway.start()?;
        let there = world.list("device")?.len();
        ensure!(
            there == number + usize::from(*is_made),
            "{point}: {there} devices"
        );
        let reply = add()?;
        ensure!(reply.status == 201, "{point}: {reply:?}");
        ensure!(
            (reply.header("idempotency-replayed") == Some("true")) == *is_made,
            "{point}: {reply:?}"
        );
        ensure!(world.list("device")?.len() == number + 1, "{point}");
    }
    Ok(())
}

#[test]
fn the_administrators_socket_bears_slow_and_large_requests() -> Result<()> {
    let world = World::start("routed", "e2e-bounds")?;
    let api = Api::new(world.gateway.runtime_dir());
    let line = "GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let many: String = (0..70).map(|number| format!("X-{number}: x\r\n")).collect();
    let large = format!("X: {}\r\n", "x".repeat(20_000));
    for headers in [many, large] {
        let reply = api.send(format!("{line}{headers}\r\n").as_bytes())?;
        ensure!(
            reply.status == 431 && reply.code()? == "headers-too-large",
            "{reply:?}"
        );
    }
    let target = "x".repeat(5000);
    let reply = api.ask("GET", &format!("/devices/{target}"), &[], None)?;
    ensure!(
        reply.status == 414 && reply.code()? == "target-too-long",
        "{reply:?}"
    );
    // Beyond what is read at all there is no reason in the answer, only a status.
    let reply = api.send(format!("{line}X: {}\r\n\r\n", "x".repeat(100_000)).as_bytes());
    ensure!(
        reply.is_err() || reply.is_ok_and(|reply| reply.status == 431),
        "a huge head"
    );

    let post = "POST /api/v1/subnets HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n";
    thread::scope(|scope| -> Result<()> {
        let slow_head = scope.spawn(|| {
            let mut stream = api.connect()?;
            std::io::Write::write_all(&mut stream, b"GET /api/v1/status HT")?;
            let mut text = Vec::new();
            std::io::Read::read_to_end(&mut stream, &mut text)?;
            anyhow::Ok(text)
        });
        let idle = scope.spawn(|| {
            let mut stream = api.connect()?;
            let mut text = Vec::new();
            std::io::Read::read_to_end(&mut stream, &mut text)?;
            anyhow::Ok(text)
        });
        let slow_bodies: Vec<_> = ["", "Idempotency-Key: slow\r\n"]
            .into_iter()
            .map(|header| {
                let api = &api;
                scope.spawn(move || {
                    api.send(format!("{post}{header}Content-Length: 90\r\n\r\n{{").as_bytes())
                })
            })
            .collect();
        let large = api.send(
            format!(
                "{post}Content-Length: 300000\r\n\r\n{}",
                " ".repeat(300_000)
            )
            .as_bytes(),
        );
        // The answer may overtake the body, whose rest then has nowhere to go.
        if let Ok(reply) = large {
            ensure!(
                reply.status == 413 && reply.code()? == "too-large",
                "{reply:?}"
            );
        }
        // Meanwhile others are answered.
        world.adit("status")?;
        for slow in slow_bodies {
            let reply = slow.join().map_err(|_| anyhow::anyhow!("panicked"))??;
            ensure!(
                reply.status == 408 && reply.code()? == "too-slow",
                "{reply:?}"
            );
        }
        for silent in [slow_head, idle] {
            let text = silent.join().map_err(|_| anyhow::anyhow!("panicked"))??;
            ensure!(
                text.is_empty() || text.starts_with(b"HTTP/1.1 408"),
                "{text:?}"
            );
        }
        Ok(())
    })?;
    ensure!(
        world.list("subnet")?.is_empty(),
        "a subnet of half a request"
    );
    Ok(())
}
