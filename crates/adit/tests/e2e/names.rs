//! Devices that share a port of the gateway by TLS names, seen with clients and servers that know nothing of it.

mod downloads;
mod obstacles;
mod restarts;
mod visitor;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use adit_lab::Process;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

pub(crate) use self::visitor::{Identity, ask, expect};
use self::visitor::{path, quic, who};
use crate::support::{
    Device, Findings, INTERNET4, INTERNET6, PUBLIC4, PUBLIC6, STRANGER4, World, at, udp,
};

const LIMIT: Duration = Duration::from_secs(10);

struct Town {
    world: World,
    server: Device,
    laptop: Device,
    identity: Identity,
    _servers: Vec<Process>,
}

/// A gateway with two devices, each with a web server.
fn town(purpose: &str) -> Result<Town> {
    let world = World::start("routed", purpose)?;
    // A private prefix: the gateway's IPv6 address is shared like its IPv4 address.
    world.adit("subnet add lan --ipv4 10.59.0.0/24")?;
    let server = world.join("box", "--kind server")?;
    let laptop = world.join("laptop", "")?;
    let identity = Identity::make(&world)?;
    let mut servers = Vec::new();
    for device in [&server, &laptop] {
        servers.push(identity.serve(&device.host, device.host.name(), 443, "tls")?);
        servers.push(identity.serve(&device.host, device.host.name(), 80, "http")?);
    }
    Ok(Town {
        world,
        server,
        laptop,
        identity,
        _servers: servers,
    })
}

#[test]
fn devices_share_a_port_by_names() -> Result<()> {
    let town = town("e2e-names")?;
    let mut findings = Findings::default();
    findings.check("by name", by_name(&town));
    findings.check("the rest", the_rest(&town));
    findings.check("their own names", own_names(&town));
    findings.check("PROXY protocol", proxy_protocol(&town));
    findings.check("HTTP", http(&town));
    findings.check("names that a device asks for", obtained(&town));
    findings.check("QUIC", over_quic(&town));
    findings.check("nothing is left", nothing_is_left(&town));
    findings.conclude()
}

fn by_name(town: &Town) -> Result<()> {
    let world = &town.world;
    let internet = world.host("internet")?;
    world.adit("forward add 443/tcp box --name blog.example.org")?;
    world.adit("forward add 443/tcp laptop --hostname *.example.org")?;
    for (address, seen) in [
        (IpAddr::V4(PUBLIC4), IpAddr::V4(INTERNET4)),
        (IpAddr::V6(PUBLIC6), IpAddr::V6(INTERNET6)),
    ] {
        expect(&internet, "https://blog.example.org/", address, "box", seen)?;
        expect(&internet, "https://BLOG.example.org/", address, "box", seen)?;
        expect(
            &internet,
            "https://wiki.example.org/",
            address,
            "laptop",
            seen,
        )?;
        let nobody = ask(&internet, "https://a.b.example.org/", address);
        let told = nobody.err().context("a name that nobody has is answered")?;
        ensure!(
            told.to_string().contains("unrecognized name"),
            "a name that nobody has: {told:#}"
        );
    }
    let status = world.adit("status")?;
    ensure!(status["applied"] == true, "{status}");
    ensure!(status["problems"] == json!([]), "{}", status["problems"]);
    let plan = world.adit("plan")?;
    ensure!(
        plan["steps"] == json!([]),
        "there is something to do: {plan}"
    );
    Ok(())
}

