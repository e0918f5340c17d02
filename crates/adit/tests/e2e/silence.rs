//! What the Internet hears of a gateway: nothing that it did not ask for, and from devices nothing at all.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use adit_lab::{Host, Lab, TemporaryLab, Topology};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::{
    Capture, Findings, INTERNET4, INTERNET6, PUBLIC4, PUBLIC6, World, at, binary, is_soak, listen,
    probe, udp,
};

#[test]
fn the_uplink_hears_nothing_with_a_routed_prefix() -> Result<()> {
    nothing_is_said("routed")
}

#[test]
fn the_uplink_hears_nothing_with_an_on_link_prefix() -> Result<()> {
    nothing_is_said("on-link")
}

/// Everything that the daemon does by itself or is told, without a device that connects: heard at the provider's end.
pub(crate) fn nothing_is_said(topology: &str) -> Result<()> {
    let lab = quiet(topology)?;
    let edge = lab.host("edge")?;
    let control = Capture::start_incoming(&edge, "vps", "")?;
    pause(if is_soak() { 30 } else { 6 });
    let control = control.text()?;

    let heard = Capture::start_incoming(&edge, "vps", "")?;
    let mut ear = Ear {
        heard,
        told: 0,
        control: sentences(&control),
        findings: Findings::default(),
    };
    let gateway = lab.start_gateway(binary())?;
    let mut world = World::of(gateway, lab);
    ear.listen("the first start", &[])?;
    let ipv6 = match world.provided() {
        Some(prefix) => format!(" --ipv6 {prefix}"),
        None => String::new(),
    };
    world.adit(&format!("subnet add lan --ipv4 10.59.0.0/24{ipv6}"))?;
    // With the first subnet this host becomes a router, and the kernel joins the routers' group on every interface; so it does
    // with the group of each address for which it answers Neighbor Solicitations.
    ear.listen("the first subnet", &["ff02::2", "ff05::2", "ff02::1:ff"])?;
    world.adit("device add box --kind server")?;
    ear.listen("a device", &["ff02::1:ff"])?;
    world.adit("forward add 80 box")?;
    world.adit("pinhole add box 80")?;
    ear.listen("a forward and a pinhole", &[])?;
    world.adit("subnet add private --ipv4 10.60.0.0/24")?;
    world.adit("subnet remove private")?;
    ear.listen("another subnet, there and gone", &[])?;
    world.gateway.terminate()?;
    ear.listen("the end of the daemon", &[])?;
    world.gateway.start()?;
    ear.listen("its next start", &[])?;
    world.gateway.kill()?;
    ear.listen("a crash", &[])?;
    world.gateway.start()?;
    ear.listen("the start after the crash", &[])?;
    world.gateway.terminate()?;
    world.gateway.teardown()?;
    ear.listen("teardown", &["ff02::2", "ff05::2", "ff02::1:ff"])?;
    // And it would have been heard.
    world
        .host("vps")?
        .try_exec(["ping", "-c1", "-W2", "203.0.113.1"])?;
    ear.heard.wait_for("ICMP echo request")?;
    ear.findings.conclude()
}

/// What a host says of its own when it comes up is over.
fn quiet(topology: &str) -> Result<TemporaryLab> {
    let lab = Lab::temporary(&Topology::by_name(topology)?, "e2e-silence")?;
    pause(3);
    Ok(lab)
}

fn pause(seconds: u64) {
    thread::sleep(Duration::from_secs(seconds));
}

struct Ear {
    heard: Capture,
    told: usize,
    control: Vec<String>,
    findings: Findings,
}

impl Ear {
    /// Waits for what a chapter brings; reports of membership in these groups are the kernel's.
    fn listen(&mut self, chapter: &str, groups: &[&str]) -> Result<()> {
        // An unsolicited report is repeated within a second (RFC 3810 section 9.11).
        pause(2);
        let all = sentences(&self.heard.text()?);
        let new: Vec<&String> = all.iter().skip(self.told).collect();
        self.told = all.len();
        let (reports, rest): (Vec<&String>, Vec<&String>) = new
            .into_iter()
            .filter(|sentence| {
                !self
                    .control
                    .iter()
                    .any(|known| kind(known) == kind(sentence))
            })
            .partition(|sentence| {
                sentence.contains("multicast listener report")
                    && sentence
                        .split("gaddr ")
                        .skip(1)
                        .all(|record| groups.iter().any(|group| record.starts_with(group)))
            });
        if !reports.is_empty() {
            Findings::note(&format!(
                "{chapter}: {} reports of group membership by the kernel",
                reports.len()
            ));
        }
        let outcome = if rest.is_empty() {
            Ok(())
        } else {
            Err(anyhow::anyhow!("the uplink hears {rest:#?}"))
        };
        self.findings.check(chapter, outcome);
        Ok(())
    }
}

