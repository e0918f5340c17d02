//! What happens to connections over names when the gateway or the front dies, or becomes another.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use adit_lab::{Host, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::visitor::{ask, expect, path, who};
use super::{LIMIT, town};
use crate::support::{INTERNET4, PUBLIC4, World, binary};

struct Held {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Held {
    fn open(host: &Host, name: &str) -> Result<Self> {
        let at = format!("{PUBLIC4}:443");
        let command = [
            "openssl",
            "s_client",
            "-quiet",
            "-connect",
            &at,
            "-servername",
            name,
        ];
        let mut process = host
            .command(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let input = process.stdin.take().context("input")?;
        let output = BufReader::new(process.stdout.take().context("output")?);
        let mut held = Self {
            process,
            input,
            output,
        };
        held.input.write_all(b"GET /hold HTTP/1.0\r\n\r\n")?;
        held.next("HTTP/1.0 200 OK")?;
        held.next("")?;
        held.next("box ")?;
        Ok(held)
    }

    fn next(&mut self, begin: &str) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(
            line.ends_with('\n') && line.starts_with(begin),
            "{line:?} where {begin:?} was awaited"
        );
        Ok(())
    }

    fn talk(&mut self) -> Result<()> {
        self.input.write_all(b"more\n")?;
        self.next("box ")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_gateway_that_dies_breaks_no_connection_and_a_front_that_dies_comes_back() -> Result<()> {
    let mut town = town("e2e-names-crash")?;
    let internet = town.world.host("internet")?;
    let vps = town.world.host("vps")?;
    let public = IpAddr::V4(PUBLIC4);
    let seen = IpAddr::V4(INTERNET4);
    town.world
        .adit("forward add 443/tcp box --name blog.example.org")?;
    let mut held = Held::open(&internet, "blog.example.org")?;
    counted(&town.world, &internet)?;
    town.world.gateway.kill()?;
    held.talk().context("while there is no gateway")?;
    expect(&internet, "https://blog.example.org/", public, "box", seen)
        .context("while there is no gateway")?;
    town.world.gateway.start()?;
    town.world
        .adit("forward add 443/tcp laptop --name other.example.org")?;
    held.talk().context("with a new gateway")?;
    expect(
        &internet,
        "https://other.example.org/",
        public,
        "laptop",
        seen,
    )?;
    let status = town.world.adit("status")?;
    ensure!(status["problems"] == json!([]), "{}", status["problems"]);

    // What is removed ends.
    let id = town
        .world
        .id("forward", &json!({"hostname": "blog.example.org"}))?;
    town.world.adit(&format!("forward remove {id}"))?;
    ensure!(held.talk().is_err(), "a connection survives its forward");

    let front = front(&vps)?;
    vps.exec(["kill", "-9", &front])?;
    let url = "https://other.example.org/";
    wait_until("a new front", LIMIT, || {
        Ok(who(&internet, url, public).is_ok_and(|(name, _)| name == "laptop"))
    })?;

    // It goes with everything else.
    town.world.gateway.terminate()?;
    town.world.gateway.teardown()?;
    wait_until("the end of the front", LIMIT, || {
        Ok(self::front(&vps).is_err())
    })
}

/// The connection that is held, and one that nobody takes, are told of.
fn counted(world: &World, internet: &Host) -> Result<()> {
    let unknown = ask(internet, "https://unknown.example.org/", PUBLIC4.into());
    ensure!(unknown.is_err(), "a name of nobody is answered");
    wait_until("the counts", LIMIT, || {
        let front = &world.adit("status")?["front"];
        Ok(front["connections"] == 1 && front["refused"]["unknown_name"] == 1)
    })?;
    let socket = world.gateway.runtime_dir().join("adit.sock");
    let socket = path(&socket)?;
    let url = "http://localhost/metrics";
    let vps = world.host("vps")?;
    let metrics = vps.exec(["curl", "--silent", "--unix-socket", socket, url])?;
    for line in [
        "adit_front_connections{kind=\"open\"} 1\n",
        "adit_front_refused_total{reason=\"unknown-name\"} 1\n",
    ] {
        ensure!(metrics.stdout.contains(line), "{line}: {}", metrics.stdout);
    }
    Ok(())
}

/// This program, as one of another version: with the text of its version changed.
fn of_another_version(world: &World) -> Result<PathBuf> {
    let (here, other) = (env!("CARGO_PKG_VERSION").as_bytes(), b"0.0.9");
    ensure!(here.len() == other.len(), "versions of another length");
    let mut program = fs::read(binary())?;
    let mut place = 0;
    while let Some(found) = program[place..].windows(5).position(|it| it == here) {
        place += found;
        program[place..place + 5].copy_from_slice(other);
    }
    let path = world.lab.folder().join("adit");
    fs::write(&path, program)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[test]
fn a_front_of_another_version_hands_over_and_breaks_no_connection() -> Result<()> {
    let mut town = town("e2e-names-upgrade")?;
    let internet = town.world.host("internet")?;
    let vps = town.world.host("vps")?;
    let public = IpAddr::V4(PUBLIC4);
    let seen = IpAddr::V4(INTERNET4);
    town.world.gateway.terminate()?;
    let other = of_another_version(&town.world)?;
    town.world.gateway.use_binary(&other)?;
    town.world.gateway.start()?;
    town.world
        .adit("forward add 443/tcp box --name blog.example.org")?;
    let before = front(&vps)?;
    let mut held = Held::open(&internet, "blog.example.org")?;

    town.world.gateway.terminate()?;
    town.world.gateway.use_binary(binary())?;
    town.world.gateway.start()?;
    let url = "https://blog.example.org/";
    wait_until("a front of this version", LIMIT, || {
        expect(&internet, url, public, "box", seen)?;
        Ok(front(&vps)? != before)
    })?;
    held.talk().context("over the front of the other version")?;
    wait_until("it is counted", LIMIT, || {
        Ok(town.world.adit("status")?["front"]["connections"] == 1)
    })?;
    // It hears what is gone although another has its place.
    town.world
        .adit("forward add 443/tcp laptop --name other.example.org")?;
    held.talk().context("beside another name")?;
    let id = town
        .world
        .id("forward", &json!({"hostname": "blog.example.org"}))?;
    town.world.adit(&format!("forward remove {id}"))?;
    ensure!(held.talk().is_err(), "a connection survives its forward");
    wait_until("the end of the one before", LIMIT, || {
        Ok(!Path::new("/proc").join(&before).exists())
    })
}

/// The process that listens on port 443 of the VPS.
fn front(vps: &Host) -> Result<String> {
    let sockets = vps.exec(["ss", "-Hltnp", "sport", "=", ":443"])?.stdout;
    let process = sockets.split("pid=").nth(1).context("nobody listens")?;
    ensure!(sockets.contains("adit-front"), "{sockets}");
    Ok(process.split(',').next().unwrap_or_default().to_owned())
}
