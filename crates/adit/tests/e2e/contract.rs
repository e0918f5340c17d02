//! The command line as others rely on it: documents, texts, refusals, exit statuses.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::{Findings, World};

#[test]
fn the_command_line_keeps_its_word() -> Result<()> {
    let mut world = World::start("routed", "e2e-contract")?;
    let mut findings = Findings::default();
    findings.check("status before anything", fresh(&world));
    findings.check("documents", documents(&world));
    findings.check("configurations", configurations(&world));
    findings.check("refusals", refusals(&world));
    findings.check("exit statuses", statuses(&world));
    findings.check("the private key", private_key(&world));
    findings.check("without a daemon", unreachable_daemon(&mut world));
    findings.conclude()
}

fn fresh(world: &World) -> Result<()> {
    let status = world.adit("status")?;
    ensure!(status["applied"] == true, "{status}");
    ensure!(status["revision"].is_u64(), "{status}");
    ensure!(
        ["kernel", "adit", "wireguard-go"]
            .iter()
            .any(|name| status["dataplane"] == *name),
        "{status}"
    );
    ensure!(status["problems"].is_array(), "{status}");
    ensure!(world.list("subnet")?.is_empty());
    let uplinks = world.list("uplink")?;
    ensure!(uplinks.len() == 1, "{uplinks:?}");
    ensure!(
        uplinks[0]["name"] == "eth0" && uplinks[0]["local"] == "203.0.113.2",
        "{uplinks:?}"
    );
    let has = |name: &str| uplinks[0].get(name).is_some();
    ensure!(
        has("id") && has("advertised") && has("endpoint"),
        "{uplinks:?}"
    );
    Ok(())
}

fn documents(world: &World) -> Result<()> {
    let revision = world.revision()?;
    world.adit("subnet add lan --ipv4 10.59.0.0/24 --ipv6 2001:db8:100:1::/64")?;
    ensure!(world.revision()? > revision, "the revision stays");
    let answer = world.adit("device add box --kind server --delegate 80")?;
    let device = &answer["device"];
    for (name, value) in [
        ("name", json!("box")),
        ("subnet", json!("lan")),
        ("kind", json!("server")),
        ("ipv4", json!("10.59.0.2")),
        ("ipv6", json!("2001:db8:100:1::a3b:2")),
    ] {
        ensure!(device[name] == value, "{name}: {device}");
    }
    let key = device["public_key"].as_str().unwrap_or_default();
    ensure!(key.len() == 44 && key.ends_with('='), "{device}");
    let delegations = device["delegations"].as_array().context("delegations")?;
    ensure!(
        delegations.len() == 1
            && delegations[0].as_str().is_some_and(
                |prefix| prefix.starts_with("2001:db8:100:1:") && prefix.ends_with("/80")
            ),
        "{device}"
    );
    world.adit("forward add 80-82/tcp box --label web")?;
    world.adit("pinhole add box 443")?;
    let forward = world.find("forward", &json!({"device": "box"}))?;
    for (name, value) in [
        ("address", json!("203.0.113.2")),
        ("port", json!(80)),
        ("port_end", json!(82)),
        ("protocols", json!(["tcp"])),
        ("target_port", json!(80)),
        ("hostname", Value::Null),
        ("label", json!("web")),
        ("enabled", json!(true)),
        ("origin", json!("manual")),
    ] {
        ensure!(forward[name] == value, "{name}: {forward}");
    }
    let pinhole = world.find("pinhole", &json!({"device": "box"}))?;
    for (name, value) in [
        ("port", json!(443)),
        ("port_end", json!(443)),
        ("protocols", json!(["tcp", "udp"])),
        ("enabled", json!(true)),
        ("origin", json!("manual")),
    ] {
        ensure!(pinhole[name] == value, "{name}: {pinhole}");
    }
    let mut ids = BTreeSet::new();
    for kind in ["subnet", "device", "forward", "pinhole"] {
        for item in world.list(kind)? {
            ensure!(item["id"].is_u64(), "{kind} without id: {item}");
            ids.insert((kind, item["id"].as_u64()));
        }
    }
    ensure!(ids.len() == 4, "{ids:?}");
    ensure!(world.list("token")?.is_empty());

    // What the Internet is told may differ from what the interface has.
    world.adit("uplink set --advertised 192.0.2.77")?;
    let forward = world.find("forward", &json!({"device": "box"}))?;
    ensure!(forward["address"] == "192.0.2.77", "{forward}");
    world.adit("uplink set --advertised none")?;
    let forward = world.find("forward", &json!({"device": "box"}))?;
    ensure!(forward["address"] == "203.0.113.2", "{forward}");
    Ok(())
}

