//! Ports that devices open by themselves, with clients of others: who gets which, what the Internet then reaches, and who is
//! not heard.

mod crash;
mod flood;
mod outsiders;
mod reserved;
mod rights;
mod services;
mod told;
mod whole;

use std::net::IpAddr;
use std::time::Duration;

use adit_lab::wait_until;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::{
    Capture, Device, Findings, INTERNET4, INTERNET6, PUBLIC4, STRANGER4, World, at, connect,
    converse, exchange, listen, receive, send, udp,
};

const CLIENT: &str = include_str!("support/pcp.py");
const GATEWAY4: &str = "10.59.0.1";
const SHORT: Duration = Duration::from_millis(700);
const SOON: Duration = Duration::from_secs(20);

/// What the gateway tells a device that asks by PCP; the fields are those of the request.
fn pcp(device: &Device, wish: Value) -> Result<Value> {
    let mut request = json!({"server": GATEWAY4, "source": device.ipv4, "protocol": 6});
    let fields = request.as_object_mut().context("an object")?;
    fields.extend(wish.as_object().context("an object")?.clone());
    let answer = device
        .host
        .exec(["python3", "-c", CLIENT, &request.to_string()])?;
    Ok(serde_json::from_str(&answer.stdout)?)
}

fn granted(device: &Device, wish: Value) -> Result<Value> {
    let answer = pcp(device, wish.clone())?;
    ensure!(answer["result"] == 0, "{wish} is answered by {answer}");
    Ok(answer)
}

fn refused(device: &Device, wish: Value, code: u8) -> Result<Value> {
    let answer = pcp(device, wish.clone())?;
    ensure!(
        answer["result"] == code,
        "{wish}: {code} expected, not {answer}"
    );
    Ok(answer)
}

fn natpmpc(device: &Device, words: &str) -> Result<String> {
    let words = ["natpmpc", "-g", GATEWAY4]
        .into_iter()
        .chain(words.split_whitespace());
    let words: Vec<&str> = words.collect();
    Ok(device.host.exec(words)?.stdout)
}

fn leases(world: &World) -> Result<Vec<Value>> {
    world.list("lease")
}

#[test]
fn devices_open_ports_and_the_internet_reaches_them() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-leases")?;
    let server = world.join("box", "--kind server")?;
    let laptop = world.join("laptop", "")?;
    let mut findings = Findings::default();
    findings.check("NAT-PMP", by_nat_pmp(&world, &server));
    findings.check("PCP", by_pcp(&world, &server));
    findings.check("IPv6", by_pcp_in_ipv6(&world, &server));
    findings.check("filters", filters(&world, &server));
    findings.check("sets of ports", sets(&world, &server));
    findings.check("what is not given", not_given(&world, &server));
    findings.check("a service that comes later", suspended(&world, &server));
    findings.check("the end of a lease", ends(&world, &server));
    findings.check("who is not heard", not_heard(&world, &server, &laptop));
    findings.check("clients and demotion", demoted(&world, &server, &laptop));
    findings.conclude()
}

fn by_nat_pmp(world: &World, server: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let told = natpmpc(server, "")?;
    ensure!(
        told.contains(&format!("Public IP address : {PUBLIC4}")),
        "{told}"
    );
    let told = natpmpc(server, "-a 6000 6000 udp 3600")?;
    ensure!(
        told.contains("Mapped public port 6000 protocol UDP to local port 6000")
            && told.contains("time 3600"),
        "{told}"
    );
    let datagrams = udp(&server.host, at(server.ipv4, 6000))?;
    let from = udp(&internet, at(INTERNET4, 7000))?;
    let seen = exchange(&from, at(PUBLIC4, 6000), &datagrams, "hello")?;
    ensure!(seen == at(INTERNET4, 7000), "the device sees {seen}");
    let lease = world.find("lease", &json!({"mechanism": "nat-pmp"}))?;
    ensure!(
        lease["external"] == format!("{PUBLIC4}:6000")
            && lease["internal"] == format!("{}:6000", server.ipv4)
            && lease["expires_in"]
                .as_u64()
                .is_some_and(|left| (3500..=3600).contains(&left)),
        "{lease}"
    );
    let forward = world.find("forward", &json!({"origin": "lease"}))?;
    ensure!(
        forward["port"] == 6000 && forward["protocols"] == json!(["udp"]),
        "{forward}"
    );
    let id = &forward["id"];
    let refused = world.refused(&format!("forward remove {id}"))?;
    ensure!(
        refused.code == "is-lease" && refused.hint.contains(&format!("lease remove {id}")),
        "{refused:?}"
    );
    let refused = world.refused("forward add 6000/udp laptop")?;
    ensure!(refused.code == "port-leased", "{refused:?}");
    natpmpc(server, "-a 6000 6000 udp 0")?;
    ensure!(leases(world)?.is_empty(), "it is still there");
    Ok(())
}

