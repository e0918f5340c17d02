//! With our gateway, asked by its devices.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{OUTSIDE, Router, SOON, path};
use crate::support::{Device, INTERNET4, PUBLIC4, World, at, binary, converse, listen};

/// `adit portmap` on a device of the gateway.
pub(super) struct Asker<'a> {
    device: &'a Device,
    folder: String,
}

impl<'a> Asker<'a> {
    pub(super) fn new(world: &World, device: &'a Device) -> Result<Self> {
        let folder = world.lab.folder().join(device.host.name()).join("portmap");
        Ok(Self {
            device,
            folder: path(&folder)?,
        })
    }

    pub(super) const fn device(&self) -> &Device {
        self.device
    }

    pub(super) fn words(&self, command: &str) -> Result<Vec<String>> {
        let mut words = vec![path(binary())?, "portmap".to_owned()];
        words.extend(command.split_whitespace().map(str::to_owned));
        words.extend(["--json", "--runtime-dir", &self.folder].map(str::to_owned));
        Ok(words)
    }

    pub(super) fn portmap(&self, command: &str) -> Result<Vec<Value>> {
        let output = self.device.host.exec(self.words(command)?)?;
        let document: Value = serde_json::from_str(&output.stdout)?;
        let mappings = document["mappings"].as_array();
        Ok(mappings.context("mappings")?.clone())
    }

    /// What it says when it is refused.
    pub(super) fn refused(&self, command: &str) -> Result<Value> {
        self.ends(command, 1)
    }

    /// What it says when it ends with a status that is not 0.
    pub(super) fn ends(&self, command: &str, status: i32) -> Result<Value> {
        let output = self.device.host.try_exec(self.words(command)?)?;
        ensure!(output.status.code() == Some(status), "{command}: {output}");
        let document: Value = serde_json::from_str(&output.stderr)?;
        Ok(document["error"].clone())
    }
}

#[test]
fn devices_find_their_gateway_whatever_their_default_route() -> Result<()> {
    let world = World::with_subnet("routed", "portmap-own")?;
    let internet = world.host("internet")?;
    let inbound = world.join("box", "--kind server")?;
    let full = world.join("laptop", "--kind server --routing full")?;
    for (device, port) in [(&inbound, 8081), (&full, 8082)] {
        let name = device.host.name();
        let asker = Asker::new(&world, device)?;
        let added = asker.portmap(&format!("add {port}/tcp"))?;
        let external: Vec<_> = added
            .iter()
            .filter_map(|it| it["external"].as_str())
            .collect();
        let expected = [
            at(PUBLIC4, port).to_string(),
            at(device.ipv6()?, port).to_string(),
        ];
        ensure!(external == expected, "{name}: {added:?}");
        ensure!(
            added
                .iter()
                .all(|it| it["mechanism"] == "pcp" && it["reach"] == "public"),
            "{name}: {added:?}"
        );
        let listener = listen(&device.host, at(device.ipv4, port))?;
        let mut conversation = converse(&internet, None, at(PUBLIC4, port), &listener)?;
        conversation.talk()?;
        ensure!(conversation.seen.ip() == IpAddr::V4(INTERNET4), "{name}");
        let listener = listen(&device.host, at(device.ipv6()?, port))?;
        let mut conversation = converse(&internet, None, at(device.ipv6()?, port), &listener)?;
        conversation.talk()?;

        ensure!(asker.portmap("list")?.len() == 2, "{name}");
        ensure!(world.list("lease")?.len() == 2, "{name}");
        asker.portmap("remove --all")?;
        let left = world.list("lease")?;
        ensure!(left.is_empty(), "{name}: {left:?}");
    }

    let asker = Asker::new(&world, &inbound)?;
    let range = asker.portmap("add 5000-5009/udp --ipv4")?;
    ensure!(range.len() == 1 && range[0]["ports"] == 10, "{range:?}");
    asker.portmap("remove 5000-5009")?;
    ensure!(world.list("lease")?.is_empty());
    Ok(())
}

