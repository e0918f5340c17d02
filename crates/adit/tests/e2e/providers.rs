//! Every kind of provider that people rent a VPS from: the same tests in each topology, and what is peculiar to one.

use std::net::IpAddr;
use std::time::Duration;

use adit_lab::wait_until;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::{
    Findings, INTERNET4, INTERNET6, PUBLIC4, World, at, converse, exchange, is_soak, listen,
    oracle, udp,
};
use crate::{forward, healing, isolation, loss, mtu, reach, routing, silence};

type Test = fn(&str) -> Result<()>;

/// What holds on every VPS, whatever its provider gives it.
const SUITE: [(&str, Test); 9] = [
    ("reach", reach::reach),
    ("container", forward::container),
    ("forwards", forward::forwarding),
    ("routing", routing::each_routing),
    ("isolation", isolation::between_devices),
    ("healing", healing::a_flush),
    ("narrow paths", mtu::narrow_paths),
    ("silence", silence::nothing_is_said),
    ("loss", loss::nothing_is_lost),
];

/// In continuous integration the tests whose packets the provider makes a difference to.
const SAMPLE: usize = 2;

fn suite(topology: &str) -> Result<()> {
    let mut findings = Findings::default();
    let count = if is_soak() { SUITE.len() } else { SAMPLE };
    for (name, test) in SUITE.into_iter().take(count) {
        if (topology, name) == ("narrow", "loss") {
            Findings::note(
                "figure: narrow: no loss test, whose hundred devices have no room in it",
            );
            continue;
        }
        findings.check(name, test(topology));
    }
    Findings::note(&format!(
        "figure: {topology}: {count} of {} tests",
        SUITE.len()
    ));
    findings.conclude()
}

#[test]
fn a_narrow_prefix_on_the_uplink() -> Result<()> {
    suite("narrow")
}

#[test]
fn a_single_ipv6_address() -> Result<()> {
    suite("single")
}

#[test]
fn no_ipv6() -> Result<()> {
    suite("ipv4-only")
}

#[test]
fn one_to_one_nat() -> Result<()> {
    suite("one-to-one-nat")
}

#[test]
fn two_uplinks() -> Result<()> {
    suite("two-uplinks")
}

fn problems(world: &World) -> Result<Vec<Value>> {
    let status = world.adit("status")?;
    Ok(status["problems"].as_array().context("problems")?.clone())
}

fn codes(world: &World) -> Result<Vec<String>> {
    let problems = problems(world)?;
    let code = |problem: &Value| problem["code"].as_str().map(str::to_owned);
    Ok(problems.iter().filter_map(code).collect())
}

