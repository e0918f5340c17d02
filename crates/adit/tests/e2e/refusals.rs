//! Every refusal says the same on the command line and over HTTP: one stable code, and a way out.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use adit_lab::wait_until;
use adit_model::import::{self, Hints, Import};
use adit_model::refusal::Refusal;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::support::{Api, Findings, World};

/// A key of nobody's.
const KEY: &str = "VOO+C8DndTc9u3B31XCRmkvQLUI+TyhZPYPJ81YWwkE=";
/// Curve25519 points of low order give keys that everybody knows.
const ZERO: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

struct Both<'a> {
    world: &'a World,
    api: Api,
    findings: Findings,
    reached: BTreeSet<String>,
}

impl Both<'_> {
    /// The same wish on the command line and over HTTP, `METHOD PATH`.
    fn refuse(&mut self, code: &str, command: &str, request: &str, body: &Value) {
        self.refuse_with(code, command, request, &[], body);
    }

    /// The same with headers, which are options on the command line.
    fn refuse_with(
        &mut self,
        code: &str,
        command: &str,
        request: &str,
        headers: &[String],
        body: &Value,
    ) {
        let told = self.compare(code, command, request, headers, body);
        self.findings.check(&format!("{code}: {command}"), told);
        self.reached.insert(code.to_owned());
    }

    fn compare(
        &self,
        code: &str,
        command: &str,
        request: &str,
        headers: &[String],
        body: &Value,
    ) -> Result<()> {
        let refused = self.world.refused(command)?;
        let (method, path) = request.split_once(' ').context("METHOD PATH")?;
        let body = (!body.is_null()).then_some(body);
        let reply = self.api.ask(method, path, headers, body)?;
        let problem = reply.json()?;
        anyhow::ensure!(
            reply.header("content-type") == Some("application/problem+json"),
            "{reply:?}"
        );
        anyhow::ensure!(
            refused.code == code && reply.code()? == code,
            "`{}` on the command line, {problem} over HTTP",
            refused.code
        );
        anyhow::ensure!(
            problem["detail"] == refused.message && problem["hint"] == refused.hint,
            "{refused:?} on the command line, {problem} over HTTP"
        );
        anyhow::ensure!(problem["status"] == reply.status, "{reply:?}");
        anyhow::ensure!(problem["type"] == format!("urn:adit:{code}"), "{problem}");
        Ok(())
    }
}

#[test]
fn a_refusal_is_the_same_on_the_command_line_and_over_http() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-refusals")?;
    for command in [
        "device add box --kind server --ipv4 10.59.0.5",
        "device add phone --routing split",
        "device add upper --delegate 65",
        "subnet add plain --ipv4 10.60.0.0/24 --ipv6 none",
        "device add plain --subnet plain --kind server",
        "device add fifth --subnet plain --ipv4 10.60.0.5",
        "subnet add tiny --ipv4 10.61.0.0/30 --ipv6 none",
        "device add tiny --subnet tiny",
        "subnet add narrow --ipv4 10.62.0.0/24 --ipv6 2001:db8:100:2::100/126",
        "device add narrow --subnet narrow --ipv4 10.62.0.2",
        "forward add 80/tcp box",
        "forward add 8443/tcp box --hostname www.example.org",
    ] {
        world.adit(command)?;
    }
    let mut both = Both {
        api: Api::new(world.gateway.runtime_dir()),
        world: &world,
        findings: Findings::default(),
        reached: BTreeSet::new(),
    };
    let uplinks = world.list("uplink")?;
    let uplink = uplinks.first().and_then(|uplink| uplink["name"].as_str());
    let uplink = uplink.context("an uplink")?.to_owned();
    devices(&mut both);
    subnets(&mut both);
    ports(&mut both);
    let set_uplink = format!("PATCH /uplinks/{uplink}");
    both.refuse(
        "uplink-invalid",
        &format!("uplink set {uplink} --endpoint gw.example.com:51820"),
        &set_uplink,
        &json!({"endpoint": "gw.example.com:51820"}),
    );
    both.refuse(
        "uplink-unknown",
        "uplink set wlan9 --endpoint gw.example.com",
        "PATCH /uplinks/wlan9",
        &json!({"endpoint": "gw.example.com"}),
    );
    both.refuse(
        "setting-invalid",
        "settings set mtu 100",
        "PATCH /settings",
        &json!({"mtu": 100}),
    );
    declarations(&mut both)?;
    imports(&mut both)?;
    confirmations(&mut both)?;
    without_routes(&mut both)?;

    // A condition needs a header, so this one is asked for by itself.
    let told = world.refused("device set box --disable --if-version 1")?;
    let reply = both.api.ask(
        "PATCH",
        "/devices/box",
        &["If-Match: \"1\"".to_owned()],
        Some(&json!({"enabled": false})),
    )?;
    anyhow::ensure!(reply.code()? == told.code, "{reply:?} and {told:?}");
    both.reached.insert(told.code);
    without_devices(&mut both)?;

    // What devices are told by their protocols, and what follows from that: see `leases`.
    let of_devices = ["lease-refused", "port-leased", "is-lease"];
    let all: BTreeSet<String> = Refusal::CODES
        .iter()
        .filter(|(code, _)| !of_devices.contains(code))
        .map(|(code, _)| (*code).to_owned())
        .collect();
    let missing: Vec<_> = all.symmetric_difference(&both.reached).collect();
    both.findings.conclude()?;
    anyhow::ensure!(missing.is_empty(), "not compared: {missing:?}");

    // What the command line refuses by itself has a code and a hint as well.
    let output = world
        .gateway
        .try_adit(["gateway", "teardown", "--config", "/none", "--json"])?;
    let document: Value = serde_json::from_str(output.stderr.lines().last().unwrap_or_default())
        .with_context(|| format!("{output}"))?;
    let error = &document["error"];
    anyhow::ensure!(
        error["code"] == "failed" && error["hint"].as_str().is_some_and(|hint| !hint.is_empty()),
        "{error}"
    );
    Ok(())
}

