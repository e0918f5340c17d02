//! What becomes of addresses, prefixes, keys and flows when subnets and devices come, change and go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adit_lab::wait_until;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::support::{
    Capture, Conversation, Device, Findings, INTERNET4, INTERNET6, PUBLIC4, PUBLIC6, World, at,
    connect, converse, exchange, listen, send, udp,
};

const SHORT: Duration = Duration::from_millis(700);

#[test]
fn a_private_prefix_is_translated_both_ways() -> Result<()> {
    let world = World::start("routed", "e2e-private")?;
    world.adit("subnet add lan --ipv4 10.59.0.0/24")?;
    let laptop = world.join("laptop", "")?;
    let server = world.join("box", "--kind server")?;
    let internet = world.host("internet")?;
    let subnet = world.find("subnet", &json!({"name": "lan"}))?;
    let prefix = subnet["ipv6"].as_str().unwrap_or_default();
    ensure!(
        prefix.starts_with("fd") && prefix.ends_with("/64"),
        "the prefix is {prefix}"
    );
    let inside = laptop.ipv6()?;
    ensure!(
        inside.octets()[0] == 0xfd && inside.octets()[12..] == laptop.ipv4.octets(),
        "{inside} does not embed {}",
        laptop.ipv4
    );
    ensure!(
        inside.octets()[..8] == server.ipv6()?.octets()[..8],
        "two devices have two prefixes"
    );

    let listener = listen(&internet, at(INTERNET6, 7000))?;
    let conversation = converse(&laptop.host, None, at(INTERNET6, 7000), &listener)?;
    ensure!(
        conversation.seen.ip() == IpAddr::V6(PUBLIC6) && conversation.seen.port() >= 32768,
        "the Internet sees {}",
        conversation.seen
    );
    laptop
        .host
        .exec(["ping", "-c1", "-W3", &INTERNET6.to_string()])?;

    world.adit("forward add 8080 laptop")?;
    world.adit("forward add 80/tcp box:8081")?;
    for (device, public, port) in [(&laptop, 8080, 8080), (&server, 80, 8081)] {
        let v4 = listen(&device.host, at(device.ipv4, port))?;
        let v6 = listen(&device.host, at(device.ipv6()?, port))?;
        let mut over4 = converse(&internet, None, at(PUBLIC4, public), &v4)?;
        let mut over6 = converse(&internet, None, at(PUBLIC6, public), &v6)
            .context("a forward of the gateway's IPv6 address")?;
        let (seen4, seen6) = (over4.seen, over6.seen);
        ensure!(
            seen4.ip() == IpAddr::V4(INTERNET4) && seen6.ip() == IpAddr::V6(INTERNET6),
            "the device sees {seen4} and {seen6}"
        );
        // The device speaks first after its connection was forgotten: the port that is forwarded to it stays its own.
        world.host("vps")?.exec(["conntrack", "-F"])?;
        over4.talk_backwards().context("IPv4, forgotten")?;
        over6.talk_backwards().context("IPv6, forgotten")?;
    }
    let own = listen(&laptop.host, at(laptop.ipv6()?, 8080))?;
    converse(
        &server.host,
        Some(at(server.ipv6()?, 0)),
        at(PUBLIC6, 8080),
        &own,
    )
    .context("a device to another's forward over IPv6")?;
    converse(&laptop.host, None, at(PUBLIC6, 8080), &own)
        .context("a device to its own forward over IPv6")?;

    let none = world.adit("subnet add plain --ipv4 10.61.0.0/24 --ipv6 none")?;
    world.adit("device add plain --subnet plain")?;
    let plain = world.find("device", &json!({"name": "plain"}))?;
    ensure!(plain["ipv6"].is_null(), "{plain} of {none}");
    let refused = world.refused("pinhole add plain 80")?;
    ensure!(refused.code == "pinhole-without-ipv6", "{refused:?}");
    Ok(())
}