/// Nobody can see from inside what the Internet sees, so it is asked for; until it is told no endpoint is made up.
#[test]
fn the_advertised_address_is_asked_for_and_shown_everywhere() -> Result<()> {
    let world = World::start("one-to-one-nat", "e2e-advertised")?;
    world.adit("subnet add lan --ipv4 10.59.0.0/24 --ipv6 none")?;
    let asked = problems(&world)?;
    ensure!(
        asked.iter().any(|it| it["code"] == "advertised-unknown"
            && it["object"] == "uplink eth0"
            && it["fix"]
                .to_string()
                .contains("adit uplink set eth0 --advertised")),
        "{asked:?}"
    );
    let early = world.adit("device add early")?;
    let text = early["config"].as_str().context("config")?;
    ensure!(
        !text.contains("10.0.0.2") && early["next"].to_string().contains("--advertised"),
        "{early}"
    );

    world.adit(&format!("uplink set --advertised {PUBLIC4}"))?;
    ensure!(codes(&world)?.is_empty(), "{:?}", problems(&world)?);
    let shown = world.gateway.adit(["device", "config", "early"])?.stdout;
    ensure!(
        shown.contains(&format!("Endpoint = {PUBLIC4}:51820")) && !shown.contains("10.0.0.2"),
        "{shown}"
    );
    let server = world.join("box", "--kind server")?;
    let internet = world.host("internet")?;
    // Under the advertised address, the local one and none the same place is meant.
    for (number, (address, port)) in [("203.0.113.2:", 81), ("10.0.0.2:", 82), ("", 83)]
        .into_iter()
        .enumerate()
    {
        world.adit(&format!("forward add {address}{port} box"))?;
        let forward = world.find("forward", &json!({"port": port}))?;
        ensure!(
            forward["address"] == PUBLIC4.to_string()
                && forward["addresses"] == json!([PUBLIC4.to_string()]),
            "{forward}"
        );
        for other in ["203.0.113.2:", "10.0.0.2:", ""] {
            let refused = world.refused(&format!("forward add {other}{port} early"))?;
            ensure!(refused.code == "port-taken", "{refused:?}");
        }
        let web = listen(&server.host, at(server.ipv4, port))?;
        let seen = converse(&internet, None, at(PUBLIC4, port), &web)?.seen;
        ensure!(seen.ip() == IpAddr::V4(INTERNET4), "{number}: {seen}");
    }
    let uplink = world.find("uplink", &json!({"name": "eth0"}))?;
    ensure!(
        uplink["local"] == "10.0.0.2" && uplink["advertised"] == PUBLIC4.to_string(),
        "{uplink}"
    );
    let mapped = world
        .host("vps")?
        .exec(["nft", "list", "map", "inet", "adit", "forwards4"])?;
    ensure!(mapped.stdout.contains("10.0.0.2 . tcp . 81"), "{mapped}");
    Ok(())
}

/// All that such a VPS can do it does: nothing is wrong, and what could not be had is told apart from that.
#[test]
fn without_ipv6_nothing_is_wrong_and_status_says_what_is_missing() -> Result<()> {
    let world = World::with_subnet("ipv4-only", "e2e-no-ipv6")?;
    world.join("laptop", "")?;
    let told = problems(&world)?;
    ensure!(
        told.len() == 1 && told[0]["code"] == "no-ipv6" && told[0]["severity"] == "notice",
        "{told:?}"
    );
    world.gateway.adit(["status", "--check"])?;
    let text = world.gateway.adit(["status"])?.stdout;
    ensure!(
        text.contains("Nothing is wrong.") && text.contains("no way to the IPv6 Internet"),
        "{text}"
    );
    let refused = world.refused("subnet set lan --ipv6 2001:db8:1::/64")?;
    ensure!(refused.code == "no-ipv6-default-route", "{refused:?}");
    world.adit("subnet set lan --ipv6 none")?;
    ensure!(codes(&world)?.is_empty(), "{:?}", problems(&world)?);
    Ok(())
}

/// The VPS's own address is the one that the gateway would have in the tunnel: it is the gateway's there, too.
#[test]
fn a_narrow_prefix_in_which_the_vps_has_the_gateways_address() -> Result<()> {
    let world = World::with_subnet("narrow", "e2e-narrow-own")?;
    ensure!(codes(&world)?.is_empty(), "{:?}", problems(&world)?);
    let subnet = world.find("subnet", &json!({"name": "lan"}))?;
    ensure!(
        subnet["effective_delivery"] == "on-link" && subnet["gateway_ipv6"] == "2001:db8:1::f001",
        "{subnet}"
    );
    let laptop = world.join("laptop", "")?;
    laptop
        .host
        .exec(["ping", "-c1", "-W3", "2001:db8:1::f001"])?;
    world
        .host("internet")?
        .exec(["ping", "-c1", "-W3", "2001:db8:1::f001"])?;
    for number in 0..13 {
        world.adit(&format!("device add device{number}"))?;
    }
    let refused = world.refused("device add one-too-many")?;
    ensure!(refused.code == "addresses-exhausted", "{refused:?}");
    wait_until("all agrees", Duration::from_secs(5), || {
        oracle::check(&world)?;
        Ok(true)
    })?;
    let far = udp(&world.host("internet")?, at(INTERNET6, 7000))?;
    let near = udp(&laptop.host, at(laptop.ipv6()?, 6000))?;
    exchange(&near, at(INTERNET6, 7000), &far, "out")?;
    Ok(())
}