/// A forward without a name takes what no name takes; alone on its port it takes all.
fn the_rest(town: &Town) -> Result<()> {
    let world = &town.world;
    let stranger = world.host("stranger")?;
    let seen = IpAddr::V4(STRANGER4);
    let public = IpAddr::V4(PUBLIC4);
    world.adit("forward add 443/tcp laptop")?;
    expect(&stranger, "https://elsewhere.test/", public, "laptop", seen)?;
    expect(&stranger, "https://203.0.113.2/", public, "laptop", seen)?;
    expect(&stranger, "https://blog.example.org/", public, "box", seen)?;

    let plain = "forward add 8443/tcp laptop:443";
    world.adit(plain)?;
    expect(
        &stranger,
        "https://blog.example.org:8443/",
        public,
        "laptop",
        seen,
    )?;
    world.adit("forward add 8443/tcp box:443 --name blog.example.org")?;
    expect(
        &stranger,
        "https://blog.example.org:8443/",
        public,
        "box",
        seen,
    )?;
    expect(
        &stranger,
        "https://elsewhere.test:8443/",
        public,
        "laptop",
        seen,
    )?;
    let named = json!({"port": 8443, "hostname": "blog.example.org"});
    world.adit(&format!("forward remove {}", world.id("forward", &named)?))?;
    expect(
        &stranger,
        "https://blog.example.org:8443/",
        public,
        "laptop",
        seen,
    )?;
    let refused = world.refused("forward add 443/tcp box --name Blog.example.org")?;
    ensure!(refused.code == "hostname-taken", "{refused:?}");
    Ok(())
}

/// Devices reach names as everybody does, and each is seen as itself by all but itself.
fn own_names(town: &Town) -> Result<()> {
    let public = IpAddr::V4(PUBLIC4);
    let (server, laptop) = (&town.server, &town.laptop);
    let ours = IpAddr::V4(laptop.ipv4);
    expect(
        &laptop.host,
        "https://blog.example.org/",
        public,
        "box",
        ours,
    )?;
    let gateway = IpAddr::V4(Ipv4Addr::new(10, 59, 0, 1));
    expect(
        &laptop.host,
        "https://wiki.example.org/",
        public,
        "laptop",
        gateway,
    )?;
    let ours6 = IpAddr::V6(laptop.ipv6()?);
    let public6 = IpAddr::V6(PUBLIC6);
    expect(
        &laptop.host,
        "https://blog.example.org/",
        public6,
        "box",
        ours6,
    )?;
    // An inbound server comes from its home, by its own way.
    let (name, _) = who(&server.host, "https://blog.example.org/", public)?;
    ensure!(name == "box", "the server's own name leads to {name}");
    Ok(())
}

fn proxy_protocol(town: &Town) -> Result<()> {
    let world = &town.world;
    let internet = world.host("internet")?;
    let kind = "proxy";
    let _server = town.identity.serve(&town.server.host, "told", 8444, kind)?;
    world.adit("forward add 443/tcp box:8444 --name told.example.org --proxy-protocol")?;
    for (address, seen, gateway) in [
        (IpAddr::V4(PUBLIC4), IpAddr::V4(INTERNET4), "10.59.0.1"),
        (IpAddr::V6(PUBLIC6), IpAddr::V6(INTERNET6), "fd"),
    ] {
        let text = ask(&internet, "https://told.example.org/", address)?;
        let words: Vec<&str> = text.split_whitespace().collect();
        ensure!(
            words[0] == "told" && words[1] == seen.to_string() && words[4].starts_with(gateway),
            "{text}"
        );
    }
    Ok(())
}

/// Port 80 leads on to HTTPS while nobody has it; then its names are hosts, as certificate authorities ask for them.
fn http(town: &Town) -> Result<()> {
    let world = &town.world;
    let internet = world.host("internet")?;
    let public = IpAddr::V4(PUBLIC4);
    let challenge = "http://blog.example.org/.well-known/acme-challenge/token";
    let led = ask(&internet, challenge, public)?;
    ensure!(
        led.ends_with("https://blog.example.org/.well-known/acme-challenge/token"),
        "{led}"
    );
    world.adit("forward add 80/tcp box --name blog.example.org")?;
    expect(&internet, challenge, public, "box", IpAddr::V4(INTERNET4))?;
    let led = ask(&internet, "http://wiki.example.org/", public)?;
    ensure!(led.ends_with("https://wiki.example.org/"), "{led}");
    Ok(())
}