/// Packets as lines; what is told of one may take several, all but the first of which are indented.
fn sentences(text: &str) -> Vec<String> {
    let mut sentences: Vec<String> = Vec::new();
    for line in text.lines() {
        match sentences.last_mut() {
            Some(last) if line.starts_with(char::is_whitespace) => last.push_str(line),
            Some(_) | None => sentences.push(line.to_owned()),
        }
    }
    sentences
}

/// A packet without its time.
fn kind(sentence: &str) -> &str {
    sentence.split_once(' ').map_or(sentence, |(_, rest)| rest)
}

const SSH: u16 = 22;

/// The same host is probed before it becomes a gateway, and after.
#[test]
fn probes_from_outside_learn_nothing_of_devices() -> Result<()> {
    let lab = Lab::temporary(&Topology::by_name("routed")?, "e2e-probes")?;
    let vps = lab.host("vps")?;
    let internet = lab.host("internet")?;
    let _ssh = [
        listen(&vps, at(PUBLIC4, SSH))?,
        listen(&vps, at(PUBLIC6, SSH))?,
    ];
    let own = [IpAddr::V4(PUBLIC4), IpAddr::V6(PUBLIC6)];
    let before = scan(&internet, &own)?;
    let gateway = lab.start_gateway(binary())?;
    let world = World::of(gateway, lab);
    world.adit("subnet add lan --ipv4 10.59.0.0/24 --ipv6 2001:db8:100:1::/64")?;
    let server = world.join("box", "--kind server")?;
    let _web = listen(&server.host, "[::]:80".parse()?)?;
    let _datagrams = udp(&server.host, "[::]:53".parse()?)?;
    let after = scan(&internet, &own)?;
    let mut findings = Findings::default();
    for address in own {
        let (before, after) = (&before[address.to_string()], &after[address.to_string()]);
        findings.check(
            &format!("the same answers from {address}"),
            compare(before, after),
        );
    }
    let nobody: IpAddr = "2001:db8:100:1::dead".parse()?;
    let silent = [IpAddr::V6(server.ipv6()?), nobody];
    let answers = scan(&internet, &silent)?;
    for address in silent {
        let entry = &answers[address.to_string()];
        Findings::note(&format!("{address}: {entry}"));
        findings.check(&format!("silence of {address}"), no_answer(entry));
    }
    findings.conclude()
}

fn scan(internet: &Host, targets: &[IpAddr]) -> Result<Value> {
    let ports = if is_soak() { 1..=65535 } else { 1..=9000 };
    let answers = probe(internet, (INTERNET4, INTERNET6), &ports, 20_000, targets)?;
    for target in targets {
        let sent = answers[target.to_string()]["sent"].as_u64();
        ensure!(
            sent.is_some_and(|sent| sent > u64::from(*ports.end())),
            "of the probes to {target} only {sent:?} were sent"
        );
    }
    Ok(answers)
}

/// The kernel answers a part of the datagrams only, so of those the kinds count.
fn compare(before: &Value, after: &Value) -> Result<()> {
    ensure!(
        before["open"] == after["open"] && before["tcp"] == after["tcp"],
        "without a gateway {before}, with it {after}"
    );
    let kinds = |entry: &Value| -> Result<Vec<String>> {
        let kinds = entry["udp"].as_object().context("udp")?;
        Ok(kinds.keys().cloned().collect())
    };
    ensure!(
        kinds(before)? == kinds(after)?,
        "without a gateway {before}, with it {after}"
    );
    ensure!(before["tcp"]["rst"].as_u64() > Some(1000), "{before}");
    Ok(())
}

fn no_answer(entry: &Value) -> Result<()> {
    ensure!(
        entry["tcp"] == json!({}) && entry["udp"] == json!({}),
        "{entry}"
    );
    Ok(())
}
