//! UPnP IGD through the tunnel: real clients open and close ports, and nobody else hears anything.

mod dissection;
mod hostile;
mod programs;

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use adit_lab::wait_until;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::{
    Device, Findings, INTERNET4, INTERNET6, PUBLIC4, World, at, connect, converse, listen,
};

const SHORT: Duration = Duration::from_millis(700);

/// The gateway inside the tunnel.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 59, 0, 1);

/// Where the documents and services are.
const PORT: u16 = 5351;

/// What devices are told: to miniupnpc a gateway with an address of documentation, as in the lab, is not connected.
const TOLD: Ipv4Addr = Ipv4Addr::new(11, 22, 33, 44);

#[test]
fn async_upnp_client_reads_every_document() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-igd-async")?;
    let server = world.join("box", "--kind server")?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = folder.join("../../target/tools/clients/python/bin/python");
    ensure!(
        python.exists(),
        "{} is not there: run scripts/install-clients",
        python.display()
    );
    let script = folder.join("tests/e2e/igd/async_upnp.py");
    let output = server.host.exec([
        python.as_os_str(),
        script.as_os_str(),
        server.ipv4.to_string().as_ref(),
        server.ipv6()?.to_string().as_ref(),
        PUBLIC4.to_string().as_ref(),
    ])?;
    says(&output.stdout, "both versions")?;
    ensure!(
        leases(&world, "box")?.is_empty(),
        "{:?}",
        leases(&world, "box")?
    );
    Ok(())
}

#[test]
fn upnpc_opens_lists_and_closes_ports() -> Result<()> {
    let mut world = World::with_subnet("routed", "e2e-igd")?;
    world.adit(&format!(
        "uplink set --advertised {TOLD} --endpoint {PUBLIC4}"
    ))?;
    let server = world.join("box", "--kind server")?;
    let other = world.join("laptop", "--kind server")?;
    let mut findings = Findings::default();
    findings.check("status", status(&server));
    findings.check("a mapping", mapping(&world, &server));
    findings.check("one remote host", remote_host(&world, &server));
    findings.check("of one's own only", own_only(&world, &server, &other));
    findings.check("another port", another_port(&world, &server, &other));
    findings.check("a range", range(&world, &other));
    findings.check("beside others", beside_others(&world, &server, &other));
    findings.check("pinholes", pinholes(&world, &server, &other));
    findings.check("after a crash", after_a_crash(&mut world, &server));
    findings.check(
        "after its interface was lost",
        after_its_interface_was_lost(&world, &server),
    );
    findings.check("withdrawn", withdrawn(&world, &server));
    findings.conclude()
}

/// What `upnpc` prints, whether it succeeds or not. It is told where the gateway is: searching takes two seconds each time.
fn upnpc(device: &Device, arguments: &str) -> Result<String> {
    let command = format!("upnpc -u http://{GATEWAY}:5351/igd2/description.xml {arguments}");
    run(device, &command)
}

fn run(device: &Device, command: &str) -> Result<String> {
    let output = device.host.try_exec(command.split_whitespace())?;
    Ok(format!("{}{}", output.stdout, output.stderr))
}

/// What it finds by the tunnel.
fn search(device: &Device) -> Result<String> {
    run(device, &format!("upnpc -m {} -s", device.interface))
}

fn says(text: &str, expected: &str) -> Result<()> {
    ensure!(text.contains(expected), "no {expected:?} in:\n{text}");
    Ok(())
}

fn leases(world: &World, device: &str) -> Result<Vec<Value>> {
    let mut leases = world.list("lease")?;
    leases.retain(|lease| lease["device"] == device);
    Ok(leases)
}

fn status(server: &Device) -> Result<()> {
    let said = search(server)?;
    says(&said, &format!("http://{GATEWAY}:5351/igd"))?;
    says(&said, "Found valid IGD")?;
    says(&said, "Status : Connected")?;
    says(&said, "Connection Type : IP_Routed")?;
    says(&said, &format!("ExternalIPAddress = {TOLD}"))?;
    says(&said, &format!("Local LAN ip address : {}", server.ipv4))
}