#[test]
fn a_narrow_prefix_gives_nobody_the_address_of_another() -> Result<()> {
    let world = World::start("routed", "e2e-narrow")?;
    world.adit("subnet add narrow --ipv4 10.59.0.0/24 --ipv6 2001:db8:100:2::70/124")?;
    let subnet = world.find("subnet", &json!({"name": "narrow"}))?;
    ensure!(subnet["gateway_ipv6"] == "2001:db8:100:2::71", "{subnet}");
    for (address, code) in [
        ("10.59.0.17", "address-collision"),
        ("10.59.0.1", "address-taken"),
        ("10.59.0.255", "address-outside"),
        ("10.60.0.5", "address-outside"),
    ] {
        let refused = world.refused(&format!("device add nobody --ipv4 {address}"))?;
        ensure!(refused.code == code, "{address}: {refused:?}");
    }
    world.adit("device add first --ipv4 10.59.0.18")?;
    let first = world.find("device", &json!({"name": "first"}))?;
    ensure!(first["ipv6"] == "2001:db8:100:2::72", "{first}");
    let refused = world.refused("device add second --ipv4 10.59.0.2")?;
    ensure!(
        refused.code == "address-collision" && refused.message.contains("first"),
        "{refused:?}"
    );

    let mut addresses = vec![first["ipv6"].to_string()];
    loop {
        let name = format!("device{}", addresses.len());
        let output = world.gateway.try_adit(["device", "add", &name, "--json"])?;
        if !output.status.success() {
            ensure!(output.stderr.contains("addresses-exhausted"), "{output}");
            break;
        }
        let device = world.find("device", &json!({ "name": name }))?;
        addresses.push(device["ipv6"].to_string());
        ensure!(addresses.len() <= 16, "more devices than addresses");
    }
    let count = addresses.len();
    addresses.sort();
    addresses.dedup();
    ensure!(addresses.len() == count, "an address was given twice");
    ensure!(count == 15, "{count} devices: {addresses:?}");

    let laptop = world.join("laptop", "--subnet narrow").err();
    ensure!(laptop.is_some(), "there was room for one more");
    // The first address of a prefix is the routers' anycast address on a link (RFC 4291, 2.6.1), and a tunnel is none.
    let lowest = world.id("device", &json!({"ipv6": "2001:db8:100:2::70"}))?;
    world.adit(&format!("device remove {lowest}"))?;
    let laptop = world.join("laptop", "")?;
    ensure!(laptop.ipv6()?.to_string() == "2001:db8:100:2::70");
    world.adit("pinhole add laptop 80/tcp")?;
    let web = listen(&laptop.host, at(laptop.ipv6()?, 80))?;
    converse(&world.host("internet")?, None, at(laptop.ipv6()?, 80), &web)?;
    for (network, code) in [
        ("10.59.0.0/25 --ipv6 none", "overlap"),
        ("10.60.0.0/24 --ipv6 2001:db8:100:2::/64", "overlap"),
        ("203.0.113.0/25 --ipv6 none", "overlap"),
        ("127.0.0.0/24", "ipv4-subnet-invalid"),
        ("10.60.0.0/24 --ipv6 ff00::/64", "ipv6-prefix-invalid"),
    ] {
        let refused = world.refused(&format!("subnet add other --ipv4 {network}"))?;
        ensure!(refused.code == code, "{network}: {refused:?}");
    }
    Ok(())
}

#[test]
fn delegated_prefixes_lead_to_their_device() -> Result<()> {
    delegations("routed")
}

#[test]
fn delegated_prefixes_of_the_uplinks_own_link_lead_to_their_device() -> Result<()> {
    delegations("on-link")
}

