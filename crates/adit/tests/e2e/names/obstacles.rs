//! What keeps names from being served on a host, and how it is told of.

use std::net::IpAddr;

use adit_lab::wait_until;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::LIMIT;
use super::visitor::{Identity, ask, expect, path};
use crate::support::{INTERNET4, PUBLIC4, World, binary};

#[test]
fn a_port_of_another_program_is_told_of() -> Result<()> {
    let world = World::start("routed", "e2e-names-taken")?;
    world.adit("subnet add lan --ipv4 10.59.0.0/24")?;
    let server = world.join("box", "--kind server")?;
    let identity = Identity::make(&world)?;
    let _web = identity.serve(&server.host, "box", 443, "tls")?;
    let vps = world.host("vps")?;
    let internet = world.host("internet")?;
    let mut other = identity.serve(&vps, "other", 443, "tls")?;
    let refused = world.refused("forward add 443/tcp box --name blog.example.org")?;
    ensure!(refused.code == "port-reserved", "{refused:?}");
    other.stop()?;
    world.adit("forward add 443/tcp box --name blog.example.org")?;
    let public = IpAddr::V4(PUBLIC4);
    expect(
        &internet,
        "https://blog.example.org/",
        public,
        "box",
        IpAddr::V4(INTERNET4),
    )?;
    let id = world.id("forward", &json!({"port": 443}))?;
    world.adit(&format!("forward set {id} --disable"))?;
    let mut other = identity.serve(&vps, "other", 443, "tls")?;
    let problem = |code: &str| -> Result<bool> {
        let status = world.adit("status")?;
        let problems = status["problems"].as_array().context("problems")?;
        Ok(problems.iter().any(|it| it["code"] == code))
    };
    ensure!(
        world.adit(&format!("forward set {id} --enable")).is_err(),
        "a port that another program has is given"
    );
    other.stop()?;
    world.adit(&format!("forward set {id} --enable"))?;
    expect(
        &internet,
        "https://blog.example.org/",
        public,
        "box",
        IpAddr::V4(INTERNET4),
    )?;
    ensure!(
        !problem("name-port-taken")? && !problem("front-listener-failed")?,
        "told of nothing"
    );
    Ok(())
}

/// Rules of the VPS's own that let in what was needed before there were names.
const GUARD: &str = "table inet guard {
  chain input {
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    iifname { \"lo\", \"adit0\" } accept
    meta l4proto { icmp, ipv6-icmp } accept
    udp dport 51820 accept
  }
}
";

#[test]
fn a_firewall_of_the_host_is_named_with_what_lets_names_in() -> Result<()> {
    let world = World::start("routed", "e2e-names-guard")?;
    world.adit("subnet add lan --ipv4 10.59.0.0/24")?;
    let server = world.join("box", "--kind server")?;
    let identity = Identity::make(&world)?;
    let _web = identity.serve(&server.host, "box", 443, "tls")?;
    let vps = world.host("vps")?;
    let guard = GUARD.replace("adit0", world.gateway.interface());
    vps.exec_with_input(["nft", "-f", "-"], &guard)?;
    let problems = || -> Result<Vec<Value>> {
        let status = world.adit("status")?;
        Ok(status["problems"].as_array().context("problems")?.clone())
    };
    let told = problems()?;
    ensure!(told.is_empty(), "before there is a name: {told:?}");
    world.adit("forward add 443/tcp box --name blog.example.org")?;
    let internet = world.host("internet")?;
    let url = "https://blog.example.org/";
    let public = IpAddr::V4(PUBLIC4);
    ensure!(ask(&internet, url, public).is_err(), "it is let in already");
    wait_until("the problem", LIMIT, || Ok(!problems()?.is_empty()))?;
    let told = problems()?;
    let fix = told[0]["fix"].as_str().unwrap_or_default();
    let command = fix.split('`').nth(1).unwrap_or_default();
    ensure!(
        told.len() == 1 && told[0]["code"] == "foreign-firewall" && command.contains("443"),
        "{told:?}"
    );
    vps.exec(["sh", "-c", command])?;
    expect(&internet, url, public, "box", IpAddr::V4(INTERNET4))?;
    wait_until("no problem", LIMIT, || Ok(problems()?.is_empty()))
}

#[test]
fn a_front_without_the_right_to_show_visitors_is_told_of() -> Result<()> {
    let world = World::start("routed", "e2e-names-rights")?;
    world.adit("subnet add lan --ipv4 10.59.0.0/24")?;
    let server = world.join("box", "--kind server")?;
    let identity = Identity::make(&world)?;
    let _web = identity.serve(&server.host, "box", 443, "tls")?;
    let vps = world.host("vps")?;
    let internet = world.host("internet")?;
    let socket = world.gateway.runtime_dir().join("front.sock");
    let lacking = [
        "setpriv",
        "--bounding-set=-net_admin,-net_raw",
        binary().to_str().context("a path in letters")?,
        "front",
        "--foreground",
        path(&socket)?,
    ];
    let mut front = vps.spawn(lacking)?;
    wait_until("the front", LIMIT, || Ok(socket.exists()))?;
    let added = world.adit("forward add 443/tcp box --name blog.example.org");
    ensure!(added.is_err(), "it is told that it works");
    let url = "https://blog.example.org/";
    let public = IpAddr::V4(PUBLIC4);
    ensure!(ask(&internet, url, public).is_err(), "it has the right");
    let problems = || -> Result<Vec<Value>> {
        let status = world.adit("status")?;
        Ok(status["problems"].as_array().context("problems")?.clone())
    };
    let told = problems()?;
    let fix = told.first().and_then(|told| told["fix"].as_str());
    let process = format!("process {},", front.id());
    ensure!(
        told.len() == 1
            && told[0]["code"] == "front-rights-missing"
            && fix.is_some_and(|fix| fix.contains(&process)),
        "{told:?}"
    );
    // What the fix says: the gateway starts one that has what the gateway has.
    front.stop()?;
    wait_until("another front", LIMIT, || Ok(problems()?.is_empty()))?;
    expect(&internet, url, public, "box", IpAddr::V4(INTERNET4))
}
