//! All ports of a device's own address at once, and all protocols, where that is allowed.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{SHORT, granted, leases, refused};
use crate::support::{Device, INTERNET6, World, at, connect, converse, exchange, listen, raw, udp};

/// The program's request in IPv6.
fn side(world: &World, device: &Device, fields: Value) -> Result<Value> {
    let subnet = &world.list("subnet")?[0];
    let mut wish = json!({
        "server": subnet["gateway_ipv6"], "source": device.ipv6()?, "internal": 0,
    });
    let all = wish.as_object_mut().context("an object")?;
    all.extend(fields.as_object().context("an object")?.clone());
    Ok(wish)
}

#[test]
fn all_ports_at_once_are_for_who_may_have_them() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-leases-whole")?;
    let server = world.join("box", "--kind server")?;
    let laptop = world.join("laptop", "")?;
    let internet = world.host("internet")?;
    let inside = server.ipv6()?;
    let ask = |fields: Value| side(&world, &server, fields);
    let from = Some(at(INTERNET6, 0));
    let is_open = |port: u16| connect(&internet, from, at(inside, port), SHORT).is_ok();

    refused(&server, ask(json!({}))?, 9)?;
    world.adit("device set box --all-ports on --lease-quota 2")?;
    let shown = world.find("device", &json!({"name": "box"}))?;
    ensure!(shown["all_ports"] == true, "{shown}");
    let web = listen(&server.host, at(inside, 443))?;
    let high = listen(&server.host, at(inside, 60123))?;
    let other = listen(&laptop.host, at(laptop.ipv6()?, 443))?;
    ensure!(!is_open(443), "open without a lease");

    let told = granted(&server, ask(json!({}))?)?;
    ensure!(
        told["external"] == 0
            && told["internal"] == 0
            && told["address"] == inside.to_string()
            && told["lifetime"] == 3600,
        "{told}"
    );
    let mut conversation = converse(&internet, from, at(inside, 443), &web)?;
    converse(&internet, from, at(inside, 60123), &high)?;
    let theirs = connect(&internet, from, at(laptop.ipv6()?, 443), SHORT);
    ensure!(theirs.is_err(), "another device's port is open");
    drop(other);
    let datagrams = udp(&server.host, at(inside, 4000))?;
    let far = udp(&internet, at(INTERNET6, 4001))?;
    let dropped = exchange(&far, at(inside, 4000), &datagrams, "not yet");
    ensure!(dropped.is_err(), "UDP comes in by what is open for TCP");
    granted(&server, ask(json!({"protocol": 17}))?)?;
    exchange(&far, at(inside, 4000), &datagrams, "now")?;
    ensure!(leases(&world)?.len() == 2, "{:?}", leases(&world));

    // Two count as two.
    refused(&server, ask(json!({"internal": 8080}))?, 10)?;
    world.adit("device set box --lease-quota 3")?;
    // What cannot be had in its entirety.
    refused(&server, json!({"internal": 0}), 9)?;
    refused(&server, json!({"internal": 0, "protocol": 0}), 9)?;
    let filter = json!([[3, format!("0080{:04x}{}", 0, "20010db8".repeat(4))]]);
    refused(&server, ask(json!({"options": filter}))?, 13)?;
    // Single ports beside them, and with nonces of their own.
    let other_nonce = "02".repeat(12);
    let single = ask(json!({"internal": 443, "nonce": other_nonce}))?;
    granted(&server, single)?;
    let end = ask(json!({"internal": 443, "nonce": other_nonce, "lifetime": 0}))?;
    granted(&server, end)?;
    ensure!(is_open(443), "the end of one port ended all");
    refused(
        &server,
        ask(json!({"nonce": other_nonce, "lifetime": 0}))?,
        2,
    )?;
    granted(&server, ask(json!({"lifetime": 0}))?)?;
    ensure!(
        !is_open(443) && !is_open(60123) && conversation.is_cut()?,
        "open after the end"
    );

    granted(&server, ask(json!({}))?)?;
    world.adit("device set box --auto-port-range 1024-65535")?;
    ensure!(
        leases(&world)?.is_empty() && !is_open(443),
        "the ranges do not hold: {:?}",
        leases(&world)
    );
    refused(&server, ask(json!({}))?, 9)?;
    world.adit("device set box --auto-port-range 1-65535")?;
    granted(&server, ask(json!({}))?)?;
    converse(&internet, from, at(inside, 60123), &high)?;
    world.adit("device set box --kind server")?;
    ensure!(!is_open(443), "open after the kind was set back");
    refused(&server, ask(json!({}))?, 9)?;
    Ok(())
}