fn configurations(world: &World) -> Result<()> {
    let added = world.adit("device add phone")?;
    let config = added["config"].as_str().context("config")?;
    let key = config
        .lines()
        .find_map(|line| line.strip_prefix("PrivateKey = "))
        .context("the private key that was made")?;
    let derived = world
        .host("vps")?
        .exec_with_input(["wg", "pubkey"], &format!("{key}\n"))?;
    ensure!(
        Some(derived.stdout.trim()) == added["device"]["public_key"].as_str(),
        "the private key is of another device"
    );
    let shown = world.gateway.adit(["device", "config", "phone"])?.stdout;
    ensure!(
        !shown.contains(key)
            && shown.contains("# PrivateKey = ")
            && shown.contains("PresharedKey = "),
        "{shown}"
    );
    ensure!(
        shown
            .lines()
            .filter(|line| line.starts_with("Endpoint = "))
            .count()
            == 1
            && shown.contains("Endpoint = 203.0.113.2:51820"),
        "{shown}"
    );
    let with_file = world
        .gateway
        .adit(["device", "config", "phone", "--key-file", "/etc/phone.key"])?
        .stdout;
    ensure!(
        with_file.contains("PostUp = wg set %i private-key /etc/phone.key")
            && !with_file.contains("PrivateKey ="),
        "{with_file}"
    );
    let own = world.host("vps")?.exec_with_input(
        ["wg", "pubkey"],
        &world.host("vps")?.exec(["wg", "genkey"])?.stdout,
    )?;
    let own = own.stdout.trim();
    let answer = world.adit(&format!("device add own --public-key {own}"))?;
    ensure!(answer["device"]["public_key"] == own, "{answer}");
    let config = answer["config"].as_str().unwrap_or_default();
    ensure!(
        config.contains("# PrivateKey = ") && !config.contains("\nPrivateKey = "),
        "{config}"
    );
    let refused = world.refused(&format!("device add twin --public-key {own}"))?;
    ensure!(refused.code == "key-taken", "{refused:?}");
    Ok(())
}

fn refusals(world: &World) -> Result<()> {
    for (command, code, named) in [
        ("device show nobody", "not-found", "nobody"),
        ("device add box", "name-taken", "box"),
        ("subnet add lan --ipv4 10.70.0.0/24", "name-taken", "lan"),
        ("forward add 80 box", "port-taken", "80"),
        ("forward add 51820/udp box", "port-reserved", "51820"),
        ("forward add 40000 box", "port-in-snat-range", "40000"),
        ("forward add 90-95 box:1000", "range-shifted", "90-95"),
        (
            "forward add 192.0.2.1:80 box",
            "forward-address-unknown",
            "192.0.2.1",
        ),
        (
            "forward add 443/tcp box --hostname a.example",
            "hostname-unsupported",
            "a.example",
        ),
        (
            "forward add [2001:db8:1::2]:444 box",
            "forward-ipv6-global",
            "box",
        ),
        ("forward remove 999999", "not-found", "999999"),
        ("pinhole add nobody 80", "not-found", "nobody"),
        ("device set box", "nothing-to-change", "box"),
    ] {
        let refused = world.refused(command)?;
        ensure!(
            refused.code == code && refused.message.contains(named) && !refused.hint.is_empty(),
            "{command}: {refused:?}"
        );
    }
    let plain = world.gateway.try_adit(["device", "show", "nobody"])?;
    ensure!(
        plain.status.code() == Some(1)
            && plain.stdout.is_empty()
            && plain.stderr.contains("nobody")
            && plain.stderr.contains("adit device list"),
        "without --json: {plain}"
    );
    Ok(())
}

