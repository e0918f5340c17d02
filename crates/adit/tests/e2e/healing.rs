//! What others do to the host, and what the gateway leaves alone, puts back, withdraws and outlives.

use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use adit_lab::topology::{End, Link};
use adit_lab::{Host, Lab, Topology, wait_until};
use anyhow::{Context as _, Result, ensure};

use crate::support::{
    Device, FILLED_BY_PACKETS, Findings, INTERNET4, INTERNET6, PUBLIC4, Snapshot, Stream, World,
    at, binary, connect, converse, exchange, listen, receive, send, udp,
};

/// Three lifetimes of 12 s: a gateway that no longer accepts advertisements has lost its default route by then.
#[test]
fn the_default_route_outlives_three_lifetimes_of_its_advertisement() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-ra")?;
    let vps = world.host("vps")?;
    let value = |key: &str| -> Result<String> {
        Ok(vps.exec(["sysctl", "-n", key])?.stdout.trim().to_owned())
    };
    ensure!(value("net.ipv6.conf.all.forwarding")? == "1");
    ensure!(
        value("net.ipv6.conf.eth0.accept_ra")? == "2",
        "accept_ra is {}",
        value("net.ipv6.conf.eth0.accept_ra")?
    );
    let laptop = world.join("laptop", "")?;
    let end = Instant::now() + Duration::from_secs(38);
    while Instant::now() < end {
        let routes = vps.exec(["ip", "-6", "route", "show", "default", "proto", "ra"])?;
        ensure!(
            !routes.stdout.is_empty(),
            "the default route is gone {:?} before the end",
            end - Instant::now()
        );
        thread::sleep(Duration::from_millis(500));
    }
    let far = udp(&world.host("internet")?, at(INTERNET6, 7000))?;
    let near = udp(&laptop.host, at(laptop.ipv6()?, 6000))?;
    exchange(&near, at(INTERNET6, 7000), &far, "still there")?;
    Ok(())
}

#[test]
fn what_others_remove_comes_back() -> Result<()> {
    let world = World::with_subnet("on-link", "e2e-healing")?;
    let server = world.join("box", "--kind server")?;
    world.adit("forward add 80 box")?;
    world.adit("pinhole add box 80")?;
    let mut findings = Findings::default();
    findings.check("a flushed ruleset", flushed(&world, &server));
    findings.check("what slips in", slips_in(&world, &server));
    findings.check("single objects", single_objects(&world, &server));
    findings.conclude()
}

pub(crate) fn healed(world: &World) -> Result<u64> {
    let status = world.adit("status")?;
    let healed = status["healed"].as_object();
    let healed = healed.with_context(|| format!("adit status --json: healed in {status}"))?;
    Ok(healed.values().filter_map(serde_json::Value::as_u64).sum())
}

/// [`flushed`] by itself.
pub(crate) fn a_flush(topology: &str) -> Result<()> {
    let world = World::with_subnet(topology, "e2e-flush")?;
    let server = world.join("box", "--kind server")?;
    world.publish("box", "80")?;
    flushed(&world, &server)
}

