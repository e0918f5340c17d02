//! A host that moves while it keeps its ports: to another address, and into a tunnel and out of it.

use std::net::Ipv4Addr;

use adit_lab::{Process, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Home, OUTSIDE, Router, SOON, path};
use crate::support::{PUBLIC4, World, at, binary, converse, listen};

/// Another address of the laptop, of which the router knows nothing.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 13);

/// What it held, one after the other.
fn held(watch: &Process) -> Result<Vec<String>> {
    let said = watch.stdout()?;
    let events = said.lines().map(serde_json::from_str::<Value>);
    let events = events.collect::<Result<Vec<_>, _>>()?;
    let held = events.iter().filter(|event| event["event"] == "held");
    let external = held.filter_map(|event| event["mapping"]["external"].as_str());
    Ok(external.map(str::to_owned).collect())
}

#[test]
fn watched_port_follows_the_address_of_the_host() -> Result<()> {
    let mut home = Home::new("portmap-moved")?;
    home.router.start()?;
    let mut watch = home
        .laptop
        .spawn(home.words("watch 8080/tcp --ipv4 --external 18080")?)?;
    watch.wait_for_output("11.0.0.2:18080", SOON)?;
    for command in [
        "ip address flush dev eth0 scope global",
        "ip address add 192.168.1.13/24 dev eth0",
        "ip route add default via 192.168.1.1",
    ] {
        home.laptop.exec(command.split(' '))?;
    }
    watch.wait_for_output("192.168.1.13:8080", SOON * 2)?;
    let listed = home.portmap("list")?;
    let mapping = listed
        .iter()
        .find(|it| it["internal"] == "192.168.1.13:8080")
        .context("a mapping of the new address")?;
    let external: std::net::SocketAddr = mapping["external"].as_str().context("one")?.parse()?;
    ensure!(external.ip() == OUTSIDE, "{mapping}");
    let listener = listen(&home.laptop, at(ELSEWHERE, 8080))?;
    converse(&home.provider, None, external, &listener)?.talk()?;
    watch.stop()?;
    let left = home.portmap("list")?;
    ensure!(
        left.iter()
            .all(|it| it["internal"] == "192.168.1.11:8080" && it["process"].is_null()),
        "only what could not be given back is left: {left:?}"
    );
    Ok(())
}

#[test]
fn watched_port_goes_over_to_a_tunnel_that_comes_up_and_back() -> Result<()> {
    let world = World::with_subnet("routed", "portmap-late")?;
    let mut router = Router::prepare(&world.lab)?;
    router.start()?;
    let host = world.host("box")?;
    let answer = world.adit("device add box --kind server")?;
    let text = answer["config"].as_str().context("a configuration")?;
    let folder = path(&world.lab.folder().join("portmap"))?;
    let (binary, command) = (path(binary())?, "portmap watch 8080/tcp --ipv4 --json");
    let mut words = vec![binary.as_str()];
    words.extend(command.split(' '));
    words.extend(["--runtime-dir", &folder]);
    let mut watch = host.spawn(words)?;
    let (home, public) = (at(OUTSIDE, 8080).to_string(), at(PUBLIC4, 8080).to_string());
    let await_held = |watch: &Process, expected: &[&String]| {
        wait_until("what is held", SOON * 3, || {
            Ok(held(watch)?.iter().eq(expected.iter().copied()))
        })
        .with_context(|| format!("the command said {:?}", watch.stdout()))
    };
    await_held(&watch, &[&home])?;

    let device = world.connect("box", text, answer.clone())?;
    await_held(&watch, &[&home, &public])?;
    ensure!(world.list("lease")?.len() == 1);
    let left = router
        .host
        .exec(["nft", "list chain inet filter prerouting_miniupnpd"])?
        .stdout;
    ensure!(!left.contains("dnat"), "not given back: {left}");

    device.tunnel.down()?;
    await_held(&watch, &[&home, &public, &home])?;
    // The lease is still there, and is renewed: another nonce would not be let in.
    let device = world.connect("box", text, answer.clone())?;
    await_held(&watch, &[&home, &public, &home, &public])?;
    ensure!(world.list("lease")?.len() == 1);

    watch.stop()?;
    ensure!(world.list("lease")?.is_empty());
    device.tunnel.down()
}