fn devices(both: &mut Both<'_>) {
    let in_lan = |fields: Value| {
        let mut body = json!({"name": "x", "subnet": "lan"});
        if let (Some(body), Some(fields)) = (body.as_object_mut(), fields.as_object()) {
            body.extend(fields.clone());
        }
        body
    };
    for (code, options, fields) in [
        (
            "address-taken",
            "--ipv4 10.59.0.5",
            json!({"ipv4": "10.59.0.5"}),
        ),
        (
            "address-outside",
            "--ipv4 10.60.0.5",
            json!({"ipv4": "10.60.0.5"}),
        ),
        (
            "key-invalid",
            &format!("--public-key {ZERO}"),
            json!({"public_key": ZERO}),
        ),
        (
            "expiry-passed",
            "--expires 2001-01-01T00:00:00Z",
            json!({"expires": "2001-01-01T00:00:00Z"}),
        ),
        (
            "delegation-invalid",
            "--delegate 64",
            json!({"delegate": [64]}),
        ),
        (
            "delegation-exhausted",
            "--delegate 65",
            json!({"delegate": [65]}),
        ),
        (
            "delegation-covers-host",
            "--delegate 2001:db8:100:1::a3b:0/112",
            json!({"delegate": ["2001:db8:100:1::a3b:0/112"]}),
        ),
    ] {
        let command = format!("device add x --subnet lan {options}");
        both.refuse(code, &command, "POST /devices", &in_lan(fields));
    }
    both.refuse(
        "name-invalid",
        "device add 77 --subnet lan",
        "POST /devices",
        &json!({"name": "77", "subnet": "lan"}),
    );
    both.refuse(
        "name-taken",
        "device add box --subnet lan",
        "POST /devices",
        &json!({"name": "box", "subnet": "lan"}),
    );
    both.refuse(
        "subnet-unclear",
        "device add x",
        "POST /devices",
        &json!({"name": "x"}),
    );
    both.refuse(
        "addresses-exhausted",
        "device add x --subnet tiny",
        "POST /devices",
        &json!({"name": "x", "subnet": "tiny"}),
    );
    both.refuse(
        "address-collision",
        "device add x --subnet narrow --ipv4 10.62.0.6",
        "POST /devices",
        &json!({"name": "x", "subnet": "narrow", "ipv4": "10.62.0.6"}),
    );
    both.refuse(
        "not-found",
        "device remove nobody --yes",
        "DELETE /devices/nobody",
        &Value::Null,
    );
    both.refuse(
        "nothing-to-change",
        "device set box",
        "PATCH /devices/box",
        &json!({}),
    );
    let taken = both
        .world
        .adit(&format!("device rekey phone --public-key {KEY}"));
    both.findings.check("rekey", taken.map(drop));
    both.refuse(
        "key-taken",
        &format!("device rekey box --public-key {KEY}"),
        "POST /devices/box/rekey",
        &json!({"public_key": KEY}),
    );
}