fn until_told(world: &World, code: &str, object: &str) -> Result<Value> {
    let mut found = Value::Null;
    let what = format!("{code} in adit status");
    wait_until(&what, Duration::from_secs(30), || {
        let problems = problems(world)?;
        let problem = problems
            .iter()
            .find(|it| it["code"] == code && it["object"] == object);
        found = problem.with_context(|| format!("{problems:?}"))?.clone();
        Ok(true)
    })?;
    Ok(found)
}

fn proven(world: &World, subnet: &str) -> Result<Value> {
    let subnet = world.find("subnet", &json!({ "name": subnet }))?;
    Ok(subnet["proven_delivery"].clone())
}

fn until_proven(world: &World, subnet: &str, expected: &str) -> Result<()> {
    let what = format!("{subnet} is proven to be {expected}");
    wait_until(&what, Duration::from_secs(10), || {
        let found = proven(world, subnet)?;
        ensure!(found == expected, "{found}");
        Ok(true)
    })
}

/// A provider that says routed and asks by Neighbor Discovery; what it says is believed until a packet shows otherwise.
#[test]
fn a_prefix_that_is_asked_for_although_it_was_called_routed() -> Result<()> {
    let world = World::start("partly-routed", "e2e-asked")?;
    world.adit("subnet add lan --ipv4 10.59.0.0/24 --ipv6 2001:db8:100:1::/64")?;
    let server = world.join("box", "--kind server")?;
    world.adit("pinhole add box 80")?;
    let address = server.ipv6()?;
    ensure!(
        proven(&world, "lan")? == "unknown",
        "{}",
        proven(&world, "lan")?
    );
    ensure!(codes(&world)?.is_empty(), "{:?}", problems(&world)?);
    let internet = world.host("internet")?;
    let from = udp(&internet, at(INTERNET6, 7000))?;
    let inside = udp(&server.host, at(address, 80))?;
    ensure!(exchange(&from, at(address, 80), &inside, "lost").is_err());

    let problem = until_told(&world, "prefix-asked-for", "subnet lan")?;
    let fix = problem["fix"].as_str().unwrap_or_default();
    ensure!(
        fix.contains("`adit subnet set lan --delivery on-link`"),
        "{problem}"
    );
    ensure!(proven(&world, "lan")? == "on-link");
    world.adit("subnet set lan --delivery on-link")?;
    ensure!(codes(&world)?.is_empty(), "{:?}", problems(&world)?);
    wait_until("the fix has helped", Duration::from_secs(10), || {
        exchange(&from, at(address, 80), &inside, "arrives")?;
        Ok(true)
    })
}

/// A reserved /64 of which a /127 is routed: nothing proves it until a device has spoken, and IPv6 works beside it.
#[test]
fn a_prefix_of_which_only_a_part_is_routed() -> Result<()> {
    let world = World::start("partly-routed", "e2e-partly")?;
    world.adit("subnet add lan --ipv4 10.59.0.0/24 --ipv6 2001:db8:100::/64")?;
    let laptop = world.join("laptop", "")?;
    let far = udp(&world.host("internet")?, at(INTERNET6, 7000))?;
    let near = udp(&laptop.host, at(laptop.ipv6()?, 0))?;
    ensure!(exchange(&near, at(INTERNET6, 7000), &far, "no way back").is_err());
    std::thread::sleep(Duration::from_secs(13));
    ensure!(codes(&world)?.is_empty(), "{:?}", problems(&world)?);
    ensure!(
        proven(&world, "lan")? == "unknown",
        "{}",
        proven(&world, "lan")?
    );

    world
        .host("vps")?
        .exec(["ping", "-c1", "-W3", &INTERNET6.to_string()])?;
    let problem = until_told(&world, "prefix-unreached", "subnet lan")?;
    ensure!(
        problem["message"].to_string().contains("2001:db8:100::/64"),
        "{problem}"
    );
    ensure!(proven(&world, "lan")? == "none");
    // The provider mends it.
    for (host, hop) in [("router", "2001:db8:fffe::2"), ("edge", "2001:db8:1::2")] {
        let host = world.host(host)?;
        host.exec(["ip", "-6", "route", "add", "2001:db8:100::/64", "via", hop])?;
    }
    exchange(&near, at(INTERNET6, 7000), &far, "and back")?;
    until_proven(&world, "lan", "routed")?;
    ensure!(codes(&world)?.is_empty(), "{:?}", problems(&world)?);
    Ok(())
}