fn by_pcp(world: &World, server: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let wish = json!({"internal": 8080, "external": 8080});
    let first = granted(server, wish.clone())?;
    ensure!(
        first["external"] == 8080
            && first["address"] == PUBLIC4.to_string()
            && first["lifetime"] == 3600
            && first["from"] == GATEWAY4,
        "{first}"
    );
    let web = listen(&server.host, at(server.ipv4, 8080))?;
    let mut conversation = converse(&internet, None, at(PUBLIC4, 8080), &web)?;
    ensure!(
        conversation.seen.ip() == IpAddr::V4(INTERNET4),
        "the device sees {}",
        conversation.seen
    );
    let revision = world.revision()?;
    granted(server, wish)?;
    ensure!(world.revision()? == revision, "a renewal is written");
    let thief = json!({"internal": 8080, "nonce": "02".repeat(12)});
    let told = refused(server, thief, 2)?;
    ensure!(
        told["lifetime"].as_u64().is_some_and(|left| left > 3000),
        "{told}"
    );
    refused(
        server,
        json!({"internal": 8080, "nonce": "02".repeat(12), "lifetime": 0}),
        2,
    )?;
    let peer = json!({
        "opcode": "peer", "internal": 8080, "remote": [INTERNET4, 9], "external": 0,
    });
    let told = granted(server, peer)?;
    ensure!(told["external"] == 8080, "{told}");
    refused(server, json!({"internal": 8090, "protocol": 33}), 9)?;
    let outbound = world.id("lease", &json!({"opening": "outbound"}))?;
    world.adit(&format!("lease remove {outbound}"))?;
    granted(server, json!({"opcode": "announce", "lifetime": 0}))?;
    granted(server, json!({"internal": 8080, "lifetime": 0}))?;
    ensure!(conversation.is_cut()?, "a connection outlives its lease");
    ensure!(
        connect(&internet, None, at(PUBLIC4, 8080), SHORT).is_err(),
        "what is deleted still leads there"
    );
    Ok(())
}

fn by_pcp_in_ipv6(world: &World, server: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let inside = server.ipv6()?;
    let subnet = &world.list("subnet")?[0];
    let gateway = subnet["gateway_ipv6"].as_str().context("gateway_ipv6")?;
    let side = |internal: u16, external: u16| {
        json!({
            "server": gateway, "source": inside, "internal": internal, "external": external,
        })
    };
    let early = connect(&internet, Some(at(INTERNET6, 0)), at(inside, 8081), SHORT);
    ensure!(early.is_err(), "open without a lease");
    let own = granted(server, side(8081, 0))?;
    ensure!(
        own["external"] == 8081 && own["address"] == inside.to_string(),
        "{own}"
    );
    let web = listen(&server.host, at(inside, 8081))?;
    let conversation = converse(&internet, Some(at(INTERNET6, 0)), at(inside, 8081), &web)?;
    ensure!(
        conversation.seen.ip() == IpAddr::V6(INTERNET6),
        "the device sees {}",
        conversation.seen
    );
    let moved = granted(server, side(8082, 9082))?;
    ensure!(moved["external"] == 9082, "{moved}");
    let web = listen(&server.host, at(inside, 8082))?;
    converse(&internet, Some(at(INTERNET6, 0)), at(inside, 9082), &web)?;
    let pinhole = world.find("pinhole", &json!({"origin": "lease", "port": 8081}))?;
    let refused = world.refused(&format!("pinhole remove {}", pinhole["id"]))?;
    ensure!(refused.code == "is-lease", "{refused:?}");
    for (internal, external) in [(8081, 8081), (8082, 9082)] {
        let mut end = side(internal, external);
        end["lifetime"] = json!(0);
        granted(server, end)?;
        let late = connect(
            &internet,
            Some(at(INTERNET6, 0)),
            at(inside, external),
            SHORT,
        );
        ensure!(late.is_err(), "{external} is open after its lease");
    }
    Ok(())
}

