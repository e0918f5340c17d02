//! A state of the first version is taken over by this one, changed, and led back for the version that it came from.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use adit_lab::{Lab, Topology};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::{Findings, World, binary, oracle};

const FIRST: &str = include_str!("released/schema-1.sql");

/// Python's own SQLite, so that no code of ours looks at what it wrote itself.
fn sqlite(world: &World, program: &str, database: &Path) -> Result<String> {
    let vps = world.host("vps")?;
    let program = format!("import json, sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\n{program}");
    let words = ["python3", "-c", &program, &database.to_string_lossy()];
    Ok(vps.exec_with_input(words, FIRST)?.stdout)
}

#[test]
fn a_state_of_the_first_version_comes_here_and_goes_back() -> Result<()> {
    let lab = Lab::temporary(&Topology::by_name("routed")?, "e2e-upgrade")?;
    let gateway = lab.gateway(binary())?;
    let mut world = World::of(gateway, lab);
    let state_dir = world.gateway.state_dir();
    fs::create_dir_all(&state_dir)?;
    let database = state_dir.join("adit.db");
    sqlite(&world, "c.executescript(sys.stdin.read())", &database)?;
    let key = world.host("vps")?.exec(["wg", "genkey"])?.stdout;
    fs::write(state_dir.join("private.key"), key)?;
    for name in ["adit.db", "private.key"] {
        fs::set_permissions(state_dir.join(name), fs::Permissions::from_mode(0o600))?;
    }
    world.gateway.start()?;
    let mut findings = Findings::default();
    findings.check("everything came", came(&world));
    findings.check("the host has it", oracle::check(&world));
    findings.check("the copy from before", {
        let copies = ["adit.db.before-2", "adit.db.before-3", "adit.db.before-4"];
        let is_there = copies.iter().all(|name| state_dir.join(name).exists());
        is_there.then_some(()).context("a copy is missing")
    });

    world.adit(
        "device add late --subnet lan --public-key UKF/eLPz7PbZ/pa0QsEZrHCRPu3Yc3kE+Tfk9wyVy3E=",
    )?;
    world.adit("forward set 9 --label changed")?;
    let wanted = (world.adit("export")?, world.list("token")?);
    let place = format!("--state-dir {} --json", state_dir.display());
    let refused = world
        .gateway
        .try_adit(words(&format!("gateway downgrade --schema 1 {place}")))?;
    findings.check("not while it runs", {
        let good = refused.status.code() == Some(1) && refused.stderr.contains("stop it first");
        good.then_some(()).context(refused.to_string())
    });
    world.gateway.terminate()?;
    let done = world.gateway.adit_json(words(&format!(
        "gateway downgrade --schema 1 --state-dir {}",
        state_dir.display()
    )))?;
    findings.check("what is lost", {
        let good = done["lost"].as_array().is_some_and(|lost| lost.len() == 3);
        good.then_some(()).context(done.to_string())
    });
    findings.check(
        "a database of the first version",
        led_back(&world, &database),
    );
    world.gateway.start()?;
    let found = (world.adit("export")?, world.list("token")?);
    findings.check("and here again", {
        let good = found.0["declaration"] == wanted.0["declaration"] && found.1 == wanted.1;
        good.then_some(())
            .with_context(|| format!("{found:?} is not {wanted:?}"))
    });
    findings.conclude()
}

fn words(command: &str) -> Vec<&str> {
    command.split_whitespace().collect()
}

fn came(world: &World) -> Result<()> {
    ensure!(world.revision()? == 12, "revision {}", world.revision()?);
    let nas = world.find("device", &json!({"name": "nas"}))?;
    ensure!(
        nas["ipv4"] == "10.59.0.2"
            && nas["kind"] == "server"
            && nas["delegations"] == json!(["2001:db8:100:1:1::/80", "192.168.77.0/24"]),
        "{nas}"
    );
    let guest = world.find("device", &json!({"name": "guest"}))?;
    ensure!(
        guest["enabled"] == false && guest["routing"] == "split",
        "{guest}"
    );
    let phone = world.find("device", &json!({"name": "phone"}))?;
    ensure!(phone["expires"] == "2090-01-01T00:00:00Z", "{phone}");
    let text = world.gateway.adit(["device", "config", "phone"])?.stdout;
    ensure!(
        text.contains("PresharedKey = Ge7vwlQMUwXGZNdqg8RHObYjqRgIi44fZQEFySuRFCg="),
        "{text}"
    );
    ensure!(text.contains("Endpoint = gw.example.com:51820"), "{text}");
    world.find(
        "forward",
        &json!({"port": 443, "target_port": 8443, "label": "web"}),
    )?;
    world.find(
        "forward",
        &json!({"port": 5000, "port_end": 5010, "protocols": ["udp"]}),
    )?;
    world.find("pinhole", &json!({"device": "nas", "port": 22}))?;
    world.find("token", &json!({"name": "ci"}))?;
    let settings = world.adit("settings show")?;
    ensure!(settings["clamp_mtu"] == 1400, "{settings}");
    Ok(())
}

/// As the first version reads it: its tables, its number, and objects of which it knows every field that it needs.
fn led_back(world: &World, database: &Path) -> Result<()> {
    let text = sqlite(
        world,
        "print(json.dumps({\
            'version': c.execute('PRAGMA user_version').fetchone()[0],\
            'tables': [r[0] for r in c.execute(\"SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name\")],\
            'check': c.execute('PRAGMA integrity_check').fetchone()[0],\
            'labels': [r[0] for r in c.execute(\"SELECT json_extract(body, '$.label') FROM object WHERE kind = 'forward' ORDER BY id\")],\
            'devices': [r[0] for r in c.execute(\"SELECT json_extract(body, '$.name') FROM object WHERE kind = 'device' ORDER BY id\")]}))",
        database,
    )?;
    let found: Value = serde_json::from_str(&text)?;
    let wanted = json!({
        "version": 1,
        "tables": ["meta", "object"],
        "check": "ok",
        "labels": ["changed", ""],
        "devices": ["nas", "phone", "guest", "late"],
    });
    ensure!(found == wanted, "{found} is not {wanted}");
    Ok(())
}