fn mapping(world: &World, server: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let web = listen(&server.host, at(server.ipv4, 8080))?;
    let said = upnpc(server, "-e web-server -a @ 8080 9080 tcp 600")?;
    says(
        &said,
        &format!(
            "external {TOLD}:9080 TCP is redirected to internal {}:8080",
            server.ipv4
        ),
    )?;
    let conversation = converse(&internet, None, at(PUBLIC4, 9080), &web)?;
    ensure!(
        conversation.seen.ip() == INTERNET4,
        "the server sees {}",
        conversation.seen
    );
    let lease = world.find(
        "lease",
        &json!({"device": "box", "mechanism": "upnp", "protocol": "tcp"}),
    )?;
    let left = lease["expires_in"].as_u64().context("expires_in")?;
    ensure!((500..=600).contains(&left), "{lease}");
    let said = upnpc(server, "-l")?;
    says(&said, &format!("TCP  9080->{}:8080", server.ipv4))?;
    says(&said, "'web-server'")?;

    // The same port of the same device leads elsewhere now.
    let second = listen(&server.host, at(server.ipv4, 8081))?;
    upnpc(server, "-a @ 8081 9080 tcp 600")?;
    converse(&internet, None, at(PUBLIC4, 9080), &second)?;
    ensure!(
        leases(world, "box")?.len() == 1,
        "{:?}",
        leases(world, "box")?
    );
    Ok(())
}

/// A mapping for one remote host lets that one in.
fn remote_host(world: &World, server: &Device) -> Result<()> {
    let web = listen(&server.host, at(server.ipv4, 8085))?;
    upnpc(server, &format!("-a @ 8085 9085 tcp 600 {INTERNET4}"))?;
    converse(&world.host("internet")?, None, at(PUBLIC4, 9085), &web)?;
    let stranger = connect(&world.host("stranger")?, None, at(PUBLIC4, 9085), SHORT);
    ensure!(stranger.is_err(), "a stranger comes in");
    says(&upnpc(server, "-l")?, &format!("'{INTERNET4}'"))?;
    says(&upnpc(server, "-d 9085 tcp 198.51.100.99")?, "714")?;
    says(
        &upnpc(server, &format!("-d 9085 tcp {INTERNET4}"))?,
        "returned : 0",
    )?;
    let refused = connect(&world.host("internet")?, None, at(PUBLIC4, 9085), SHORT);
    ensure!(refused.is_err(), "a mapping that is gone still leads there");
    Ok(())
}

fn own_only(world: &World, server: &Device, other: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let said = upnpc(other, "-a @ 8080 9080 tcp 600")?;
    says(&said, "failed with code 718")?;
    let said = upnpc(other, &format!("-a {} 8080 9090 tcp 600", server.ipv4))?;
    says(&said, "failed with code 606")?;
    let said = upnpc(other, "-d 9080 tcp")?;
    says(&said, "714")?;
    let said = upnpc(other, "-N 1 65535 tcp")?;
    says(&said, "730")?;
    let said = upnpc(other, "-l")?;
    ensure!(
        !said.contains("9080"),
        "another's mapping is listed:\n{said}"
    );
    says(&said, "713")?;
    ensure!(
        leases(world, "laptop")?.is_empty(),
        "{:?}",
        leases(world, "laptop")?
    );
    let web = listen(&server.host, at(server.ipv4, 8081))?;
    converse(&internet, None, at(PUBLIC4, 9080), &web)?;
    Ok(())
}