/// An IPv4 network of a FILTER option (RFC 6887 section 13.3).
fn filter(address: &str, length: u8, port: u16) -> Value {
    let octets: String = address
        .split('.')
        .filter_map(|part| part.parse::<u8>().ok())
        .map(|octet| format!("{octet:02x}"))
        .collect();
    json!([
        3,
        format!(
            "00{:02x}{port:04x}{}ffff{octets}",
            96 + length,
            "00".repeat(10)
        )
    ])
}

fn filters(world: &World, server: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let stranger = world.host("stranger")?;
    let only = filter(&INTERNET4.to_string(), 32, 0);
    granted(
        server,
        json!({"internal": 8083, "external": 8083, "options": [only]}),
    )?;
    let web = listen(&server.host, at(server.ipv4, 8083))?;
    converse(&internet, None, at(PUBLIC4, 8083), &web)?;
    let other = connect(&stranger, None, at(PUBLIC4, 8083), SHORT);
    ensure!(other.is_err(), "a stranger passes the filter");
    let more = filter(&STRANGER4.to_string(), 31, 0);
    granted(server, json!({"internal": 8083, "options": [more]}))?;
    converse(&stranger, None, at(PUBLIC4, 8083), &web)?;
    converse(&internet, None, at(PUBLIC4, 8083), &web)?;
    granted(server, json!({"internal": 8083, "lifetime": 0}))?;
    Ok(())
}

fn sets(world: &World, server: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    // RFC 7753 section 4.1: size, first internal port, parity.
    let set = json!([130, format!("{:04x}{:04x}01", 4, 9001)]);
    let told = granted(
        server,
        json!({"internal": 9001, "external": 9101, "options": [set]}),
    )?;
    ensure!(told["external"] == 9101, "{told}");
    let web = listen(&server.host, at(server.ipv4, 9004))?;
    converse(&internet, None, at(PUBLIC4, 9104), &web)?;
    let lease = world.find("lease", &json!({"count": 4}))?;
    ensure!(lease["external"] == format!("{PUBLIC4}:9101"), "{lease}");
    granted(server, json!({"internal": 9001, "lifetime": 0}))?;
    ensure!(leases(world)?.is_empty(), "a set stays");
    Ok(())
}

fn not_given(world: &World, server: &Device) -> Result<()> {
    world.adit("forward add 8200/tcp laptop")?;
    let exact = json!([[2, ""]]);
    for port in [80, 443, 1023, 5351, 8200, 40000] {
        let wish = json!({"internal": 8200, "external": port});
        let told = granted(server, wish)?;
        ensure!(told["external"] != port, "{told}");
        let other = told["external"].as_u64().context("a port")?;
        ensure!(other >= 1024, "{told}");
        granted(server, json!({"internal": 8200, "lifetime": 0}))?;
    }
    for port in [80, 8200] {
        let wish = json!({"internal": 8201, "external": port, "options": exact});
        refused(server, wish, 11)?;
    }
    let all = json!({"internal": 0, "protocol": 6});
    refused(server, all, 9)?;
    let third = json!([[
        1,
        format!(
            "{}ffff{:02x}{:02x}{:02x}{:02x}",
            "00".repeat(10),
            10,
            59,
            0,
            3
        )
    ]]);
    refused(server, json!({"internal": 8202, "options": third}), 5)?;
    refused(
        server,
        json!({"internal": 8202, "client": "10.59.0.77"}),
        12,
    )?;
    world.adit("device set box --lease-quota 1")?;
    granted(server, json!({"internal": 8203}))?;
    refused(server, json!({"internal": 8204}), 10)?;
    world.adit("device set box --lease-quota 100 --auto-port-range 20000-20001")?;
    ensure!(
        leases(world)?.is_empty(),
        "a lease outside of the ranges stays"
    );
    let told = granted(server, json!({"internal": 8205, "external": 30000}))?;
    let given = told["external"].as_u64().context("a port")?;
    ensure!((20000..=20001).contains(&given), "{told}");
    world.adit("device set box --auto-port-range 1024-65535")?;
    granted(server, json!({"internal": 8205, "lifetime": 0}))?;
    Ok(())
}