#[test]
fn what_packets_prove_of_a_healthy_prefix() -> Result<()> {
    for (topology, expected) in [
        ("routed", "routed"),
        ("on-link", "on-link"),
        ("narrow", "on-link"),
    ] {
        let world = World::with_subnet(topology, "e2e-proof")?;
        let laptop = world.join("laptop", "")?;
        ensure!(
            proven(&world, "lan")? == "unknown",
            "{topology}: {}",
            proven(&world, "lan")?
        );
        laptop
            .host
            .exec(["ping", "-c1", "-W3", &INTERNET6.to_string()])?;
        until_proven(&world, "lan", expected).context(topology)?;
        ensure!(
            codes(&world)?.is_empty(),
            "{topology}: {:?}",
            problems(&world)?
        );
    }
    let world = World::with_subnet("single", "e2e-proof")?;
    ensure!(proven(&world, "lan")?.is_null());
    Ok(())
}

/// Routes to devices need no address of the gateway's own.
#[test]
fn the_tunnel_interface_may_go_without_an_address() -> Result<()> {
    for topology in ["routed", "single"] {
        let world = World::with_subnet(topology, "e2e-bare")?;
        let server = world.join("box", "--kind server")?;
        let laptop = world.join("laptop", "")?;
        let vps = world.host("vps")?;
        let shown = || -> Result<String> {
            let interface = world.gateway.interface();
            Ok(vps
                .exec(["ip", "-o", "address", "show", "dev", interface])?
                .stdout)
        };
        ensure!(shown()?.contains("10.59.0.1/32"), "{}", shown()?);
        world.adit("subnet set lan --gateway-address off")?;
        ensure!(shown()?.is_empty(), "{}", shown()?);
        let ping = |device: &str| {
            world
                .host(device)?
                .try_exec(["ping", "-c1", "-W1", "10.59.0.1"])
        };
        ensure!(
            !ping("laptop")?.status.success(),
            "the gateway answers without an address"
        );

        world.publish("box", "80")?;
        let (inside4, inside6) = (at(server.ipv4, 80), at(server.ipv6()?, 80));
        let (web4, web6) = (
            listen(&server.host, inside4)?,
            listen(&server.host, inside6)?,
        );
        let outside6 = world.outside6(&server).context("IPv6")?;
        let internet = world.host("internet")?;
        for (from, device) in [
            ("the Internet", &internet),
            ("another", &laptop.host),
            ("itself", &server.host),
        ] {
            let what = || format!("{topology}: {from}");
            let bound = |address| (from == "itself").then_some(address);
            converse(device, bound(at(server.ipv4, 0)), at(PUBLIC4, 80), &web4)
                .with_context(what)?;
            if from != "itself" || world.provided().is_none() {
                let bound = bound(at(server.ipv6()?, 0));
                converse(device, bound, at(outside6, 80), &web6).with_context(what)?;
            }
        }
        for address in [INTERNET4.to_string(), INTERNET6.to_string()] {
            laptop.host.exec(["ping", "-c1", "-W3", &address])?;
        }
        oracle::check(&world)?;
        ensure!(codes(&world)?.is_empty(), "{:?}", problems(&world)?);
        world.adit("subnet set lan --gateway-address on")?;
        ensure!(
            ping("laptop")?.status.success(),
            "the gateway does not answer"
        );
    }
    Ok(())
}