/// What a device is told that asks by PCP for its port 443 under a name: the result, and the public port.
fn ask_for_name(device: &Device, name: &str, lifetime: u32) -> Result<(u8, u16)> {
    // RFC 6887 sections 7.1 and 11.1, and the option 224 for a name.
    let mut request = vec![2, 1, 0, 0];
    request.extend(lifetime.to_be_bytes());
    request.extend(device.ipv4.to_ipv6_mapped().octets());
    request.extend([7; 12]);
    request.extend([6, 0, 0, 0]);
    request.extend(443_u16.to_be_bytes());
    request.extend(443_u16.to_be_bytes());
    request.extend(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets());
    let option = request.len();
    request.extend([224, 0]);
    request.extend(u16::try_from(name.len())?.to_be_bytes());
    request.extend(name.as_bytes());
    request.resize(request.len().next_multiple_of(4), 0);
    let socket = udp(&device.host, at(device.ipv4, 0))?;
    let gateway = at(Ipv4Addr::new(10, 59, 0, 1), 5351);
    socket.send_to(&request, gateway)?;
    let mut answer = [0; 1100];
    let (length, from) = socket.recv_from(&mut answer).context("an answer by PCP")?;
    let answer = &answer[..length];
    ensure!(from == gateway && answer[..2] == [2, 0x81], "{answer:?}");
    if answer[3] == 0 && lifetime > 0 {
        let echo = &request[option..];
        ensure!(answer.ends_with(echo), "the name is not echoed: {answer:?}");
    }
    Ok((answer[3], u16::from_be_bytes([answer[42], answer[43]])))
}

fn obtained(town: &Town) -> Result<()> {
    const TAKEN: u8 = 192;
    let (world, server) = (&town.world, &town.server);
    let internet = world.host("internet")?;
    let seen = IpAddr::V4(INTERNET4);
    let public = IpAddr::V4(PUBLIC4);
    let url = "https://start.box.test/";
    expect(&internet, url, public, "laptop", seen).context("before it is asked for")?;
    let told = ask_for_name(server, "start.box.test", 3600)?;
    ensure!(told == (0, 443), "{told:?}");
    expect(&internet, url, public, "box", seen)?;
    let lease = world.find("lease", &json!({"device": "box", "mechanism": "pcp"}))?;
    ensure!(lease["hostnames"] == json!(["start.box.test"]), "{lease}");
    let forward = world.find("forward", &json!({"hostname": "start.box.test"}))?;
    ensure!(forward["origin"] == "lease", "{forward}");
    // That of another device, which may ask, too.
    world.adit("device set laptop --auto-ports on")?;
    let taken = ask_for_name(&town.laptop, "start.box.test", 3600)?.0;
    ensure!(taken == TAKEN, "a name that another device has: {taken}");
    let refused = world.refused("forward add 443/tcp laptop --name start.box.test")?;
    ensure!(refused.code == "port-leased", "{refused:?}");
    let told = ask_for_name(server, "start.box.test", 0)?.0;
    ensure!(told == 0, "{told}");
    expect(&internet, url, public, "laptop", seen).context("after it was given back")?;
    Ok(())
}

fn over_quic(town: &Town) -> Result<()> {
    let world = &town.world;
    let internet = world.host("internet")?;
    let (certificate, key) = (
        town.identity.0.join("web.pem"),
        town.identity.0.join("web.key"),
    );
    let mut servers = Vec::new();
    for device in [&town.server, &town.laptop] {
        let name = device.host.name();
        let files = [path(&certificate)?, path(&key)?];
        // On the wildcard address it would answer from its home's.
        for address in [device.ipv4.to_string(), device.ipv6()?.to_string()] {
            let command = quic(&["serve", name, &address, "443", files[0], files[1]])?;
            let mut server = device.host.spawn(command)?;
            server.wait_for_output("listening", LIMIT)?;
            servers.push(server);
        }
    }
    world.adit("forward add 443/udp box --name quic.example.org")?;
    world.adit("forward add 443/udp laptop")?;
    for (address, seen) in [
        (PUBLIC4.to_string(), INTERNET4.to_string()),
        (PUBLIC6.to_string(), INTERNET6.to_string()),
    ] {
        for (name, server) in [("quic.example.org", "box"), ("elsewhere.test", "laptop")] {
            let command = quic(&["ask", &address, "443", name, path(&certificate)?])?;
            let told = internet.exec(command)?.stdout;
            ensure!(
                told.starts_with(&format!("{server} {seen} ")),
                "{name} at {address}: {told}; it should be {server}, which sees {seen}"
            );
        }
    }
    Ok(())
}