fn another_port(world: &World, server: &Device, other: &Device) -> Result<()> {
    let said = upnpc(other, "-n @ 7000 9080 tcp 600")?;
    says(&said, "is redirected to internal")?;
    let given = leases(world, "laptop")?;
    let [lease] = given.as_slice() else {
        anyhow::bail!("{given:?}");
    };
    let external = port_of(lease, "external")?;
    ensure!(external != 9080, "{lease}");
    let web = listen(&other.host, at(other.ipv4, 7000))?;
    converse(&world.host("internet")?, None, at(PUBLIC4, external), &web)?;
    // Not from the range that a device may have: refused where nothing but the wish would do, and else another is given.
    let said = upnpc(server, "-a @ 80 80 tcp 600")?;
    says(&said, "failed with code 718")?;
    let said = upnpc(server, "-n @ 80 80 tcp 600")?;
    says(&said, "is redirected to internal")?;
    let given = leases(world, "box")?;
    ensure!(
        given
            .iter()
            .all(|lease| port_of(lease, "external").is_ok_and(|port| port >= 1024)),
        "{given:?}"
    );
    Ok(())
}

/// `ADDRESS:PORT`, or what a lease says in place of it.
fn port_of(lease: &Value, side: &str) -> Result<u16> {
    let text = lease[side]
        .as_str()
        .with_context(|| format!("{side} in {lease}"))?;
    let (_, port) = text
        .rsplit_once(':')
        .with_context(|| format!("a port in {text}"))?;
    Ok(port.parse()?)
}

fn range(world: &World, other: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    for port in [20001, 20002, 20003, 20010] {
        upnpc(other, &format!("-a @ {port} {port} tcp 600"))?;
    }
    let said = upnpc(other, "-L")?;
    for port in [20001, 20002, 20003, 20010] {
        says(&said, &format!("TCP {port:5}->{}:{port}", other.ipv4))?;
    }
    let web = listen(&other.host, at(other.ipv4, 20002))?;
    let mut conversation = converse(&internet, None, at(PUBLIC4, 20002), &web)?;
    upnpc(other, "-N 20001 20003 tcp")?;
    let left = leases(world, "laptop")?;
    let external: Vec<u16> = left
        .iter()
        .filter_map(|lease| port_of(lease, "external").ok())
        .collect();
    ensure!(
        external.contains(&20010) && !external.iter().any(|port| (20001..=20003).contains(port)),
        "{left:?}"
    );
    ensure!(conversation.is_cut()?, "a connection survives its mapping");
    let refused = connect(&internet, None, at(PUBLIC4, 20002), SHORT);
    ensure!(refused.is_err(), "a mapping that is gone still leads there");
    Ok(())
}

/// One table for all: what an administrator, the gateway itself or another protocol has is taken.
fn beside_others(world: &World, server: &Device, other: &Device) -> Result<()> {
    let natpmpc = format!("natpmpc -g {GATEWAY} -a 9500 9500 tcp 600");
    says(&run(other, &natpmpc)?, "Mapped public port 9500")?;
    world.adit("forward add 9600/tcp laptop")?;
    let before = leases(world, "box")?.len();
    for (port, protocol) in [(9500, "tcp"), (9600, "tcp"), (51820, "udp"), (5351, "udp")] {
        let said = upnpc(server, &format!("-a @ 8080 {port} {protocol} 600"))?;
        says(&said, "failed with code 718").with_context(|| format!("{port}/{protocol}"))?;
    }
    ensure!(
        leases(world, "box")?.len() == before,
        "{:?}",
        leases(world, "box")?
    );
    // What leads there already is as good; what leads elsewhere is not.
    let said = upnpc(other, "-a @ 9500 9500 tcp 600")?;
    says(
        &said,
        &format!(":9500 TCP is redirected to internal {}:9500", other.ipv4),
    )?;
    says(
        &upnpc(other, "-a @ 9501 9500 tcp 600")?,
        "failed with code 718",
    )?;
    // What the device itself obtained otherwise is not listed or ended in this way.
    says(&upnpc(other, "-d 9500 tcp")?, "714")?;
    let said = upnpc(other, "-l")?;
    ensure!(!said.contains("9500"), "{said}");
    let web = listen(&other.host, at(other.ipv4, 9500))?;
    converse(&world.host("internet")?, None, at(PUBLIC4, 9500), &web)?;
    Ok(())
}