fn delegations(topology: &str) -> Result<()> {
    let world = World::with_subnet(topology, "e2e-delegation")?;
    world.adit("subnet add other --ipv4 10.60.0.0/24")?;
    // The neighbours of a link are answered for one by one, so only a short prefix can be.
    let length = if topology == "routed" { 80 } else { 124 };
    let server = world.join(
        "box",
        &format!("--subnet lan --kind server --delegate {length} --delegate 192.168.77.0/24"),
    )?;
    let laptop = world.join("laptop", "--subnet lan")?;
    let nas = world.join("nas", "--subnet other")?;
    let internet = world.host("internet")?;
    let delegations = server.answer["device"]["delegations"]
        .as_array()
        .context("delegations")?;
    let delegations: Vec<&str> = delegations
        .iter()
        .filter_map(serde_json::Value::as_str)
        .collect();
    let six = delegations
        .iter()
        .find(|prefix| prefix.contains(':'))
        .with_context(|| format!("{delegations:?}"))?;
    ensure!(
        delegations.contains(&"192.168.77.0/24") && six.ends_with(&format!("/{length}")),
        "{delegations:?}"
    );
    let base: Ipv6Addr = six
        .split('/')
        .next()
        .unwrap_or_default()
        .parse()
        .context("a prefix")?;
    let behind6 = Ipv6Addr::from(u128::from(base) + 5);
    let behind4 = Ipv4Addr::new(192, 168, 77, 5);
    for address in [format!("{behind4}/32"), format!("{behind6}/128")] {
        server
            .host
            .exec(["ip", "address", "add", &address, "dev", "br0"])?;
    }

    for address in [IpAddr::V4(behind4), IpAddr::V6(behind6)] {
        let listener = listen(&server.host, at(address, 8080))?;
        let seen = converse(&laptop.host, None, at(address, 8080), &listener)
            .with_context(|| format!("{address} from a device of the subnet"))?
            .seen;
        ensure!(
            [IpAddr::V4(laptop.ipv4), IpAddr::V6(laptop.ipv6()?)].contains(&seen.ip()),
            "{address} sees {seen}"
        );
        let refused = connect(&nas.host, None, at(address, 8080), SHORT);
        ensure!(refused.is_err(), "{address} is reached from another subnet");
    }
    let far = udp(&internet, at(INTERNET4, 7000))?;
    let near = udp(&server.host, at(behind4, 6000))?;
    let seen = exchange(&near, at(INTERNET4, 7000), &far, "from behind")?;
    ensure!(
        seen.ip() == IpAddr::V4(PUBLIC4) && seen.port() >= 32768,
        "the Internet sees {seen}"
    );
    let far = udp(&internet, at(INTERNET6, 7000))?;
    let near = udp(&server.host, at(behind6, 6000))?;
    let seen = exchange(&near, at(INTERNET6, 7000), &far, "from behind")?;
    ensure!(seen == at(behind6, 6000), "the Internet sees {seen}");
    let watch = Capture::start(
        &server.host,
        &server.interface,
        "ip6 and udp and dst port 6001",
    )?;
    let closed = udp(&server.host, at(behind6, 6001))?;
    send(&far, at(behind6, 6001), "unasked")?;
    send(&far, at(behind6, 6000), "asked")?;
    crate::support::receive(&near, "asked")?;
    ensure!(watch.text()?.is_empty(), "unasked: {}", watch.text()?);
    drop(closed);

    let refused = world.refused("device add thief --subnet other --delegate 192.168.77.0/25")?;
    ensure!(refused.code == "overlap", "{refused:?}");
    world.adit("device set box --revoke 192.168.77.0/24")?;
    let listener = listen(&server.host, at(behind4, 8081))?;
    let refused = connect(&laptop.host, None, at(behind4, 8081), SHORT);
    ensure!(refused.is_err(), "a revoked prefix still leads to the box");
    drop(listener);
    Ok(())
}

#[test]
fn devices_end() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-end")?;
    let mut findings = Findings::default();
    let server = world.join("box", "--kind server")?;
    let laptop = world.join("laptop", "")?;
    world.adit("forward add 80 box")?;
    world.adit("pinhole add box 80")?;
    findings.check("disabled", disabled(&world, &server));
    findings.check("renamed", renamed(&world, &server));
    findings.check("expired", expired(&world, &laptop));
    findings.check("another key", rekeyed(&world));
    findings.check("removed", removed(&world));
    findings.conclude()
}

/// Everything that a server can be in the middle of.
fn flows(world: &World, server: &Device) -> Result<Vec<(&'static str, Conversation)>> {
    let internet = world.host("internet")?;
    let web4 = listen(&server.host, at(server.ipv4, 80))?;
    let web6 = listen(&server.host, at(server.ipv6()?, 80))?;
    let far = listen(&internet, at(INTERNET4, 7000))?;
    let own = Some(at(server.ipv4, 0));
    Ok(vec![
        (
            "forward",
            converse(&internet, None, at(PUBLIC4, 80), &web4)?,
        ),
        (
            "pinhole",
            converse(&internet, None, at(server.ipv6()?, 80), &web6)?,
        ),
        (
            "outwards",
            converse(&server.host, own, at(INTERNET4, 7000), &far)?,
        ),
    ])
}

fn disabled(world: &World, server: &Device) -> Result<()> {
    let flows = flows(world, server)?;
    let began = Instant::now();
    world.adit("device set box --disable")?;
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(1), "--disable took {took:?}");
    for (name, mut conversation) in flows {
        ensure!(conversation.is_cut()?, "{name} goes on after --disable");
    }
    let device = world.find("device", &json!({"name": "box"}))?;
    ensure!(device["enabled"] == false, "{device}");
    world.adit("device set box --enable")?;
    Ok(())
}