fn statuses(world: &World) -> Result<()> {
    for wrong in [
        &["no-such-command"][..],
        &["device", "add"],
        &["subnet", "add", "x", "--ipv4", "not-a-network"],
        &["forward", "add", "eighty", "box"],
        &["forward", "add", "80/icmp", "box"],
        &["device", "list", "--no-such-option"],
    ] {
        let output = world.gateway.try_adit(wrong)?;
        ensure!(
            output.status.code() == Some(2) && output.stdout.is_empty(),
            "{wrong:?}: {output}"
        );
    }
    let nowhere = world.host("vps")?.try_exec([
        env!("CARGO_BIN_EXE_adit"),
        "status",
        "--json",
        "--runtime-dir",
        "/nonexistent/adit",
    ])?;
    ensure!(
        nowhere.status.code() == Some(3),
        "a daemon that is nowhere: {nowhere}"
    );
    let document: Value = serde_json::from_str(&nowhere.stderr)
        .with_context(|| format!("a daemon that is nowhere: {nowhere}"))?;
    ensure!(document["error"]["code"].is_string(), "{document}");
    // Tables are for people; `--json` may stand before and after.
    let runtime = world.gateway.runtime_dir();
    let before = world.host("vps")?.exec([
        env!("CARGO_BIN_EXE_adit").as_ref(),
        "--json".as_ref(),
        "device".as_ref(),
        "list".as_ref(),
        "--runtime-dir".as_ref(),
        runtime.as_os_str(),
    ])?;
    let document: Value = serde_json::from_str(&before.stdout)?;
    ensure!(document["devices"].is_array(), "{document}");
    let table = world.gateway.adit(["device", "list"])?.stdout;
    ensure!(
        table.contains("box") && table.contains("10.59.0.2"),
        "{table}"
    );
    Ok(())
}

/// It is in one file, and in nothing that is shown or stored beside it.
fn private_key(world: &World) -> Result<()> {
    let shown =
        world
            .host("vps")?
            .exec(["wg", "show", world.gateway.interface(), "private-key"])?;
    let key = shown.stdout.trim().to_owned();
    ensure!(key.len() == 44, "wg show: {shown}");
    let mut holders = Vec::new();
    for entry in fs::read_dir(world.gateway.state_dir())? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        let bytes = fs::read(entry.path())?;
        if String::from_utf8_lossy(&bytes).contains(&key) {
            let mode = entry.metadata()?.permissions().mode() & 0o777;
            holders.push((entry.file_name(), mode));
        }
    }
    ensure!(
        holders.len() == 1 && holders[0].1 == 0o600,
        "files with the private key: {holders:?}"
    );
    ensure!(
        !world.gateway.log()?.contains(&key),
        "the log holds the private key"
    );
    let status = world.adit("status")?.to_string();
    ensure!(!status.contains(&key), "the status holds the private key");
    Ok(())
}

fn unreachable_daemon(world: &mut World) -> Result<()> {
    let revision = world.revision()?;
    world.gateway.terminate()?;
    let output = world.gateway.try_adit(["device", "list", "--json"])?;
    ensure!(
        output.status.code() == Some(3) && output.stdout.is_empty(),
        "with the daemon stopped: {output}"
    );
    world.gateway.start()?;
    ensure!(
        world.revision()? == revision,
        "the revision changed by itself"
    );
    ensure!(
        world.list("device")?.len() == 3,
        "{:?}",
        world.list("device")?
    );
    Ok(())
}