fn suspended(world: &World, server: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let vps = world.host("vps")?;
    granted(server, json!({"internal": 8300, "external": 8300}))?;
    let web = listen(&server.host, at(server.ipv4, 8300))?;
    converse(&internet, None, at(PUBLIC4, 8300), &web)?;
    let service = listen(&vps, at(PUBLIC4, 8300))?;
    // Listeners send no event; the next look at the host sees them.
    let is_told = |code: &str| -> Result<bool> {
        let status = world.adit("status")?;
        let problems = status["problems"].as_array().context("problems")?;
        Ok(problems.iter().any(|problem| problem["code"] == code))
    };
    wait_until("the suspension", Duration::from_secs(90), || {
        is_told("lease-suspended")
    })?;
    converse(&internet, None, at(PUBLIC4, 8300), &service)?;
    let lease = world.find("lease", &json!({"device": "box"}))?;
    ensure!(lease["suspended_by"].is_string(), "{lease}");
    let id = lease["id"].clone();
    world.adit(&format!("lease remove {id}"))?;
    ensure!(leases(world)?.is_empty(), "a removed lease stays");
    Ok(())
}

fn ends(world: &World, server: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    world.adit("settings set lease-minimum 2")?;
    let told = granted(
        server,
        json!({"internal": 8400, "external": 8400, "lifetime": 2}),
    )?;
    // What is left when the answer goes out: writing takes its time.
    ensure!(told["lifetime"] == 2 || told["lifetime"] == 1, "{told}");
    let web = listen(&server.host, at(server.ipv4, 8400))?;
    let early = connect(&internet, None, at(PUBLIC4, 8400), SHORT);
    wait_until("the end of a lease", SOON, || Ok(leases(world)?.is_empty()))?;
    let late = connect(&internet, None, at(PUBLIC4, 8400), SHORT);
    ensure!(
        early.is_ok() && late.is_err(),
        "before and after: {early:?}, {late:?}"
    );
    drop(web);
    world.adit("settings set lease-minimum 120")?;
    let told = granted(server, json!({"internal": 8400, "lifetime": 2}))?;
    // What was freed a moment ago is kept for who had it.
    ensure!(
        told["lifetime"] == 120 && told["external"] == 8400,
        "{told}"
    );
    granted(server, json!({"internal": 8400, "lifetime": 0}))?;
    Ok(())
}

fn not_heard(world: &World, server: &Device, laptop: &Device) -> Result<()> {
    let internet = world.host("internet")?;
    let ask = |host: &adit_lab::Host, source: String, server: String| -> Result<Value> {
        let request = json!({
            "server": server, "source": source, "protocol": 6, "internal": 8500, "timeout": 1,
        });
        let answer = host.exec(["python3", "-c", CLIENT, &request.to_string()])?;
        Ok(serde_json::from_str(&answer.stdout)?)
    };
    let told = ask(&internet, INTERNET4.to_string(), PUBLIC4.to_string())?;
    ensure!(told["silence"].is_string(), "the Internet is told {told}");
    // Another's address does not come through WireGuard.
    let (interface, address) = (&laptop.interface, server.ipv4.to_string());
    let prefix = format!("{address}/32");
    laptop
        .host
        .exec(["ip", "address", "add", &prefix, "dev", interface])?;
    let told = ask(&laptop.host, address.clone(), GATEWAY4.to_owned());
    laptop
        .host
        .exec(["ip", "address", "del", &prefix, "dev", interface])?;
    let told = told?;
    ensure!(
        told["silence"].is_string(),
        "a stolen address is told {told}"
    );
    ensure!(leases(world)?.is_empty(), "somebody was heard");
    Ok(())
}