#[test]
fn far_end_of_the_tunnel_is_asked_before_the_router_at_home() -> Result<()> {
    let world = World::with_subnet("routed", "portmap-both")?;
    let mut router = Router::prepare(&world.lab)?;
    router.start()?;
    let server = world.join("box", "--kind server")?;
    let asker = Asker::new(&world, &server)?;
    let added = asker.portmap("add 8080/tcp --ipv4")?;
    let external = at(PUBLIC4, 8080).to_string();
    ensure!(added[0]["external"] == external, "{added:?}");
    let added = asker.portmap("add 8080/tcp --gateway 192.168.1.1")?;
    let external = at(OUTSIDE, 8080).to_string();
    ensure!(added[0]["external"] == external, "{added:?}");
    // Each is given back where it was had.
    ensure!(asker.portmap("list")?.len() == 2);
    asker.portmap("remove 8080/tcp")?;
    ensure!(world.list("lease")?.is_empty());
    let left = router
        .host
        .exec(["nft", "list chain inet filter prerouting_miniupnpd"])?
        .stdout;
    ensure!(!left.contains("dnat"), "{left}");
    Ok(())
}

#[test]
fn device_that_may_not_is_told_why() -> Result<()> {
    let world = World::with_subnet("routed", "portmap-client")?;
    let laptop = world.join("laptop", "--routing full")?;
    let asker = Asker::new(&world, &laptop)?;
    let error = asker.refused("add 8080/tcp")?;
    ensure!(error["code"] == "not-mapped", "{error}");
    let message = error["message"].as_str().context("a message")?;
    ensure!(message.contains("NOT_AUTHORIZED"), "{error}");
    ensure!(world.list("lease")?.is_empty());
    Ok(())
}

#[test]
fn watched_port_stays_while_the_gateway_restarts() -> Result<()> {
    let mut world = World::with_subnet("routed", "portmap-restart")?;
    let internet = world.host("internet")?;
    let server = world.join("box", "--kind server")?;
    let asker = Asker::new(&world, &server)?;
    let mut watch = server.host.spawn(asker.words("watch 8080/tcp --ipv4")?)?;
    watch.wait_for_output("203.0.113.2:8080", SOON)?;
    let listener = listen(&server.host, at(server.ipv4, 8080))?;
    let mut conversation = converse(&internet, None, at(PUBLIC4, 8080), &listener)?;

    world.gateway.kill()?;
    world.gateway.start()?;
    conversation.talk()?;
    converse(&internet, None, at(PUBLIC4, 8080), &listener)?.talk()?;
    // The state was kept, and the clock says so: nothing is asked for again.
    let said = watch.stdout()?;
    ensure!(said.lines().count() == 1, "{said}");

    watch.stop()?;
    let left = world.list("lease")?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn dissectors_of_others_find_nothing_malformed() -> Result<()> {
    let world = World::with_subnet("routed", "portmap-dissect")?;
    let server = world.join("box", "--kind server")?;
    let asker = Asker::new(&world, &server)?;
    let file = path(&server.host.folder()?.join("portmap.pcap"))?;
    let mut capture = server.host.spawn([
        "tcpdump",
        "-U",
        "--immediate-mode",
        "-i",
        server.interface.as_str(),
        "-w",
        file.as_str(),
        "udp port 5351",
    ])?;
    capture.wait_for_output("listening on", SOON)?;
    asker.portmap("add 8080/tcp")?;
    asker.portmap("add 5000-5009/udp --from 198.51.100.0/24 --from 2001:db8:ffff::/64")?;
    asker.portmap("add 9000/tcp --external 9000 --exact --ipv4")?;
    asker.portmap("remove --all")?;
    server.host.exec([
        "natpmpc",
        "-g",
        "10.59.0.1",
        "-a",
        "6000",
        "6000",
        "udp",
        "60",
    ])?;
    capture.stop()?;

    let dissect = |filter: &str| -> Result<Vec<String>> {
        let shown = server
            .host
            .exec(["tshark", "-n", "-r", file.as_str(), "-Y", filter])?;
        Ok(shown.stdout.lines().map(str::to_owned).collect())
    };
    // Requests and answers of both protocols were seen, by the names that the dissectors have for them.
    for filter in [
        "portcontrol.r == 0",
        "portcontrol.r == 1",
        "nat-pmp.opcode < 128",
        "nat-pmp.opcode >= 128",
    ] {
        ensure!(!dissect(filter)?.is_empty(), "nothing is {filter}");
    }
    // Code 225 is one of those for private use (RFC 6887 section 19.4), so no dissector can know it.
    let known = "_ws.expert.message != \"Unknown option: 225\"";
    let malformed = dissect(&format!(
        "_ws.malformed || (_ws.expert.severity >= 0x00400000 && {known})"
    ))?;
    ensure!(malformed.is_empty(), "{malformed:#?}");
    Ok(())
}