fn subnets(both: &mut Both<'_>) {
    for (code, options, body) in [
        (
            "ipv4-subnet-invalid",
            "--ipv4 10.70.0.0/31",
            json!({"name": "x", "ipv4": "10.70.0.0/31"}),
        ),
        (
            "ipv6-prefix-invalid",
            "--ipv4 10.70.0.0/24 --ipv6 fe80::/64",
            json!({"name": "x", "ipv4": "10.70.0.0/24", "ipv6": "fe80::/64"}),
        ),
        (
            "overlap",
            "--ipv4 10.59.0.0/16",
            json!({"name": "x", "ipv4": "10.59.0.0/16"}),
        ),
        (
            "egress-unknown",
            "--ipv4 10.70.0.0/24 --egress wlan9",
            json!({"name": "x", "ipv4": "10.70.0.0/24", "egress": "wlan9"}),
        ),
    ] {
        let command = format!("subnet add x {options}");
        both.refuse(code, &command, "POST /subnets", &body);
    }
    both.refuse(
        "ipv6-collision",
        "subnet set plain --ipv6 2001:db8:100:3::100/126",
        "PATCH /subnets/plain",
        &json!({"ipv6": "2001:db8:100:3::100/126"}),
    );
    both.refuse(
        "subnet-in-use",
        "subnet remove lan --yes",
        "DELETE /subnets/lan",
        &Value::Null,
    );
}

fn ports(both: &mut Both<'_>) {
    let label = "x".repeat(201);
    for (code, words, body) in [
        (
            "label-too-long",
            format!("82 box --label {label}"),
            json!({"port": 82, "device": "box", "label": label}),
        ),
        (
            "forward-address-unknown",
            "192.0.2.77:82 box".to_owned(),
            json!({"address": "192.0.2.77", "port": 82, "device": "box"}),
        ),
        (
            "range-shifted",
            "81-90/tcp box:91".to_owned(),
            json!({"port": 81, "port_end": 90, "protocols": ["tcp"], "device": "box", "target_port": 91}),
        ),
        (
            "port-taken",
            "80/tcp box".to_owned(),
            json!({"port": 80, "protocols": ["tcp"], "device": "box"}),
        ),
        (
            "port-reserved",
            "51820/udp box".to_owned(),
            json!({"port": 51820, "protocols": ["udp"], "device": "box"}),
        ),
        (
            "port-in-snat-range",
            "40000 box".to_owned(),
            json!({"port": 40000, "device": "box"}),
        ),
        (
            "split-tunnel",
            "82 phone".to_owned(),
            json!({"port": 82, "device": "phone"}),
        ),
        (
            "hostname-invalid",
            "443/tcp box --hostname *.*.example.net".to_owned(),
            json!({"port": 443, "protocols": ["tcp"], "device": "box", "hostname": "*.*.example.net"}),
        ),
        (
            "hostname-taken",
            "8443/tcp box --hostname www.example.org".to_owned(),
            json!({"port": 8443, "protocols": ["tcp"], "device": "box", "hostname": "www.example.org"}),
        ),
        (
            "hostname-on-range",
            "443-444/tcp box --hostname www.example.net".to_owned(),
            json!({"port": 443, "port_end": 444, "protocols": ["tcp"], "device": "box", "hostname": "www.example.net"}),
        ),
        (
            "proxy-protocol-alone",
            "443/tcp box --proxy-protocol".to_owned(),
            json!({"port": 443, "protocols": ["tcp"], "device": "box", "proxy_protocol": true}),
        ),
        (
            "forward-ipv6-global",
            "[2001:db8:1::2]:82 box".to_owned(),
            json!({"address": "2001:db8:1::2", "port": 82, "device": "box"}),
        ),
    ] {
        let command = format!("forward add {words}");
        both.refuse(code, &command, "POST /forwards", &body);
    }
    both.refuse(
        "pinhole-without-ipv6",
        "pinhole add plain 80",
        "POST /pinholes",
        &json!({"device": "plain", "port": 80}),
    );
}