fn flushed(world: &World, server: &Device) -> Result<()> {
    const TIMES: usize = 5;
    let vps = world.host("vps")?;
    let internet = world.host("internet")?;
    // Without what packets put there: the connections of each device.
    let table = || -> Result<String> {
        let listed = vps.try_exec(["nft", "-s", "list", "table", "inet", "adit"])?;
        let is_counted =
            |line: &&str| line.contains("elements = {") && line.contains("ct count over");
        let mut is_filled = false;
        let lines = listed.stdout.lines().filter(|line| {
            if line.ends_with(" {") {
                is_filled = FILLED_BY_PACKETS.iter().any(|it| line.contains(it));
            }
            !is_counted(line) && !is_filled
        });
        Ok(lines.collect::<Vec<_>>().join("\n"))
    };
    let before = table()?;
    let count = healed(world)?;
    let mut allowed = Vec::new();
    let outside6 = world.outside6(server);
    if let Some(outside6) = outside6 {
        let web = listen(&server.host, at(server.ipv6()?, 80))?;
        let far = listen(&internet, at(INTERNET6, 7902))?;
        let own = Some(at(server.ipv6()?, 0));
        allowed.push(converse(&internet, None, at(outside6, 80), &web)?);
        allowed.push(converse(&server.host, own, at(INTERNET6, 7902), &far)?);
    }
    let open = Stream::start(
        udp(&internet, at(INTERNET4, 7000))?,
        at(PUBLIC4, 80),
        udp(&server.host, at(server.ipv4, 80))?,
        Duration::from_millis(2),
        true,
    )?;
    // What is translated comes by nothing but a forward: only an untranslated address can be closed or open.
    let (from, closed) = match world.provided() {
        Some(_) => (at(INTERNET6, 7001), at(server.ipv6()?, 81)),
        None => (at(INTERNET4, 7001), at(server.ipv4, 81)),
    };
    let closed = Stream::start(
        udp(&internet, from)?,
        closed,
        udp(&server.host, closed)?,
        Duration::from_millis(2),
        false,
    )?;
    thread::sleep(Duration::from_millis(300));
    ensure!(closed.arrived() == 0, "the closed port is open");
    let mut times = Vec::new();
    let mut after_healing = 0;
    for _ in 0..TIMES {
        vps.exec(["nft", "flush", "ruleset"])?;
        let flushed = Instant::now();
        wait_until("the table is back", Duration::from_secs(3), || {
            Ok(table()? == before)
        })?;
        times.push(flushed.elapsed());
        // What had slipped in is on its way to the device still.
        thread::sleep(Duration::from_millis(200));
        let settled = closed.arrived();
        thread::sleep(Duration::from_millis(400));
        after_healing += closed.arrived() - settled;
    }
    for conversation in &mut allowed {
        // The far end speaks first: what a device began itself must find its way back without help.
        conversation.talk_backwards().context("an allowed flow")?;
    }
    let slipped = closed.stop()?;
    let slipped = slipped.sent as usize - slipped.lost.len();
    let tally = open.stop()?;
    times.sort();
    Findings::note(&format!(
        "{TIMES} times flushed: back after {times:?}; at 500/s {slipped} of a closed port slipped in, {} of an open one \
         were lost",
        tally.lost.len()
    ));
    // Beside other tests on few cores a look at the table alone may take longer than the healing.
    ensure!(
        times[0] < Duration::from_millis(100) && times[TIMES / 2] < Duration::from_secs(1),
        "the table is back after {times:?}"
    );
    // 500/s, for twice as long as the table was away.
    let away: Duration = times.iter().sum();
    ensure!(
        after_healing == 0,
        "{after_healing} packets of a closed port arrived although the table was back"
    );
    ensure!(
        tally.lost.len() < 100 + usize::try_from(away.as_millis())?,
        "{} of {} packets of an open port were lost",
        tally.lost.len(),
        tally.sent
    );
    wait_until("the count in adit status", Duration::from_secs(2), || {
        Ok(healed(world)? >= count + TIMES as u64)
    })
}

const TRACKING: &str = "table inet tracking {
  chain input { type filter hook input priority 5; ct state established accept; }
}
";

/// A flow that begins while there are no rules, and is answered, would pass as established ever after: connections are
/// tracked as long as somebody's rules ask for it.
fn slips_in(world: &World, server: &Device) -> Result<()> {
    let vps = world.host("vps")?;
    vps.exec_with_input(["nft", "-f", "-"], TRACKING)?;
    let address = server.ipv6()?;
    let outside = udp(&world.host("internet")?, at(INTERNET6, 0))?;
    let inside = udp(&server.host, at(address, 82))?;
    inside.set_read_timeout(Some(Duration::from_millis(50)))?;
    for _ in 0..20 {
        vps.exec(["nft", "delete", "table", "inet", "adit"])?;
        send(&outside, at(address, 82), "slips in")?;
        let slipped = receive(&inside, "slips in");
        if let Ok(source) = slipped {
            send(&inside, source, "answer")?;
        }
        wait_until("the table is back", Duration::from_secs(3), || {
            let table = vps.try_exec(["nft", "list", "table", "inet", "adit"])?;
            Ok(table.status.success())
        })?;
        if slipped.is_ok() && receive(&outside, "answer").is_ok() {
            thread::sleep(Duration::from_millis(300));
            send(&outside, at(address, 82), "afterwards")?;
            ensure!(
                receive(&inside, "afterwards").is_err(),
                "a flow that slipped in goes on when the table is back"
            );
            return Ok(());
        }
    }
    Findings::note("nothing slipped in while the table was away 20 times");
    Ok(())
}