fn renamed(world: &World, server: &Device) -> Result<()> {
    world.adit("device set box --name renamed")?;
    let forward = world.find("forward", &json!({"port": 80}))?;
    ensure!(forward["device"] == "renamed", "{forward}");
    let refused = world.refused("device show box")?;
    ensure!(refused.code == "not-found", "{refused:?}");
    // The tunnel was disabled before, and its device does not know: it shakes hands again by itself, in time.
    restart(server)?;
    let web = listen(&server.host, at(server.ipv4, 80))?;
    converse(&world.host("internet")?, None, at(PUBLIC4, 80), &web).context("after a rename")?;
    world.adit("device set renamed --name box")?;
    Ok(())
}

/// A new handshake, now: an interface that goes down forgets its session.
fn restart(device: &Device) -> Result<()> {
    for state in ["down", "up"] {
        let configuration = device.tunnel.configuration().display().to_string();
        device.host.exec(["wg-quick", state, &configuration])?;
    }
    device.await_tunnel()
}

fn expired(world: &World, laptop: &Device) -> Result<()> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let internet = world.host("internet")?;
    let refused = world.refused(&format!(
        "device set laptop --expires {}",
        rfc3339(seconds - 60)?
    ))?;
    ensure!(refused.code == "expiry-passed", "{refused:?}");
    let far = listen(&internet, at(INTERNET4, 7001))?;
    let mut conversation = converse(&laptop.host, None, at(INTERNET4, 7001), &far)?;
    world.adit(&format!(
        "device set laptop --expires {}",
        rfc3339(seconds + 4)?
    ))?;
    conversation.talk().context("before it expires")?;
    let left = (UNIX_EPOCH + Duration::from_secs(seconds + 5)).duration_since(SystemTime::now());
    thread::sleep(left.unwrap_or_default());
    ensure!(conversation.is_cut()?, "a device that has expired goes on");
    let vps = world.host("vps")?;
    let key = laptop.answer["device"]["public_key"]
        .as_str()
        .context("public_key")?;
    let peers = vps.exec(["wg", "show", world.gateway.interface(), "peers"])?;
    ensure!(
        !peers.stdout.contains(key),
        "the expired device is still a peer"
    );
    world.adit("device set laptop --expires none")?;
    restart(laptop)?;
    converse(&laptop.host, None, at(INTERNET4, 7001), &far).context("after --expires none")?;
    Ok(())
}

fn rfc3339(seconds: u64) -> Result<String> {
    let output = Command::new("date")
        .args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%SZ"])
        .output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn rekeyed(world: &World) -> Result<()> {
    let nas = world.join("nas", "")?;
    let old = nas.answer["config"].as_str().context("config")?.to_owned();
    let answer = world.adit("device rekey nas")?;
    let new = answer["config"].as_str().context("config")?.to_owned();
    ensure!(
        answer["device"]["public_key"] != nas.answer["device"]["public_key"],
        "the same key again"
    );
    nas.tunnel.down()?;
    let nas = world.connect("nas", &old, answer.clone())?;
    thread::sleep(Duration::from_secs(3));
    ensure!(!nas.has_handshake()?, "the old key is still good");
    nas.tunnel.down()?;
    let nas = world.connect("nas", &new, answer)?;
    nas.await_handshake().context("with the new key")
}

fn removed(world: &World) -> Result<()> {
    let internet = world.host("internet")?;
    let count = |kind: &str| -> Result<usize> {
        let of_box = |item: &&serde_json::Value| item["device"] == "box";
        Ok(world.list(kind)?.iter().filter(of_box).count())
    };
    ensure!(count("forward")? == 1 && count("pinhole")? == 1);
    let refused = world.refused("subnet remove lan")?;
    ensure!(refused.code == "subnet-in-use", "{refused:?}");
    world.adit("device remove box")?;
    ensure!(count("forward")? == 0 && count("pinhole")? == 0);
    let refused = connect(&internet, None, at(PUBLIC4, 80), SHORT);
    ensure!(refused.is_err(), "port 80 still leads somewhere");
    world.adit("subnet remove lan --force")?;
    ensure!(world.list("device")?.is_empty());
    wait_until("routes of the devices go", Duration::from_secs(1), || {
        let routes = world
            .host("vps")?
            .exec(["ip", "route", "show", "proto", "173"])?;
        Ok(routes.stdout.is_empty())
    })
}
