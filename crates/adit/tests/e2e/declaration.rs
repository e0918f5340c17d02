//! The manual state as a file: exported, compared, edited, applied; what stays keeps flowing.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::{Api, Device, Findings, PUBLIC4, World, at, converse, listen, oracle};

#[test]
fn what_a_file_declares_is_applied_in_one_revision() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-declaration")?;
    let server = world.join("box", "--kind server --delegate 80")?;
    let client = world.join("laptop", "")?;
    world.adit("forward add 8080/tcp box --label web")?;
    world.adit("forward add 7000-7010/udp box")?;
    world.adit("pinhole add box 443/tcp")?;
    world.adit("uplink set eth0 --endpoint gw.example.com")?;
    world.adit("device add old --expires 2090-01-01T00:00:00Z")?;
    let file = world.gateway.runtime_dir().with_file_name("state.toml");
    let text = world.gateway.adit(["export"])?.stdout;
    for secret in secrets(&world)? {
        ensure!(!text.contains(&secret), "a secret in\n{text}");
    }

    let mut findings = Findings::default();
    fs::write(&file, &text)?;
    findings.check("export and apply change nothing", unchanged(&world, &file));
    findings.check("mistakes", mistakes(&world, &file, &text));

    // The old device goes, a new one comes with a key of its own, and the forward leads to another port of the server.
    let key = "j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiE4KF8=";
    let edited = without(&text, "[device.old]")
        .replace("port = 8080\n", "port = 8080\ntarget-port = 8081\n")
        + &format!("\n[device.new]\npublic-key = \"{key}\"\n");
    fs::write(&file, &edited)?;
    let before = world.revision()?;
    let plan = adit(&world, &["plan", "-f"], &file)?;
    findings.check("a plan changes nothing", {
        same(&json!(before), &json!(world.revision()?))
    });
    findings.check("the plan", planned(&plan));
    let unasked = refused(&world, &["apply", "-f"], &file)?;
    findings.check(
        "nobody to ask",
        same(&json!(unasked.0), &json!("not-confirmed")),
    );
    let listener = listen(&server.host, at(server.ipv4, 5000))?;
    let mut open = converse(&client.host, None, at(server.ipv4, 5000), &listener)?;
    let made = adit(&world, &["apply", "--yes", "-f"], &file)?;
    findings.check("one revision", same(&made["revision"], &json!(before + 1)));
    findings.check("what is told is what was planned", {
        let verbs = |document: &Value| -> Vec<String> {
            let objects = document["objects"].as_array().into_iter().flatten();
            objects
                .map(|it| format!("{} {} {}", it["verb"], it["kind"], it["name"]))
                .collect()
        };
        same(&json!(verbs(&plan)), &json!(verbs(&made)))
    });
    findings.check("an open connection", open.talk());
    findings.check("the host has it", oracle::check(&world));
    let device = world.find("device", &json!({"name": "new"}))?;
    findings.check("its key", same(&device["public_key"], &json!(key)));
    findings.check("packets at the new port", arrives(&world, &server));
    findings.check("applied twice", unchanged(&world, &file));

    let stale = refused_at(&world, before)?;
    findings.check(
        "another revision",
        same(&json!(stale), &json!("revision-moved")),
    );
    let log = world.adit("log")?;
    findings.check("the log", {
        let actions: Vec<&Value> = log["entries"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|entry| &entry["action"])
            .collect();
        let is_there = actions.contains(&&json!("apply"));
        is_there
            .then_some(())
            .with_context(|| format!("{actions:?}"))
    });
    findings.conclude()
}

/// The preshared keys of all devices, and the gateway's key.
fn secrets(world: &World) -> Result<Vec<String>> {
    let mut secrets = Vec::new();
    for device in world.list("device")? {
        let name = device["name"].as_str().context("name")?.to_owned();
        let text = world
            .gateway
            .adit(["device", "config", name.as_str()])?
            .stdout;
        let key = text
            .lines()
            .find_map(|line| line.strip_prefix("PresharedKey = "));
        secrets.push(key.context("PresharedKey")?.to_owned());
    }
    let path = world.gateway.state_dir().join("private.key");
    secrets.push(fs::read_to_string(path)?.trim().to_owned());
    Ok(secrets)
}