fn nothing_is_left(town: &Town) -> Result<()> {
    let world = &town.world;
    for forward in world.list("forward")? {
        world.adit(&format!("forward remove {}", forward["id"]))?;
    }
    let vps = world.host("vps")?;
    for family in ["-4", "-6"] {
        let rules = vps.exec(["ip", family, "rule", "show"])?.stdout;
        ensure!(!rules.contains("4293"), "{rules}");
        let routes = vps.exec(["ip", family, "route", "show", "table", "all"])?;
        ensure!(!routes.stdout.contains("4293"), "{}", routes.stdout);
    }
    let table = vps.exec(["nft", "list", "table", "inet", "adit"])?.stdout;
    ensure!(!table.contains("transparent"), "{table}");
    let sockets = vps.exec(["ss", "-Hltn", "sport", "=", ":443"])?.stdout;
    ensure!(sockets.is_empty(), "{sockets}");
    Ok(())
}

#[test]
fn names_behind_one_to_one_nat_lead_devices_by_the_advertised_address() -> Result<()> {
    let world = World::start("one-to-one-nat", "e2e-names-nat")?;
    world.adit(&format!("uplink set --advertised {PUBLIC4}"))?;
    world.adit("subnet add lan --ipv4 10.59.0.0/24 --ipv6 none")?;
    let server = world.join("box", "--kind server")?;
    let laptop = world.join("laptop", "")?;
    let identity = Identity::make(&world)?;
    let _web = identity.serve(&server.host, "box", 443, "tls")?;
    world.adit("forward add 443/tcp box --name blog.example.org")?;
    let public = IpAddr::V4(PUBLIC4);
    let url = "https://blog.example.org/";
    let internet = world.host("internet")?;
    expect(&internet, url, public, "box", IpAddr::V4(INTERNET4))?;
    expect(&laptop.host, url, public, "box", IpAddr::V4(laptop.ipv4)).context("from a device")?;
    let led = ask(&laptop.host, "http://blog.example.org/", public)?;
    ensure!(led.ends_with("https://blog.example.org/"), "{led}");
    Ok(())
}

#[test]
fn names_on_both_of_two_uplinks() -> Result<()> {
    let world = World::start("two-uplinks", "e2e-names-uplinks")?;
    world.adit("subnet add lan --ipv4 10.59.0.0/24")?;
    let server = world.join("box", "--kind server")?;
    let identity = Identity::make(&world)?;
    let _web = identity.serve(&server.host, "box", 443, "tls")?;
    let second = Ipv4Addr::new(198, 18, 2, 2);
    world.adit("forward add 443/tcp box --name blog.example.org")?;
    world.adit(&format!(
        "forward add {second}:443/tcp box --name blog.example.org"
    ))?;
    let internet = world.host("internet")?;
    for public in [IpAddr::V4(PUBLIC4), IpAddr::V4(second), IpAddr::V6(PUBLIC6)] {
        let seen = match public {
            IpAddr::V4(_) => IpAddr::V4(INTERNET4),
            IpAddr::V6(_) => IpAddr::V6(INTERNET6),
        };
        expect(&internet, "https://blog.example.org/", public, "box", seen)?;
    }
    Ok(())
}