fn single_objects(world: &World, server: &Device) -> Result<()> {
    let vps = world.host("vps")?;
    let interface = world.gateway.interface();
    let (ipv4, ipv6) = (server.ipv4.to_string(), server.ipv6()?.to_string());
    for (name, remove, show) in [
        (
            "a route",
            format!("ip route del {ipv4}/32 dev {interface}"),
            format!("ip route show {ipv4}/32"),
        ),
        (
            "an IPv6 route",
            format!("ip -6 route del {ipv6}/128 dev {interface}"),
            format!("ip -6 route show {ipv6}/128"),
        ),
        (
            "a proxy neighbour",
            format!("ip neigh del proxy {ipv6} dev eth0"),
            format!("ip -6 neigh show proxy {ipv6} dev eth0"),
        ),
        (
            "an address",
            format!("ip address del 10.59.0.1/32 dev {interface}"),
            format!("ip -o address show to 10.59.0.1 dev {interface}"),
        ),
        (
            "an element",
            "nft flush set inet adit pinholes".to_owned(),
            "nft list set inet adit pinholes".to_owned(),
        ),
        (
            "a chain's rules",
            "nft flush chain inet adit to_tunnel".to_owned(),
            "nft -s list chain inet adit to_tunnel".to_owned(),
        ),
    ] {
        comes_back(&vps, &remove, &show).with_context(|| name.to_owned())?;
    }
    let internet = world.host("internet")?;
    let web = listen(&server.host, at(server.ipv4, 80))?;
    converse(&internet, None, at(PUBLIC4, 80), &web)?;
    let web = listen(&server.host, at(server.ipv6()?, 80))?;
    converse(&internet, None, at(server.ipv6()?, 80), &web)?;
    Ok(())
}

fn comes_back(host: &Host, remove: &str, show: &str) -> Result<()> {
    let shown = || -> Result<String> { Ok(host.exec(show.split_whitespace())?.stdout) };
    let before = shown()?;
    ensure!(!before.is_empty(), "{show} shows nothing");
    host.exec(remove.split_whitespace())?;
    let removed = Instant::now();
    wait_until(&format!("{show} as before"), Duration::from_secs(4), || {
        Ok(shown()? == before)
    })?;
    let time = removed.elapsed();
    Findings::note(&format!("{remove}: back after {time:?}"));
    ensure!(
        time < Duration::from_secs(1),
        "{remove}: back after {time:?}"
    );
    Ok(())
}

/// Through the second of two uplinks, by rules of its own.
#[test]
fn a_subnet_leaves_by_another_uplink_than_the_default() -> Result<()> {
    let topology = Topology::by_name("routed")?.link(Link::between(
        End::new("edge", "vps2").addresses(&["203.0.113.241/28"]),
        End::new("vps", "eth1").addresses(&["203.0.113.242/28"]),
    ));
    let lab = Lab::temporary(&topology, "e2e-egress")?;
    let vps = lab.host("vps")?;
    vps.exec([
        "ip",
        "route",
        "add",
        "default",
        "via",
        "203.0.113.241",
        "metric",
        "200",
    ])?;
    let gateway = lab.start_gateway(binary())?;
    let world = World::of(gateway, lab);
    world.adit("subnet add second --ipv4 10.59.0.0/24 --egress eth1")?;
    let laptop = world.join("laptop", "")?;
    let far = udp(&world.host("internet")?, at(INTERNET4, 7000))?;
    let leaves = || -> Result<()> {
        let near = udp(&laptop.host, at(laptop.ipv4, 0))?;
        let seen = exchange(&near, at(INTERNET4, 7000), &far, "by the second uplink")?;
        ensure!(
            seen.ip().to_string() == "203.0.113.242",
            "the Internet sees {seen}"
        );
        Ok(())
    };
    leaves()?;
    let rules = vps.exec(["ip", "rule", "show"])?.stdout;
    let priority = rules
        .lines()
        .filter_map(|line| line.split(':').next())
        .find(|priority| priority.starts_with("42"))
        .with_context(|| format!("no rule of ours: {rules}"))?;
    comes_back(
        &vps,
        &format!("ip rule del priority {priority}"),
        "ip rule show",
    )?;
    leaves()?;

    // The provider drops what leaves by one link with the address of the other (BCP 38).
    let edge = world.host("edge")?;
    edge.exec_with_input(
        ["nft", "-f", "-"],
        "table ip bcp38 {
          chain forward {
            type filter hook forward priority 0
            iifname vps ip saddr 203.0.113.242 drop
            iifname vps2 ip saddr 203.0.113.2 drop
          }
        }",
    )?;
    let internet = world.host("internet")?;
    let web = listen(&laptop.host, at(laptop.ipv4, 80))?;
    for public in ["203.0.113.2", "203.0.113.242"] {
        world.adit(&format!("forward add {public}:80/tcp laptop"))?;
        let public: IpAddr = public.parse()?;
        let conversation = converse(&internet, None, at(public, 80), &web)
            .with_context(|| format!("a reply goes back by the uplink of {public}"))?;
        ensure!(conversation.seen.ip() == IpAddr::V4(INTERNET4));
    }
    Ok(())
}