#[test]
fn whatever_comes_in_is_for_who_may_have_it() -> Result<()> {
    let mut world = World::with_subnet("routed", "e2e-leases-whole-all")?;
    let server = world.join("box", "--kind server")?;
    let laptop = world.join("laptop", "")?;
    let internet = world.host("internet")?;
    let (inside, theirs) = (server.ipv6()?, laptop.ipv6()?);
    let common = side(&world, &server, json!({"protocol": 0}))?;
    let ask = |fields: Value| {
        let mut wish = common.clone();
        let all = wish.as_object_mut().context("an object")?;
        all.extend(fields.as_object().context("an object")?.clone());
        Ok::<_, anyhow::Error>(wish)
    };
    let from = Some(at(INTERNET6, 0));
    let web = listen(&server.host, at(inside, 443))?;
    let other = listen(&laptop.host, at(theirs, 443))?;
    let datagrams = udp(&server.host, at(inside, 4000))?;
    let packets = raw(&server.host, inside.into())?;
    let other_packets = raw(&laptop.host, theirs.into())?;
    let far = udp(&internet, at(INTERNET6, 4001))?;
    let far_packets = raw(&internet, INTERNET6.into())?;
    let closed = |when: &str| -> Result<()> {
        let is_open = connect(&internet, from, at(inside, 443), SHORT).is_ok();
        ensure!(!is_open, "TCP comes in {when}");
        for (socket, far, port) in [(&datagrams, &far, 4000), (&packets, &far_packets, 0)] {
            let limit = socket.read_timeout()?;
            socket.set_read_timeout(Some(SHORT))?;
            let arrived = exchange(far, at(inside, port), socket, when).is_ok();
            ensure!(!arrived, "a packet to port {port} comes in {when}");
            socket.set_read_timeout(limit)?;
        }
        Ok(())
    };

    refused(&server, ask(json!({}))?, 9)?;
    world.adit("device set box --all-ports on")?;
    closed("without a lease")?;
    refused(&server, ask(json!({"internal": 443}))?, 3)?;
    let filter = json!([[3, format!("0080{:04x}{}", 0, "20010db8".repeat(4))]]);
    refused(&server, ask(json!({"options": filter}))?, 13)?;

    let told = granted(&server, ask(json!({}))?)?;
    ensure!(
        told["external"] == 0
            && told["internal"] == 0
            && told["address"] == inside.to_string()
            && told["lifetime"] == 3600,
        "{told}"
    );
    let lease = world.find("lease", &json!({"device": "box"}))?;
    ensure!(lease["protocol"] == "all", "{lease}");
    let listed = world.gateway.adit(["lease", "list"])?.stdout;
    ensure!(listed.contains("/all"), "{listed}");
    let pinhole = world.find("pinhole", &json!({"origin": "lease"}))?;
    ensure!(
        pinhole["protocols"] == json!(["tcp", "udp"]) && pinhole["port_end"] == 65535,
        "{pinhole}"
    );
    let mut conversation = converse(&internet, from, at(inside, 443), &web)?;
    exchange(&far, at(inside, 4000), &datagrams, "a datagram")?;
    exchange(&far_packets, at(inside, 0), &packets, "a packet")?;
    internet.exec(["ping", "-6", "-c1", "-W4", &inside.to_string()])?;
    let is_open = connect(&internet, from, at(theirs, 443), SHORT).is_ok();
    ensure!(!is_open, "another device's port is open");
    other_packets.set_read_timeout(Some(SHORT))?;
    let arrived = exchange(&far_packets, at(theirs, 0), &other_packets, "astray").is_ok();
    ensure!(!arrived, "another device's address is open");
    drop(other);

    // Renewed, beside others, and ended by who knows the nonce alone.
    granted(&server, ask(json!({}))?)?;
    granted(&server, ask(json!({"protocol": 6, "internal": 443}))?)?;
    granted(&server, ask(json!({"protocol": 17}))?)?;
    ensure!(leases(&world)?.len() == 3, "{:?}", leases(&world));
    granted(&server, ask(json!({"protocol": 17, "lifetime": 0}))?)?;
    granted(
        &server,
        ask(json!({"protocol": 6, "internal": 443, "lifetime": 0}))?,
    )?;
    exchange(&far, at(inside, 4000), &datagrams, "another datagram")?;
    let other_nonce = json!({"nonce": "02".repeat(12), "lifetime": 0});
    refused(&server, ask(other_nonce)?, 2)?;
    exchange(&far_packets, at(inside, 0), &packets, "another packet")?;
    granted(&server, ask(json!({"lifetime": 0}))?)?;
    ensure!(conversation.is_cut()?, "a connection goes on");
    closed("after the end")?;

    granted(&server, ask(json!({}))?)?;
    exchange(&far_packets, at(inside, 0), &packets, "again")?;
    world.adit("device set box --all-ports off")?;
    ensure!(leases(&world)?.is_empty(), "{:?}", leases(&world));
    closed("after the right to it was withdrawn")?;
    refused(&server, ask(json!({}))?, 9)?;

    // What was left open by a daemon that had no time to close it.
    world.gateway.kill()?;
    let element = format!("add element inet adit open_addresses {{ {inside} }}");
    world.host("vps")?.exec(["nft", &element])?;
    exchange(&far_packets, at(inside, 0), &packets, "left open")?;
    world.gateway.start()?;
    closed("after the restart")?;
    Ok(())
}