fn pinholes(world: &World, server: &Device, other: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let own = server.ipv6()?;
    let said = upnpc(server, "-S")?;
    says(&said, "Firewall Enabled: Yes")?;
    says(&said, "Inbound Pinhole Allowed: Yes")?;
    let web = listen(&server.host, at(own, 8443))?;
    let early = connect(&internet, None, at(own, 8443), SHORT);
    ensure!(early.is_err(), "open before it was asked for");
    let said = upnpc(server, &format!("-A {INTERNET6} 0 {own} 8443 tcp 600"))?;
    says(&said, "Pinhole ID = ")?;
    let (_, id) = said.split_once("Pinhole ID = ").context("the id")?;
    let id: u16 = id.split_whitespace().next().context("the id")?.parse()?;
    converse(&internet, None, at(own, 8443), &web)?;
    // It is open to that one peer.
    let stranger = connect(&world.host("stranger")?, None, at(own, 8443), SHORT);
    ensure!(stranger.is_err(), "a stranger comes in");
    says(&upnpc(server, &format!("-C {id}"))?, "IsWorking = Yes")?;
    says(
        &upnpc(server, &format!("-U {id} 900"))?,
        "with Lease Time: 900",
    )?;
    says(
        &upnpc(
            server,
            &format!("-A {INTERNET6} 0 {} 8443 tcp 600", other.ipv6()?),
        )?,
        "606",
    )?;
    says(&upnpc(other, &format!("-D {id}"))?, "704")?;
    let said = upnpc(server, &format!("-A {INTERNET4} 0 {own} 8444 tcp 600"))?;
    says(&said, "402").context("an IPv4 peer of an IPv6 pinhole")?;
    let said = upnpc(server, &format!("-a @ 8080 9081 tcp 600 {INTERNET6}"))?;
    says(&said, "failed with code 402").context("an IPv6 peer of an IPv4 mapping")?;
    converse(&internet, None, at(own, 8443), &web)?;
    says(
        &upnpc(server, &format!("-D {id}"))?,
        "UPNP_DeletePinhole() returned : 0",
    )?;
    let late = connect(&internet, None, at(own, 8443), SHORT);
    ensure!(late.is_err(), "open after it was deleted");
    Ok(())
}

fn after_a_crash(world: &mut World, server: &Device) -> Result<()> {
    world.gateway.kill()?;
    world.gateway.start()?;
    let said = upnpc(server, "-l")?;
    says(&said, &format!("TCP  9080->{}:8081", server.ipv4))?;
    let web = listen(&server.host, at(server.ipv4, 8081))?;
    converse(&world.host("internet")?, None, at(PUBLIC4, 9080), &web)?;
    Ok(())
}

/// Sockets are those of an interface; when it is another one of the same name, they are others, too.
fn after_its_interface_was_lost(world: &World, server: &Device) -> Result<()> {
    let interface = world.gateway.interface();
    world.host("vps")?.exec(["ip", "link", "del", interface])?;
    wait_until("UPnP on the new interface", Duration::from_secs(60), || {
        says(&search(server)?, "Found valid IGD")?;
        Ok(true)
    })?;
    says(
        &upnpc(server, "-l")?,
        &format!("TCP  9080->{}:8081", server.ipv4),
    )
}

/// What an administrator takes away is gone for the device, too; who may not ask hears nothing.
fn withdrawn(world: &World, server: &Device) -> Result<()> {
    for lease in leases(world, "box")? {
        let id = lease["id"].as_u64().context("id")?;
        world.adit(&format!("lease remove {id}"))?;
    }
    let said = upnpc(server, "-l")?;
    ensure!(
        !said.contains("9080"),
        "a removed mapping is listed:\n{said}"
    );
    let refused = connect(&world.host("internet")?, None, at(PUBLIC4, 9080), SHORT);
    ensure!(refused.is_err(), "a removed mapping still leads there");
    world.adit("device set box --kind client")?;
    let said = search(server)?;
    says(&said, "No IGD UPnP Device found")
}