#[test]
fn a_tunnel_interface_that_was_renamed_is_found_again() -> Result<()> {
    let mut world = World::with_subnet("routed", "e2e-renamed")?;
    let vps = world.host("vps")?;
    world.gateway.terminate()?;
    let old = world.gateway.interface().to_owned();
    let links = || -> Result<String> { Ok(vps.exec(["ip", "-br", "link"])?.stdout) };
    ensure!(
        links()?.contains(&old),
        "it outlives the daemon: {}",
        links()?
    );
    vps.exec([
        binary().as_os_str(),
        "gateway".as_ref(),
        "teardown".as_ref(),
        "--state-dir".as_ref(),
        world.gateway.state_dir().as_os_str(),
        "--runtime-dir".as_ref(),
        world.gateway.runtime_dir().as_os_str(),
        "--interface".as_ref(),
        "another0".as_ref(),
    ])?;
    ensure!(!links()?.contains(&old), "left behind: {}", links()?);
    Ok(())
}

const FOREIGN: &str = "table ip foreign {
  set friends { type ipv4_addr; flags interval; elements = { 192.0.2.0/28 }; }
  chain input { type filter hook input priority 5; ip saddr @friends counter accept; }
}
table inet foreign {
  chain forward { type filter hook forward priority 10; accept; }
}
table ip6 foreign {
  chain postrouting { type nat hook postrouting priority 200; }
}
";

#[test]
fn objects_of_others_stay_and_teardown_leaves_nothing() -> Result<()> {
    let lab = Lab::temporary(&Topology::by_name("on-link")?, "e2e-others")?;
    let vps = lab.host("vps")?;
    vps.exec_with_input(["nft", "-f", "-"], FOREIGN)?;
    for command in [
        "ip route add 198.18.5.0/24 via 203.0.113.1 proto 99",
        "ip route add 198.18.6.0/24 via 203.0.113.1 table 4201",
        "ip -6 route add 2001:db8:1:0:ffff::/80 via 2001:db8:1::1",
        "ip rule add from 192.0.2.98 lookup 4201 priority 4250",
        "ip rule add from 192.0.2.99 lookup 100 priority 5000",
        "ip neigh add proxy 2001:db8:1::77 dev eth0",
        "sysctl -q net.ipv4.conf.eth0.log_martians=1",
        "sysctl -q net.ipv6.neigh.eth0.proxy_delay=33",
    ] {
        vps.exec(command.split_whitespace())?;
    }
    // The routing tables of the kernel know an address that was used once.
    vps.exec(["ping", "-c1", "-W2", &INTERNET4.to_string()])?;
    vps.exec(["ping", "-c1", "-W2", &INTERNET6.to_string()])?;
    let interface = lab.gateway(binary())?.interface().to_owned();
    let before = Snapshot::of_others(&vps, &interface)?;
    let everything = Snapshot::of_all(&vps)?;

    let gateway = lab.start_gateway(binary())?;
    let mut world = World::of(gateway, lab);
    world.adit("subnet add lan --ipv4 10.59.0.0/24 --ipv6 2001:db8:1::/64")?;
    world.adit("subnet add other --ipv4 10.60.0.0/24")?;
    let server = world.join(
        "box",
        "--kind server --subnet lan --delegate 80 --delegate 192.168.77.0/24",
    )?;
    world.adit("forward add 80 box")?;
    world.adit("pinhole add box 80")?;
    world.adit("forward add 5000-5010/udp box")?;
    world.adit("subnet set lan --peers off --host-access on")?;
    let web = listen(&server.host, at(server.ipv4, 80))?;
    converse(&world.host("internet")?, None, at(PUBLIC4, 80), &web)?;
    let during = Snapshot::of_others(&vps, &interface)?.without_sysctls();
    before.ensure_same(&during).context("while it runs")?;
    world.adit("device remove box")?;
    world.adit("subnet remove other")?;
    let during = Snapshot::of_others(&vps, &interface)?.without_sysctls();
    before.ensure_same(&during).context("after removals")?;

    let status = world.gateway.terminate()?;
    ensure!(
        status.is_some_and(|status| status.code() == Some(0)),
        "SIGTERM ended it with {status:?}"
    );
    world.gateway.teardown().context("teardown")?;
    everything
        .ensure_same(&Snapshot::of_all(&vps)?)
        .context("after teardown")?;
    ensure!(
        !Path::new("/var/run/wireguard")
            .join(format!("{interface}.sock"))
            .exists(),
        "the userspace WireGuard is still there"
    );
    world.gateway.teardown().context("the second teardown")?;
    everything
        .ensure_same(&Snapshot::of_all(&vps)?)
        .context("after the second teardown")?;

    // And it can come back from there, with all that was decided.
    world.gateway.start()?;
    ensure!(world.list("subnet")?.len() == 1);
    let refused = world.gateway.teardown();
    ensure!(
        refused.is_err_and(|error| format!("{error:#}").contains("stop it first")),
        "teardown beside a running daemon, which would put all of it back"
    );
    world.gateway.kill()?;
    world.gateway.teardown()?;
    everything
        .ensure_same(&Snapshot::of_all(&vps)?)
        .context("after a crash and teardown")
}