fn unchanged(world: &World, file: &Path) -> Result<()> {
    let before = world.revision()?;
    let plan = adit(world, &["plan", "-f"], file)?;
    same(&plan["objects"], &json!([]))?;
    same(&plan["affected"], &json!([]))?;
    // There is nothing to ask about either.
    adit(world, &["apply", "-f"], file)?;
    let program = world.gateway.try_adit(["export"])?.stdout;
    ensure!(!program.is_empty());
    let line = "adit --runtime-dir R export | adit --runtime-dir R apply --yes -f -";
    let runtime_dir = world.gateway.runtime_dir();
    let line = line
        .replace('R', &runtime_dir.to_string_lossy())
        .replace("adit --", &format!("{} --", env!("CARGO_BIN_EXE_adit")));
    world.host("vps")?.exec(["sh", "-c", &line])?;
    same(&json!(before), &json!(world.revision()?))
}

fn mistakes(world: &World, file: &Path, text: &str) -> Result<()> {
    for (wrong, right, named) in [
        ("kind = \"servant\"", "kind = \"server\"", "device.box.kind"),
        (
            "listen-port = \"51820\"",
            "listen-port = 51820",
            "settings.listen-port",
        ),
        (
            "listen-ports = 51820",
            "listen-port = 51820",
            "listen-ports",
        ),
        ("port = 70000", "port = 8080", "forward[0].port"),
        ("ipv4 = \"10.59.0.300\"", "ipv4 = \"10.59.0.2\"", "ipv4"),
        ("[subnet.lan\n", "[subnet.lan]\n", "line"),
    ] {
        let edited = text.replacen(right, wrong, 1);
        ensure!(edited != text, "no `{right}` in\n{text}");
        fs::write(file, edited)?;
        let (code, message) = refused(world, &["apply", "--yes", "-f"], file)?;
        same(&json!(code), &json!("declaration-invalid"))?;
        ensure!(message.contains(named), "{wrong}: {message}");
    }
    let edited = text.replacen("ipv4 = \"10.59.0.2\"", "ipv4 = \"10.60.0.2\"", 1);
    fs::write(file, edited)?;
    let (code, message) = refused(world, &["apply", "--yes", "-f"], file)?;
    same(&json!(code), &json!("declaration-refused"))?;
    ensure!(message.contains("device `box`"), "{message}");
    ensure!(message.contains("10.60.0.2"), "{message}");
    Ok(())
}

fn planned(plan: &Value) -> Result<()> {
    let objects = plan["objects"].as_array().context("objects")?;
    let told = |verb: &str, kind: &str| {
        objects
            .iter()
            .find(|it| it["verb"] == verb && it["kind"] == kind)
            .with_context(|| format!("no {kind} that is {verb} in {plan}"))
    };
    ensure!(objects.len() == 3, "{plan}");
    same(&told("added", "device")?["name"], &json!("new"))?;
    same(&told("removed", "device")?["name"], &json!("old"))?;
    let changed = told("changed", "forward")?;
    same(
        &changed["fields"]["target_port"],
        &json!({"from": 8080, "to": 8081}),
    )?;
    same(
        &plan["affected"],
        &json!([
            {"device": "box", "effects": ["connections"]},
            {"device": "old", "effects": ["disconnected"]},
        ]),
    )
}

/// A connection from outside to the public port 8080 arrives at another port of the server.
fn arrives(world: &World, server: &Device) -> Result<()> {
    let listener = listen(&server.host, at(server.ipv4, 8081))?;
    let outside = world.host("internet")?;
    converse(&outside, None, at(PUBLIC4, 8080), &listener).map(drop)
}

/// The document without one table.
fn without(text: &str, table: &str) -> String {
    let mut keep = true;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            keep = line != table;
        }
        if keep {
            lines.push(line);
        }
    }
    lines.join("\n") + "\n"
}

fn adit(world: &World, words: &[&str], file: &Path) -> Result<Value> {
    let file = file.to_string_lossy();
    let words = words.iter().copied().chain([&*file]);
    world.gateway.adit_json(words)
}

/// The code and the message.
fn refused(world: &World, words: &[&str], file: &Path) -> Result<(String, String)> {
    let refused = world.refused(&format!("{} {}", words.join(" "), file.display()))?;
    Ok((refused.code, refused.message))
}

/// Applied for a revision that is over.
fn refused_at(world: &World, revision: u64) -> Result<String> {
    let declared = world.adit("export")?;
    let api = Api::new(world.gateway.runtime_dir());
    let body = json!({"declaration": declared["declaration"], "revision": revision});
    let reply = api.ask("POST", "/declaration/apply", &[], Some(&body))?;
    ensure!(reply.status == 412, "{reply:?}");
    reply.code()
}

fn same(left: &Value, right: &Value) -> Result<()> {
    ensure!(left == right, "{left} is not {right}");
    Ok(())
}