fn declarations(both: &mut Both<'_>) -> Result<()> {
    let exported = both.world.gateway.adit(["export"])?.stdout;
    let wrong = exported.replacen("\"10.59.0.5\"", "\"10.60.0.6\"", 1);
    let file = write(both.world, "declaration.toml", &wrong)?;
    let mut body = both.world.adit("export")?;
    let revision = body["revision"].take();
    let declaration = body["declaration"].clone();
    let mut refused = declaration.clone();
    refused["device"]["box"]["ipv4"] = json!("10.60.0.6");
    both.refuse(
        "declaration-refused",
        &format!("apply --yes -f {file}"),
        "POST /declaration/apply",
        &json!({"declaration": refused}),
    );
    // On the command line there is only a moment between the plan and what is made of it.
    let before = revision.as_u64().context("a revision")? - 1;
    let body = json!({"declaration": declaration, "revision": before});
    let reply = both
        .api
        .ask("POST", "/declaration/apply", &[], Some(&body))?;
    both.reached.insert(reply.code()?);
    Ok(())
}

fn imports(both: &mut Both<'_>) -> Result<()> {
    let key = fs::read_to_string(both.world.gateway.state_dir().join("private.key"))?;
    for (code, key) in [("import-refused", key.trim()), ("import-key-taken", KEY)] {
        let (file, import) = other_server(both.world, key)?;
        both.refuse(
            code,
            &format!("import {file} --subnet imported --yes"),
            "POST /import",
            &json!({"import": import}),
        );
    }
    Ok(())
}

/// A file that another server was run with, and what the gateway is asked for with it.
fn other_server(world: &World, key: &str) -> Result<(String, Import)> {
    let text =
        format!("[Interface]\nPrivateKey = {key}\nAddress = 10.59.0.77/24\nListenPort = 51820\n");
    let hints = Hints {
        subnet: "imported",
        ..Hints::default()
    };
    let reading = import::read(&text, &hints)?;
    Ok((write(world, "wg0.conf", &text)?, reading.import))
}

fn confirmations(both: &mut Both<'_>) -> Result<()> {
    both.refuse(
        "nothing-to-confirm",
        "confirm",
        "POST /confirm",
        &Value::Null,
    );
    let within = ["Confirm-Within: 60".to_owned()];
    both.world.adit("--confirm 60 device set box --disable")?;
    both.refuse_with(
        "awaits-confirmation",
        "--confirm 60 device set box --enable",
        "PATCH /devices/box",
        &within,
        &json!({"enabled": true}),
    );
    both.world.adit("confirm")?;
    both.world.adit("device set box --enable")?;
    Ok(())
}

/// Only a gateway without devices takes another key, which is what cannot be taken back.
fn without_devices(both: &mut Both<'_>) -> Result<()> {
    for subnet in both.world.list("subnet")? {
        let name = subnet["name"].as_str().context("name")?;
        both.world.adit(&format!("subnet remove {name} --force"))?;
    }
    let (file, import) = other_server(both.world, KEY)?;
    both.refuse_with(
        "not-taken-back",
        &format!("--confirm 60 import {file} --subnet imported --yes"),
        "POST /import",
        &["Confirm-Within: 60".to_owned()],
        &json!({"import": import}),
    );
    Ok(())
}

fn write(world: &World, name: &str, text: &str) -> Result<String> {
    let path = world.host("vps")?.folder()?.join(name);
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// On a host whose default routes are gone.
fn without_routes(both: &mut Both<'_>) -> Result<()> {
    let vps = both.world.host("vps")?;
    for family in ["-4", "-6"] {
        vps.exec(["ip", family, "route", "del", "default"])?;
    }
    wait_until("no uplink is left", Duration::from_secs(10), || {
        Ok(both.world.list("uplink")?.is_empty())
    })?;
    both.refuse(
        "no-uplink",
        "forward add 82 box",
        "POST /forwards",
        &json!({"port": 82, "device": "box"}),
    );
    both.refuse(
        "no-ipv6-default-route",
        "subnet add x --ipv4 10.70.0.0/24 --ipv6 2001:db8:9::/64",
        "POST /subnets",
        &json!({"name": "x", "ipv4": "10.70.0.0/24", "ipv6": "2001:db8:9::/64"}),
    );
    Ok(())
}