#[test]
fn packets_do_not_notice_that_the_daemon_ends() -> Result<()> {
    let mut world = World::with_subnet("routed", "e2e-restart")?;
    let server = world.join("box", "--kind server")?;
    let laptop = world.join("laptop", "")?;
    world.adit("forward add 80 box")?;
    world.adit("pinhole add box 80")?;
    let internet = world.host("internet")?;
    let web4 = listen(&server.host, at(server.ipv4, 80))?;
    let web6 = listen(&server.host, at(server.ipv6()?, 80))?;
    let far = listen(&internet, at(INTERNET4, 7900))?;
    let mut conversations = [
        converse(&internet, None, at(PUBLIC4, 80), &web4)?,
        converse(&internet, None, at(server.ipv6()?, 80), &web6)?,
        converse(&laptop.host, None, at(INTERNET4, 7900), &far)?,
    ];
    let mut all_talk = |when: &str| -> Result<()> {
        for conversation in &mut conversations {
            conversation.talk().with_context(|| when.to_owned())?;
        }
        Ok(())
    };
    let pace = Duration::from_millis(5);
    let stream4 = Stream::start(
        udp(&internet, at(INTERNET4, 7001))?,
        at(PUBLIC4, 80),
        udp(&server.host, at(server.ipv4, 80))?,
        pace,
        true,
    )?;
    let stream6 = Stream::start(
        udp(&internet, at(INTERNET6, 7001))?,
        at(server.ipv6()?, 80),
        udp(&server.host, at(server.ipv6()?, 80))?,
        pace,
        true,
    )?;
    let pause = || thread::sleep(Duration::from_millis(500));
    pause();
    let began = Instant::now();
    let status = world.gateway.terminate()?;
    Findings::note(&format!("SIGTERM took {:?}", began.elapsed()));
    ensure!(
        status.is_some_and(|status| status.code() == Some(0)),
        "SIGTERM ended it with {status:?}"
    );
    pause();
    all_talk("without the daemon")?;
    let fresh = converse(&internet, None, at(PUBLIC4, 80), &web4)?;
    ensure!(
        fresh.seen.ip() == IpAddr::V4(INTERNET4),
        "without the daemon the server sees {}",
        fresh.seen
    );
    let closed = connect(
        &internet,
        None,
        at(server.ipv6()?, 81),
        Duration::from_millis(500),
    );
    ensure!(closed.is_err(), "without the daemon a closed port is open");
    world.gateway.start()?;
    all_talk("after a start")?;
    pause();
    world.gateway.kill()?;
    pause();
    all_talk("after a crash")?;
    world.gateway.start()?;
    all_talk("after the start after a crash")?;
    world.adit("forward add 81 box")?;
    pause();
    for (name, stream) in [("IPv4", stream4), ("IPv6", stream6)] {
        let tally = stream.stop()?;
        Findings::note(&format!(
            "{name}: {} of {} lost",
            tally.lost.len(),
            tally.sent
        ));
        ensure!(
            tally.lost.is_empty(),
            "{name}: of {} packets these were lost: {:?}",
            tally.sent,
            tally.lost
        );
    }
    Ok(())
}