fn demoted(world: &World, server: &Device, laptop: &Device) -> Result<()> {
    refused(laptop, json!({"internal": 8600}), 2)?;
    world.adit("device set laptop --auto-ports on")?;
    granted(laptop, json!({"internal": 8600}))?;
    // Of what a device gives up no more than its quota is kept for it.
    world.adit("device set box --lease-quota 1")?;
    let given_up = json!({"internal": 8602, "external": 8602, "options": [[2, ""]]});
    granted(server, given_up.clone())?;
    granted(server, json!({"internal": 8602, "lifetime": 0}))?;
    refused(laptop, given_up.clone(), 11)?;
    granted(server, json!({"internal": 8603}))?;
    granted(server, json!({"internal": 8603, "lifetime": 0}))?;
    granted(laptop, given_up)?;
    granted(laptop, json!({"internal": 8602, "lifetime": 0}))?;
    granted(server, json!({"internal": 8601}))?;
    let before = world.revision()?;
    world.adit("device set box --kind client")?;
    ensure!(
        world.revision()? == before + 1,
        "it is more than one revision"
    );
    let left = leases(world)?;
    ensure!(
        left.len() == 1 && left[0]["device"] == "laptop",
        "after the demotion there are {left:?}"
    );
    refused(server, json!({"internal": 8601}), 2)?;
    world.adit("device set laptop --auto-ports off")?;
    ensure!(leases(world)?.is_empty(), "a lease without a right to it");
    world.adit("device set box --kind server")?;
    granted(server, json!({"internal": 8601}))?;
    world.adit("device set box --disable")?;
    ensure!(leases(world)?.is_empty(), "a disabled device has a lease");
    Ok(())
}

/// What a device sends from a port of its own has the port that it asked for outwards, and nobody comes in by it.
#[test]
fn outbound_ports_are_kept() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-leases-peer")?;
    let server = world.join("box", "--kind server")?;
    let internet = world.host("internet")?;
    let stranger = world.host("stranger")?;
    let peer = json!({
        "opcode": "peer", "protocol": 17, "internal": 7400, "external": 7444,
        "remote": [INTERNET4, 9000],
    });
    let told = granted(&server, peer.clone())?;
    ensure!(told["external"] == 7444, "{told}");
    let far = udp(&internet, at(INTERNET4, 9000))?;
    let own = udp(&server.host, at(server.ipv4, 7400))?;
    let seen = exchange(&own, at(INTERNET4, 9000), &far, "out")?;
    ensure!(seen == at(PUBLIC4, 7444), "seen as {seen}");
    let watch = Capture::start(&server.host, &server.interface, "udp and dst port 7400")?;
    let other = udp(&stranger, at(STRANGER4, 7000))?;
    send(&other, at(PUBLIC4, 7444), "in")?;
    let seen = exchange(&own, at(INTERNET4, 9000), &far, "out again")?;
    ensure!(seen == at(PUBLIC4, 7444), "then seen as {seen}");
    ensure!(
        watch.count(&format!("{STRANGER4}.7000"))? == 0,
        "a stranger comes in by an outbound port"
    );
    granted(&server, peer)?;
    // Opened as well, it has the same port, and what goes out by it is as before.
    let map = json!({"protocol": 17, "internal": 7400, "external": 7555});
    let told = granted(&server, map.clone())?;
    ensure!(told["external"] == 7444, "{told}");
    send(&other, at(PUBLIC4, 7444), "in")?;
    receive(&own, "in")?;
    let seen = exchange(&own, at(INTERNET4, 9000), &far, "out beside it")?;
    ensure!(seen == at(PUBLIC4, 7444), "beside it seen as {seen}");
    let mut end = map;
    end["lifetime"] = json!(0);
    granted(&server, end)?;
    send(&other, at(PUBLIC4, 7444), "in no more")?;
    let seen = exchange(&own, at(INTERNET4, 9000), &far, "out after it")?;
    ensure!(seen == at(PUBLIC4, 7444), "after it seen as {seen}");
    ensure!(
        watch.count(&format!("{STRANGER4}.7000"))? == 1,
        "what was opened stays open for a stranger"
    );
    Ok(())
}
