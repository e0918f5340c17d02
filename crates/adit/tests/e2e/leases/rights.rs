//! What a change takes from devices, and what it has to leave to them.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{SHORT, filter, granted, leases, natpmpc, refused};
use crate::support::{Device, Findings, INTERNET4, PUBLIC4, World, at, connect, converse, listen};

#[test]
fn ports_end_with_the_right_to_them_and_not_before() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-leases-rights")?;
    let server = world.join("box", "--kind server")?;
    let laptop = world.join("laptop", "")?;
    let mut findings = Findings::default();
    findings.check("for another", for_another(&world, &server, &laptop));
    findings.check("open to all", open_to_all(&world, &server));
    findings.check("another prefix", at_another_prefix(&world, &server));
    findings.conclude()
}

fn for_another(world: &World, server: &Device, laptop: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let octets: String = laptop
        .ipv4
        .octets()
        .map(|octet| format!("{octet:02x}"))
        .concat();
    world.adit("device set box --third-party on")?;
    let third = json!([[1, format!("{}ffff{octets}", "00".repeat(10))]]);
    let wish = json!({"internal": 8400, "external": 8400, "client": server.ipv4, "options": third});
    granted(server, wish.clone())?;
    let listed = leases(world)?;
    let parties = listed
        .first()
        .map(|lease| (&lease["device"], &lease["asked_by"]));
    ensure!(
        parties == Some((&json!("laptop"), &json!("box"))),
        "{listed:?}"
    );
    let web = listen(&laptop.host, at(laptop.ipv4, 8400))?;
    converse(&internet, None, at(PUBLIC4, 8400), &web)?;
    world.adit("device set laptop --lease-quota 9")?;
    converse(&internet, None, at(PUBLIC4, 8400), &web)?;
    world.adit("device set box --third-party off")?;
    ensure!(leases(world)?.is_empty(), "the right is gone, the port not");
    let after = connect(&internet, None, at(PUBLIC4, 8400), SHORT);
    ensure!(after.is_err(), "it is still open");
    refused(server, wish, 5)?;
    Ok(())
}

/// A filter is not granted where it would not be in force (RFC 6887 section 13.3).
fn open_to_all(world: &World, server: &Device) -> Result<()> {
    let only: Value = json!([filter(&INTERNET4.to_string(), 32, 0)]);
    let wish = |port: u16| json!({"internal": port, "external": port, "options": only});
    natpmpc(server, "-a 8401 8401 tcp 3600")?;
    refused(server, wish(8401), 13)?;
    granted(server, json!({"internal": 8401}))?;
    natpmpc(server, "-a 8401 8401 tcp 0")?;
    granted(server, wish(8401))?;
    granted(server, json!({"internal": 8401, "lifetime": 0}))?;
    world.adit("forward add 8402/tcp box")?;
    refused(server, wish(8402), 13)?;
    Ok(())
}

fn at_another_prefix(world: &World, server: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    granted(server, json!({"internal": 8403, "external": 8403}))?;
    let web = listen(&server.host, at(server.ipv4, 8403))?;
    let before = leases(world)?;
    world.adit("subnet set lan --ipv6 none")?;
    ensure!(
        leases(world)?[0]["id"] == before[0]["id"],
        "{before:?} is gone"
    );
    converse(&internet, None, at(PUBLIC4, 8403), &web)?;
    Ok(())
}
